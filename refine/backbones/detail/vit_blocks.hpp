#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/modules/normalization.h>

#include <cstdint>
#include <memory>
#include <string>

#include <refine/core/config.hpp>
#include <refine/nn/module.hpp>
#include <refine/nn/shared_batch.hpp>

namespace refine::backbones::detail {

/// The extents of a vision transformer, as in `ViT`.
struct ViTExtents {
  std::int64_t channels = 0, height = 0, width = 0;  ///< of an image
  std::int64_t classes = 0;
  std::int64_t patch = 0;  ///< side of a patch, in pixels
  std::int64_t dim = 0;    ///< length of a token
  std::int64_t depth = 0;  ///< number of attention layers
  std::int64_t heads = 0, head_width = 0;
  std::int64_t mlp = 0;  ///< length of the hidden layer after an attention
  double dropout = 0;
};

/// Returns a layer normalisation over the last dimension, of length `extent`.
torch::nn::LayerNorm layer_norm(std::int64_t extent);

/// Concatenates the images with four copies that are shifted by one pixel to the right, left,
/// bottom and top (zeros come in), cuts the result into patches and makes each one a token: N×C×H×W
/// → N×patches×dim.
///
/// This is what the authors' code does. Lee et al. (2021, `lee2021vit_small`) shift by half a
/// patch, diagonally.
class ShiftedPatches : public torch::nn::Cloneable<ShiftedPatches> {
 public:
  explicit ShiftedPatches(const ViTExtents& extents);

  REFINE_INLINE void reset() override;

  at::Tensor forward(const at::Tensor& images);

 private:
  struct Shift {
    std::int64_t left, right, top, bottom;
  };

  ViTExtents extents_;
  torch::nn::Sequential to_patch_tokens_{nullptr};
};

/// Attention (Vaswani et al., 2017, `vaswani2017attention`) with a learnt temperature, in which no
/// token attends to itself (`lee2021vit_small`).
class LocalAttention : public torch::nn::Cloneable<LocalAttention> {
 public:
  explicit LocalAttention(const ViTExtents& extents);

  REFINE_INLINE void reset() override;

  /// Returns tokens of the same shape.
  /// \param x N×tokens×dim
  at::Tensor forward(const at::Tensor& x);

 private:
  ViTExtents extents_;
  at::Tensor temperature_;
  torch::nn::Linear to_qkv_{nullptr};
  torch::nn::Sequential to_out_{nullptr};
};

/// Two linear layers with a GELU between them, applied to each token.
class TokenMlp : public torch::nn::Cloneable<TokenMlp> {
 public:
  explicit TokenMlp(const ViTExtents& extents);

  REFINE_INLINE void reset() override;

  at::Tensor forward(const at::Tensor& x) { return net_->forward(x); }

 private:
  ViTExtents extents_;
  torch::nn::Sequential net_{nullptr};
};

/// Computes x + fn(norm(x)).
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

/// One attention and the hidden layer after it.
class TransformerLayer : public torch::nn::Cloneable<TransformerLayer> {
 public:
  explicit TransformerLayer(const ViTExtents& extents);

  REFINE_INLINE void reset() override;

  at::Tensor forward(const at::Tensor& x) { return mlp_->forward(attention_->forward(x)); }

 private:
  ViTExtents extents_;
  std::shared_ptr<Residual<LocalAttention>> attention_;
  std::shared_ptr<Residual<TokenMlp>> mlp_;
};

/// The transformer's layers in sequence.
class Transformer : public torch::nn::Cloneable<Transformer> {
 public:
  explicit Transformer(const ViTExtents& extents);

  REFINE_INLINE void reset() override;

  at::Tensor forward(const at::Tensor& x) { return layers_->forward(x); }

 private:
  ViTExtents extents_;
  torch::nn::Sequential layers_{nullptr};
};

/// The module of `ViT`.
class ViTModule : public torch::nn::Cloneable<ViTModule>, public nn::OpaqueModule {
 public:
  explicit ViTModule(const ViTExtents& extents);

  REFINE_INLINE void reset() override;

  at::Tensor forward(const at::Tensor& images);

  /// Returns what the last layer takes, N×F.
  at::Tensor features(const at::Tensor& images);

  /// Returns the number of heads and the share of dropout.
  std::string code() const override;

 private:
  ViTExtents extents_;
  std::shared_ptr<ShiftedPatches> to_patch_embedding_;
  at::Tensor pos_embedding_, cls_token_;
  nn::Dropout dropout_{nullptr};
  std::shared_ptr<Transformer> transformer_;
  torch::nn::Sequential mlp_head_{nullptr};
};

}  // namespace refine::backbones::detail

#if !defined(REFINE_COMPILED_LIB)
#include <refine/backbones/impl/vit_blocks.ipp>
#endif
