#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>

#include <array>
#include <cstdint>
#include <vector>

#include <refine/core/compiled.hpp>

namespace refine::backbones::detail {

/// The extents of a residual network with pre-activation.
struct PreActPlan {
  std::int64_t channels, classes, width;
  std::array<int, 4> blocks;  ///< in each stage
  bool last_norm;             ///< BatchNorm and ReLU behind the last stage
};

class PreActModule : public torch::nn::Cloneable<PreActModule> {
 public:
  explicit PreActModule(const PreActPlan& plan);

  REFINE_DEFINITION void reset() override;

  at::Tensor forward(const at::Tensor& images);

 private:
  PreActPlan plan_;
  torch::nn::Conv2d conv1_{nullptr};
  std::vector<torch::nn::Sequential> layers_;
  torch::nn::BatchNorm2d last_norm_{nullptr};
  torch::nn::Linear linear_{nullptr};
};

}  // namespace refine::backbones::detail

#if !defined(REFINE_COMPILED)
#include <refine/backbones/preact_definitions.hpp>
#endif
