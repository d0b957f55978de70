#pragma once

#include <refine/backbones/detail/vit_blocks.hpp>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <fmt/format.h>
#include <torch/nn/modules/activation.h>

#include <cmath>
#include <limits>
#include <vector>

#include <refine/core/config.hpp>

namespace refine::backbones::detail {

REFINE_INLINE torch::nn::LayerNorm layer_norm(std::int64_t extent) {
  return torch::nn::LayerNorm(torch::nn::LayerNormOptions({extent}));
}

REFINE_INLINE ShiftedPatches::ShiftedPatches(const ViTExtents& extents) : extents_(extents) {
  reset();
}

REFINE_INLINE void ShiftedPatches::reset() {
  const std::int64_t length = 5 * extents_.channels * extents_.patch * extents_.patch;
  // Child 0 only rearranges in the authors' code, and has no weights.
  torch::nn::Sequential tokens;
  tokens->push_back("1", layer_norm(length));
  tokens->push_back("2", torch::nn::Linear(length, extents_.dim));
  to_patch_tokens_ = register_module("to_patch_tokens", tokens);
}

REFINE_INLINE at::Tensor ShiftedPatches::forward(const at::Tensor& images) {
  std::vector<at::Tensor> shifted = {images};
  for (const auto& [left, right, top, bottom] :
       {Shift{1, -1, 0, 0}, Shift{-1, 1, 0, 0}, Shift{0, 0, 1, -1}, Shift{0, 0, -1, 1}}) {
    shifted.push_back(at::constant_pad_nd(images, {left, right, top, bottom}));
  }
  const std::int64_t p = extents_.patch;
  const at::Tensor cut =
      at::cat(shifted, 1).unflatten(2, {extents_.height / p, p}).unflatten(4, {extents_.width / p, p});
  // N×C×rows×p×columns×p → N×(rows·columns)×(p·p·C)
  return to_patch_tokens_->forward(cut.permute({0, 2, 4, 3, 5, 1}).flatten(3).flatten(1, 2));
}

REFINE_INLINE LocalAttention::LocalAttention(const ViTExtents& extents) : extents_(extents) {
  reset();
}

REFINE_INLINE void LocalAttention::reset() {
  const std::int64_t inner = extents_.heads * extents_.head_width;
  const double scale = 1 / std::sqrt(static_cast<double>(extents_.head_width));
  temperature_ = register_parameter("temperature", at::full({}, scale).log());
  to_qkv_ = register_module("to_qkv",
                            torch::nn::Linear(torch::nn::LinearOptions(extents_.dim, 3 * inner).bias(false)));
  to_out_ = register_module(
      "to_out", torch::nn::Sequential(torch::nn::Linear(inner, extents_.dim), nn::Dropout(extents_.dropout)));
}

REFINE_INLINE at::Tensor LocalAttention::forward(const at::Tensor& x) {
  const auto parts = to_qkv_->forward(x).chunk(3, -1);
  const auto by_head = [&](const at::Tensor& part) {
    return part.unflatten(-1, {extents_.heads, extents_.head_width}).transpose(1, 2);
  };
  const at::Tensor query = by_head(parts[0]) * temperature_.exp();
  // `new_zeros` without options, so that no device is written into a trace.
  const at::Tensor mask = query.new_zeros({x.size(1), x.size(1)});
  mask.diagonal().fill_(-std::numeric_limits<double>::infinity());
  constexpr double scale = 1;  // the temperature has already scaled the query
  const at::Tensor attended =
      at::scaled_dot_product_attention(query, by_head(parts[1]), by_head(parts[2]), mask,
                                       /*dropout_p=*/0, /*is_causal=*/false, scale);
  return to_out_->forward(attended.transpose(1, 2).flatten(2));
}

REFINE_INLINE TokenMlp::TokenMlp(const ViTExtents& extents) : extents_(extents) {
  reset();
}

REFINE_INLINE void TokenMlp::reset() {
  net_ = register_module("net", torch::nn::Sequential(torch::nn::Linear(extents_.dim, extents_.mlp),
                                                      torch::nn::GELU(), nn::Dropout(extents_.dropout),
                                                      torch::nn::Linear(extents_.mlp, extents_.dim),
                                                      nn::Dropout(extents_.dropout)));
}

REFINE_INLINE TransformerLayer::TransformerLayer(const ViTExtents& extents) : extents_(extents) {
  reset();
}

REFINE_INLINE void TransformerLayer::reset() {
  attention_ = register_module("0", std::make_shared<Residual<LocalAttention>>(extents_));
  mlp_ = register_module("1", std::make_shared<Residual<TokenMlp>>(extents_));
}

REFINE_INLINE Transformer::Transformer(const ViTExtents& extents) : extents_(extents) {
  reset();
}

REFINE_INLINE void Transformer::reset() {
  torch::nn::Sequential layers;
  for (std::int64_t i = 0; i < extents_.depth; ++i) {
    layers->push_back(std::make_shared<TransformerLayer>(extents_));
  }
  layers_ = register_module("layers", layers);
}

REFINE_INLINE ViTModule::ViTModule(const ViTExtents& extents) : extents_(extents) {
  reset();
}

REFINE_INLINE void ViTModule::reset() {
  const std::int64_t patches = (extents_.height / extents_.patch) * (extents_.width / extents_.patch);
  to_patch_embedding_ = register_module("to_patch_embedding", std::make_shared<ShiftedPatches>(extents_));
  pos_embedding_ = register_parameter("pos_embedding", at::randn({1, patches + 1, extents_.dim}));
  cls_token_ = register_parameter("cls_token", at::randn({1, 1, extents_.dim}));
  dropout_ = register_module("dropout", nn::Dropout(extents_.dropout));
  transformer_ = register_module("transformer", std::make_shared<Transformer>(extents_));
  mlp_head_ = register_module(
      "mlp_head",
      torch::nn::Sequential(layer_norm(extents_.dim), torch::nn::Linear(extents_.dim, extents_.classes)));
}

REFINE_INLINE std::string ViTModule::code() const {
  return fmt::format("{} heads, dropout {}", extents_.heads, extents_.dropout);
}

REFINE_INLINE at::Tensor ViTModule::features(const at::Tensor& images) {
  const at::Tensor patches = to_patch_embedding_->forward(images);
  // Not `expand`, which would write the batch size into a trace.
  const at::Tensor first = cls_token_.expand_as(patches.narrow(1, 0, 1));
  const at::Tensor tokens = dropout_->forward(at::cat({first, patches}, 1) + pos_embedding_);
  return transformer_->forward(tokens).select(1, 0);
}

REFINE_INLINE at::Tensor ViTModule::forward(const at::Tensor& images) {
  return mlp_head_->forward(features(images));
}

}  // namespace refine::backbones::detail
