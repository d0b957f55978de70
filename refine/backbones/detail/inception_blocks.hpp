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

/// One convolution of an Inception-v3.
struct InceptionStep {
  const char* name;           ///< as in torchvision
  int out;                    ///< its channels in the published network, of width 32
  std::array<int, 2> kernel;  ///< height, width
  int stride = 1;
  bool padded = true;  ///< whether stride 1 keeps the size
};

/// Returns the number of channels in a network whose first convolution has `width` channels instead
/// of 32. Published numbers are multiples of 16, so an even width gives integers.
inline std::int64_t scale_channels(std::int64_t published, std::int64_t width) {
  return published * width / 32;
}

/// Convolution, BatchNorm, ReLU.
class InceptionConvolution : public torch::nn::Cloneable<InceptionConvolution>, public nn::Foldable {
 public:
  InceptionConvolution(std::int64_t in, const InceptionStep& step, std::int64_t width);

  REFINE_INLINE void reset() override;

  at::Tensor forward(const at::Tensor& x) { return nn::conv_bn(conv_, bn_, x).relu_(); }

  REFINE_INLINE void fold() override;

  std::int64_t out() const { return scale_channels(step_.out, width_); }

 private:
  std::int64_t in_;
  InceptionStep step_;
  std::int64_t width_;
  torch::nn::Conv2d conv_{nullptr};
  torch::nn::BatchNorm2d bn_{nullptr};
};

/// The pooling at the start of a path.
enum class InceptionPool {
  none,     ///< no pooling
  average,  ///< 3×3 of stride 1
  maximum,  ///< 3×3 of stride 2
};

/// One of the paths through a block: pooling, then the convolutions of `chain` in sequence, then
/// those of `fork`, if any, in parallel.
struct InceptionBranch {
  std::vector<InceptionStep> chain, fork = {};
  InceptionPool pool = InceptionPool::none;
};

/// The paths of one block, in the order in which their channels are concatenated.
using InceptionPlan = std::vector<InceptionBranch>;

/// Returns the plan of `Mixed_5b` to `Mixed_5d`.
/// \param pooled channels of the path with pooling
InceptionPlan inception_a(int pooled);

/// Returns the plan of `Mixed_6a`, which halves the sides.
InceptionPlan inception_b();

/// Returns the plan of `Mixed_6b` to `Mixed_6e`.
/// \param inner channels of the inner 7×1 and 1×7 convolutions
InceptionPlan inception_c(int inner);

/// Returns the plan of `Mixed_7a`, which halves the sides.
InceptionPlan inception_d();

/// Returns the plan of `Mixed_7b` and `Mixed_7c`.
InceptionPlan inception_e();

/// The paths of a plan in parallel; concatenates their channels.
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

  std::shared_ptr<InceptionConvolution> add_convolution(std::int64_t in, const InceptionStep& step);

  std::int64_t in_;
  InceptionPlan plan_;
  std::int64_t width_, out_ = 0;
  std::vector<Path> paths_;
};

}  // namespace refine::backbones::detail

#if !defined(REFINE_COMPILED_LIB)
#include <refine/backbones/impl/inception.ipp>
#endif
