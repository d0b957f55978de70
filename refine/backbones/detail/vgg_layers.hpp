#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/modules/linear.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

#include <refine/backbones/backbone.hpp>
#include <refine/core/config.hpp>
#include <refine/core/task.hpp>

namespace refine::backbones::detail {

/// The structure of a VGG.
struct VggPlan {
  std::int64_t channels, classes, width;
  std::array<int, 5> groups;  ///< number of convolutions in each group
  bool batch_norm;            ///< BatchNorm after each convolution
  Variant variant;            ///< selects the classifier
};

class VggFeatures;
class VggClassifier;

/// A VGG (Simonyan and Zisserman, 2015, `simonyan2015vgg`).
class VggModule : public torch::nn::Cloneable<VggModule> {
 public:
  explicit VggModule(const VggPlan& plan);

  REFINE_INLINE void reset() override;

  at::Tensor forward(const at::Tensor& images);

  /// Returns what the last layer takes, N×F.
  at::Tensor features(const at::Tensor& images);

 private:
  VggPlan plan_;
  std::shared_ptr<VggFeatures> features_;
  std::shared_ptr<VggClassifier> classifier_;
  torch::nn::Linear linear_{nullptr};
};

/// Builds a VGG.
/// \param network its name, for messages
/// \param fixed the task that its type fixes
/// \param specified the task given at run time
/// \param groups number of convolutions in each group
/// \param width channels of the first group
/// \param batch_norm as in `VggPlan`
/// \param variant empty: `variant_for` the task's images
/// \param seed of the initial weights
/// \throws Error as `require_buildable`
std::shared_ptr<VggModule> make_vgg(std::string_view network, const Task& fixed, const Task& specified,
                                    const std::array<int, 5>& groups, int width, bool batch_norm,
                                    std::optional<Variant> variant, std::uint64_t seed);

}  // namespace refine::backbones::detail

#if !defined(REFINE_COMPILED_LIB)
#include <refine/backbones/impl/vgg_layers.ipp>
#endif
