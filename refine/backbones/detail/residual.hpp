#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <refine/backbones/backbone.hpp>
#include <refine/core/config.hpp>
#include <refine/core/task.hpp>
#include <refine/nn/fold.hpp>
#include <refine/nn/module.hpp>

namespace refine::backbones::detail {

/// The structure of a residual network.
struct ResidualPlan {
  std::int64_t channels, classes, width;
  std::array<int, 4> blocks;  ///< number of blocks in each stage
  bool bottleneck;            ///< 1×1, 3×3, 1×1 convolutions, the last four times as wide; else 3×3, 3×3
  Variant variant;            ///< selects parameter names and initial weights
  Stem stem;                  ///< the first layers

  /// Returns how many times wider the output of a block is than its inner convolutions.
  std::int64_t expansion() const { return bottleneck ? 4 : 1; }
};

/// A residual network (He et al., 2016, `he2016resnet`).
class ResidualModule : public torch::nn::Cloneable<ResidualModule>,
                       public nn::Foldable,
                       public nn::OpaqueModule,
                       public Staged {
 public:
  explicit ResidualModule(const ResidualPlan& plan);

  REFINE_INLINE void reset() override;

  at::Tensor forward(const at::Tensor& images);

  /// Returns what the last layer takes, N×F.
  at::Tensor features(const at::Tensor& images);

  REFINE_INLINE void fold() override;

  int stages() const override { return static_cast<int>(plan_.blocks.size()); }

  /// Returns whether the stem pools.
  std::string code() const override { return plan_.stem.pooling ? "max pooling" : ""; }

 private:
  ResidualPlan plan_;
  torch::nn::Conv2d conv1_{nullptr};
  torch::nn::BatchNorm2d bn1_{nullptr};
  std::vector<torch::nn::Sequential> layers_;
  torch::nn::Linear last_{nullptr};
};

/// Builds a residual network.
/// \param network its name, for messages
/// \param fixed the task that its type fixes
/// \param specified the task given at run time
/// \param blocks number of blocks in each stage
/// \param bottleneck as in `ResidualPlan`
/// \param width channels of the first stage
/// \param variant empty: `variant_for` the task's images
/// \param stem empty: `stem_of` the variant
/// \param seed of the initial weights
/// \throws Error if the stem's kernel is neither 3 nor 7, or as `require_buildable`
std::shared_ptr<ResidualModule> make_residual(std::string_view network, const Task& fixed,
                                              const Task& specified, const std::array<int, 4>& blocks,
                                              bool bottleneck, int width, std::optional<Variant> variant,
                                              std::optional<Stem> stem, std::uint64_t seed);

/// The structure of a residual network with pre-activation.
struct PreActPlan {
  std::int64_t channels, classes, width;
  std::array<int, 4> blocks;  ///< number of blocks in each stage
  bool last_norm;             ///< BatchNorm and ReLU after the last stage
};

/// A residual network with pre-activation (He et al., 2016, `he2016identity`).
class PreActModule : public torch::nn::Cloneable<PreActModule>, public Staged {
 public:
  explicit PreActModule(const PreActPlan& plan);

  REFINE_INLINE void reset() override;

  at::Tensor forward(const at::Tensor& images);

  /// Returns what the last layer takes, N×F.
  at::Tensor features(const at::Tensor& images);

  int stages() const override { return static_cast<int>(plan_.blocks.size()); }

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
