#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/modules/normalization.h>

#include <cstdint>
#include <memory>

#include <refine/core/config.hpp>

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

torch::nn::LayerNorm layer_norm(std::int64_t extent);

/// Images beside themselves moved by one pixel to the right, left, bottom and top (zeros come in), cut into
/// patches, each of which becomes one token: N×C×H×W → N×patches×dim. (Lee et al., 2021, `lee2021vit_small`,
/// move by half a patch, diagonally; the reference as it is here.)
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

/// Attention (Vaswani et al., 2017, `vaswani2017attention`) with a learnt temperature, in which no token
/// looks at itself (`lee2021vit_small`).
class LocalAttention : public torch::nn::Cloneable<LocalAttention> {
 public:
  explicit LocalAttention(const ViTExtents& extents);

  REFINE_INLINE void reset() override;

  /// N×tokens×dim → the same.
  at::Tensor forward(const at::Tensor& x);

 private:
  ViTExtents extents_;
  at::Tensor temperature_;
  torch::nn::Linear to_qkv_{nullptr};
  torch::nn::Sequential to_out_{nullptr};
};

/// Two linear layers with a GELU between, on each token.
class TokenMlp : public torch::nn::Cloneable<TokenMlp> {
 public:
  explicit TokenMlp(const ViTExtents& extents);

  REFINE_INLINE void reset() override;

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
  explicit TransformerLayer(const ViTExtents& extents);

  REFINE_INLINE void reset() override;

  at::Tensor forward(const at::Tensor& x) { return mlp_->forward(attention_->forward(x)); }

 private:
  ViTExtents extents_;
  std::shared_ptr<Residual<LocalAttention>> attention_;
  std::shared_ptr<Residual<TokenMlp>> mlp_;
};

class Transformer : public torch::nn::Cloneable<Transformer> {
 public:
  explicit Transformer(const ViTExtents& extents);

  REFINE_INLINE void reset() override;

  at::Tensor forward(const at::Tensor& x) { return layers_->forward(x); }

 private:
  ViTExtents extents_;
  torch::nn::Sequential layers_{nullptr};
};

}  // namespace refine::backbones::detail

#if !defined(REFINE_COMPILED_LIB)
#include <refine/backbones/impl/vit_blocks.ipp>
#endif
