#pragma once

// What vit.hpp declares.

#include <refine/backbones/vit.hpp>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/randn.h>
#include <torch/nn/modules/linear.h>

#include <cstdint>
#include <memory>

#include <refine/backbones/vit_blocks.hpp>
#include <refine/core/compiled.hpp>

namespace refine::backbones::detail {

REFINE_DEFINITION ViTModule::ViTModule(const ViTExtents& extents) : extents_(extents) {
  reset();
}

REFINE_DEFINITION void ViTModule::reset() {
  const std::int64_t patches = (extents_.height / extents_.patch) * (extents_.width / extents_.patch);
  to_patch_embedding_ = register_module("to_patch_embedding", std::make_shared<ShiftedPatches>(extents_));
  pos_embedding_ = register_parameter("pos_embedding", at::randn({1, patches + 1, extents_.dim}));
  cls_token_ = register_parameter("cls_token", at::randn({1, 1, extents_.dim}));
  dropout_ = register_module("dropout", torch::nn::Dropout(extents_.dropout));
  transformer_ = register_module("transformer", std::make_shared<Transformer>(extents_));
  mlp_head_ = register_module(
      "mlp_head",
      torch::nn::Sequential(layer_norm(extents_.dim), torch::nn::Linear(extents_.dim, extents_.classes)));
}

REFINE_DEFINITION at::Tensor ViTModule::forward(const at::Tensor& images) {
  const at::Tensor patches = to_patch_embedding_->forward(images);
  // `expand_as` and not `expand`, so that a trace has no batch size in it.
  const at::Tensor first = cls_token_.expand_as(patches.narrow(1, 0, 1));
  const at::Tensor tokens = dropout_->forward(at::cat({first, patches}, 1) + pos_embedding_);
  return mlp_head_->forward(transformer_->forward(tokens).select(1, 0));
}

}  // namespace refine::backbones::detail
