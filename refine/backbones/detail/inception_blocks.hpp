#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include <refine/core/config.hpp>
#include <refine/nn/conv.hpp>
#include <refine/nn/fold.hpp>

namespace refine::backbones::detail {

/// One convolution of an Inception-v3, as published: its name, its channels at width 32, its kernel.
struct InceptionStep {
  const char* name;
  int out;
  std::array<int, 2> kernel;  ///< height, width
  int stride = 1;
  bool padded = true;  ///< so that stride 1 keeps the size
};

/// Channels of a network whose first convolution has `width` instead of 32. Published numbers are multiples
/// of 16, so an even width keeps every one whole.
inline std::int64_t scaled(std::int64_t published, std::int64_t width) {
  return published * width / 32;
}

/// Convolution, BatchNorm, ReLU.
class InceptionConvolution : public torch::nn::Cloneable<InceptionConvolution>, public nn::Foldable {
 public:
  InceptionConvolution(std::int64_t in, const InceptionStep& step, std::int64_t width);

  REFINE_INLINE void reset() override;

  at::Tensor forward(const at::Tensor& x) { return nn::conv_bn(conv_, bn_, x).relu_(); }

  REFINE_INLINE void fold() override;

  std::int64_t out() const { return scaled(step_.out, width_); }

 private:
  std::int64_t in_;
  InceptionStep step_;
  std::int64_t width_;
  torch::nn::Conv2d conv_{nullptr};
  torch::nn::BatchNorm2d bn_{nullptr};
};

/// What happens to a block's input first.
enum class InceptionPool {
  none,
  average,  ///< 3×3 of stride 1
  maximum,  ///< 3×3 of stride 2
};

/// One of the paths through a block: pooling, convolutions one after another, then, where there is a fork,
/// convolutions beside each other.
struct InceptionBranch {
  std::vector<InceptionStep> chain, fork = {};
  InceptionPool pool = InceptionPool::none;
};

/// The paths of one block, in the order in which their channels are put together.
using InceptionPlan = std::vector<InceptionBranch>;

InceptionPlan inception_a(int pooled);

/// Halves the sides.
InceptionPlan inception_b();

InceptionPlan inception_c(int inner);

/// Halves the sides.
InceptionPlan inception_d();

InceptionPlan inception_e();

/// The paths of a plan beside each other, their channels put together.
class InceptionBlock : public torch::nn::Cloneable<InceptionBlock> {
 public:
  InceptionBlock(std::int64_t in, InceptionPlan plan, std::int64_t width);

  REFINE_INLINE void reset() override;

  at::Tensor forward(const at::Tensor& x);

  std::int64_t out() const { return out_; }

 private:
  struct Path {
    InceptionPool pool = InceptionPool::none;
    std::vector<std::shared_ptr<InceptionConvolution>> chain, fork;
  };

  std::shared_ptr<InceptionConvolution> added(std::int64_t in, const InceptionStep& step);

  std::int64_t in_;
  InceptionPlan plan_;
  std::int64_t width_, out_ = 0;
  std::vector<Path> paths_;
};

}  // namespace refine::backbones::detail

#if !defined(REFINE_COMPILED_LIB)
#include <refine/backbones/impl/inception.ipp>
#endif
