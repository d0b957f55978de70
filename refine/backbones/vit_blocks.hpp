#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/full.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/modules/activation.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/dropout.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/modules/normalization.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

namespace refine::backbones::detail {

/// The extents of a vision transformer.
struct ViTExtents {
  std::int64_t channels = 0, height = 0, width = 0;  ///< of an image
  std::int64_t classes = 0;
  std::int64_t patch = 0;  ///< pixels of a patch's side
  std::int64_t dim = 0;    ///< numbers of a token
  std::int64_t depth = 0;
  std::int64_t heads = 0, head_width = 0;
  std::int64_t mlp = 0;  ///< of the hidden layer after an attention
  double dropout = 0;
};

inline torch::nn::LayerNorm layer_norm(std::int64_t extent) {
  return torch::nn::LayerNorm(torch::nn::LayerNormOptions({extent}));
}

/// Images beside themselves moved by one pixel to the right, left, bottom and top (zeros come in), cut into
/// patches, each of which becomes one token: N×C×H×W → N×patches×dim. (Lee et al., 2021, `lee2021vit_small`,
/// move by half a patch, diagonally; the reference as it is here.)
class ShiftedPatches : public torch::nn::Cloneable<ShiftedPatches> {
 public:
  explicit ShiftedPatches(const ViTExtents& extents) : extents_(extents) { reset(); }

  void reset() override {
    const std::int64_t numbers = 5 * extents_.channels * extents_.patch * extents_.patch;
    // The reference's own first child only rearranges.
    torch::nn::Sequential tokens;
    tokens->push_back("1", layer_norm(numbers));
    tokens->push_back("2", torch::nn::Linear(numbers, extents_.dim));
    to_patch_tokens_ = register_module("to_patch_tokens", tokens);
  }

  at::Tensor forward(const at::Tensor& images) {
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

 private:
  struct Shift {
    std::int64_t left, right, top, bottom;
  };

  ViTExtents extents_;
  torch::nn::Sequential to_patch_tokens_{nullptr};
};

/// Attention (Vaswani et al., 2017, `vaswani2017attention`) with a learnt temperature, in which no token
/// looks at itself (`lee2021vit_small`).
class LocalAttention : public torch::nn::Cloneable<LocalAttention> {
 public:
  explicit LocalAttention(const ViTExtents& extents) : extents_(extents) { reset(); }

  void reset() override {
    const std::int64_t inner = extents_.heads * extents_.head_width;
    const double scale = 1 / std::sqrt(static_cast<double>(extents_.head_width));
    temperature_ = register_parameter("temperature", at::full({}, scale).log());
    to_qkv_ = register_module(
        "to_qkv", torch::nn::Linear(torch::nn::LinearOptions(extents_.dim, 3 * inner).bias(false)));
    to_out_ = register_module("to_out", torch::nn::Sequential(torch::nn::Linear(inner, extents_.dim),
                                                              torch::nn::Dropout(extents_.dropout)));
  }

  /// N×tokens×dim → the same.
  at::Tensor forward(const at::Tensor& x) {
    const auto parts = to_qkv_->forward(x).chunk(3, -1);
    const auto by_head = [&](const at::Tensor& part) {
      return part.unflatten(-1, {extents_.heads, extents_.head_width}).transpose(1, 2);
    };
    const at::Tensor query = by_head(parts[0]) * temperature_.exp();
    // Made from a tensor without options of its own, so that a trace has no device in it.
    const at::Tensor others = query.new_zeros({x.size(1), x.size(1)});
    others.diagonal().fill_(-std::numeric_limits<double>::infinity());
    constexpr double as_it_is = 1;  // the temperature has scaled the query
    const at::Tensor seen =
        at::scaled_dot_product_attention(query, by_head(parts[1]), by_head(parts[2]), others,
                                         /*dropout_p=*/0, /*is_causal=*/false, as_it_is);
    return to_out_->forward(seen.transpose(1, 2).flatten(2));
  }

 private:
  ViTExtents extents_;
  at::Tensor temperature_;
  torch::nn::Linear to_qkv_{nullptr};
  torch::nn::Sequential to_out_{nullptr};
};

/// Two linear layers with a GELU between, on each token.
class TokenMlp : public torch::nn::Cloneable<TokenMlp> {
 public:
  explicit TokenMlp(const ViTExtents& extents) : extents_(extents) { reset(); }

  void reset() override {
    net_ =
        register_module("net", torch::nn::Sequential(torch::nn::Linear(extents_.dim, extents_.mlp),
                                                     torch::nn::GELU(), torch::nn::Dropout(extents_.dropout),
                                                     torch::nn::Linear(extents_.mlp, extents_.dim),
                                                     torch::nn::Dropout(extents_.dropout)));
  }

  at::Tensor forward(const at::Tensor& x) { return net_->forward(x); }

 private:
  ViTExtents extents_;
  torch::nn::Sequential net_{nullptr};
};

/// x + fn(norm(x)).
template <typename Fn>
class Residual : public torch::nn::Cloneable<Residual<Fn>> {
 public:
  explicit Residual(const ViTExtents& extents) : extents_(extents) { reset(); }

  void reset() override {
    norm_ = this->register_module("norm", layer_norm(extents_.dim));
    fn_ = this->register_module("fn", std::make_shared<Fn>(extents_));
  }

  at::Tensor forward(const at::Tensor& x) { return fn_->forward(norm_->forward(x)) + x; }

 private:
  ViTExtents extents_;
  torch::nn::LayerNorm norm_{nullptr};
  std::shared_ptr<Fn> fn_;
};

/// One attention and what follows it.
class TransformerLayer : public torch::nn::Cloneable<TransformerLayer> {
 public:
  explicit TransformerLayer(const ViTExtents& extents) : extents_(extents) { reset(); }

  void reset() override {
    attention_ = register_module("0", std::make_shared<Residual<LocalAttention>>(extents_));
    mlp_ = register_module("1", std::make_shared<Residual<TokenMlp>>(extents_));
  }

  at::Tensor forward(const at::Tensor& x) { return mlp_->forward(attention_->forward(x)); }

 private:
  ViTExtents extents_;
  std::shared_ptr<Residual<LocalAttention>> attention_;
  std::shared_ptr<Residual<TokenMlp>> mlp_;
};

class Transformer : public torch::nn::Cloneable<Transformer> {
 public:
  explicit Transformer(const ViTExtents& extents) : extents_(extents) { reset(); }

  void reset() override {
    torch::nn::Sequential layers;
    for (std::int64_t i = 0; i < extents_.depth; ++i) {
      layers->push_back(std::make_shared<TransformerLayer>(extents_));
    }
    layers_ = register_module("layers", layers);
  }

  at::Tensor forward(const at::Tensor& x) { return layers_->forward(x); }

 private:
  ViTExtents extents_;
  torch::nn::Sequential layers_{nullptr};
};

}  // namespace refine::backbones::detail
