#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include <refine/backbones/detail/buildable.hpp>
#include <refine/core/config.hpp>
#include <refine/nn/fold.hpp>

namespace refine::backbones::detail {

/// What a residual network is made of.
struct ResidualPlan {
  std::int64_t channels, classes, width;
  std::array<int, 4> blocks;  ///< in each stage
  bool bottleneck;            ///< 1×1, 3×3, 1×1 convolutions, the last four times as wide; else 3×3, 3×3
  Variant variant;            ///< whose names and draws it has
  Stem stem;

  std::int64_t expansion() const { return bottleneck ? 4 : 1; }
};

/// \throws Error when no network here begins so
void require_stem(std::string_view network, const Stem& stem);

class ResidualModule : public torch::nn::Cloneable<ResidualModule>, public nn::Foldable {
 public:
  explicit ResidualModule(const ResidualPlan& plan);

  REFINE_INLINE void reset() override;

  at::Tensor forward(const at::Tensor& images);

  REFINE_INLINE void fold() override;

 private:
  ResidualPlan plan_;
  torch::nn::Conv2d conv1_{nullptr};
  torch::nn::BatchNorm2d bn1_{nullptr};
  std::vector<torch::nn::Sequential> layers_;
  torch::nn::Linear last_{nullptr};
};

/// The extents of a residual network with pre-activation.
struct PreActPlan {
  std::int64_t channels, classes, width;
  std::array<int, 4> blocks;  ///< in each stage
  bool last_norm;             ///< BatchNorm and ReLU behind the last stage
};

class PreActModule : public torch::nn::Cloneable<PreActModule> {
 public:
  explicit PreActModule(const PreActPlan& plan);

  REFINE_INLINE void reset() override;

  at::Tensor forward(const at::Tensor& images);

 private:
  PreActPlan plan_;
  torch::nn::Conv2d conv1_{nullptr};
  std::vector<torch::nn::Sequential> layers_;
  torch::nn::BatchNorm2d last_norm_{nullptr};
  torch::nn::Linear linear_{nullptr};
};

}  // namespace refine::backbones::detail

#if !defined(REFINE_COMPILED_LIB)
#include <refine/backbones/impl/residual.ipp>
#endif
