#pragma once

#include <ATen/TensorOperators.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>

#include <array>
#include <cstdint>
#include <vector>

#include <refine/backbones/fan_out.hpp>
#include <refine/backbones/form.hpp>
#include <refine/core/compiled.hpp>
#include <refine/nn/convolve_normed.hpp>
#include <refine/nn/foldable.hpp>

namespace refine::backbones::detail {

torch::nn::Conv2d plain_convolution(std::int64_t in, std::int64_t out, std::int64_t kernel,
                                    std::int64_t stride);

/// What a residual network is made of.
struct ResidualPlan {
  std::int64_t channels, classes, width;
  std::array<int, 4> blocks;  ///< in each stage
  bool bottleneck;            ///< 1×1, 3×3, 1×1 convolutions, the last four times as wide; else 3×3, 3×3
  Form form;

  std::int64_t expansion() const { return bottleneck ? 4 : 1; }
};

/// Convolutions around a shortcut (He et al., 2016, `he2016resnet`). Where a bottleneck strides, its 3×3
/// convolution does, as in the reference and in torchvision.
class ResidualBlock : public torch::nn::Cloneable<ResidualBlock>, public nn::Foldable {
 public:
  ResidualBlock(const ResidualPlan& plan, std::int64_t in, std::int64_t inner, std::int64_t stride);

  REFINE_DEFINITION void reset() override;

  at::Tensor forward(const at::Tensor& x);

  REFINE_DEFINITION void fold() override;

 private:
  torch::nn::Conv2d shortcut_convolution() const;

  at::Tensor shortened(const at::Tensor& x);

  void add(std::int64_t in, std::int64_t out, std::int64_t kernel, std::int64_t stride);

  const char* shortcut_name() const;

  ResidualPlan plan_;
  std::int64_t in_, inner_, stride_;
  std::vector<torch::nn::Conv2d> convolutions_;
  std::vector<torch::nn::BatchNorm2d> norms_;
  torch::nn::Sequential shortcut_{nullptr};
};

class ResidualModule : public torch::nn::Cloneable<ResidualModule>, public nn::Foldable {
 public:
  explicit ResidualModule(const ResidualPlan& plan);

  REFINE_DEFINITION void reset() override;

  at::Tensor forward(const at::Tensor& images);

  REFINE_DEFINITION void fold() override;

 private:
  ResidualPlan plan_;
  torch::nn::Conv2d conv1_{nullptr};
  torch::nn::BatchNorm2d bn1_{nullptr};
  std::vector<torch::nn::Sequential> layers_;
  torch::nn::Linear last_{nullptr};
};

}  // namespace refine::backbones::detail

#if !defined(REFINE_COMPILED)
#include <refine/backbones/residual_definitions.hpp>
#endif
