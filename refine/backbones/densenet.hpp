#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/modules/linear.h>

#include <cstdint>
#include <memory>

#include <refine/backbones/backbone.hpp>
#include <refine/backbones/detail/buildable.hpp>
#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/nn/torch_random.hpp>

namespace refine::backbones {

namespace detail {

class DenseFeatures;

/// The module of `DenseNet121`.
class DenseNet121Module : public torch::nn::Cloneable<DenseNet121Module> {
 public:
  DenseNet121Module(std::int64_t channels, std::int64_t classes, std::int64_t width);

  REFINE_INLINE void reset() override;

  at::Tensor forward(const at::Tensor& images);

  /// Returns what the last layer takes, N×F.
  at::Tensor features(const at::Tensor& images);

 private:
  std::int64_t channels_, classes_, width_;
  std::shared_ptr<DenseFeatures> features_;
  torch::nn::Linear classifier_{nullptr};
};

}  // namespace detail

/// DenseNet-121 (Huang et al., 2017, `huang2017densenet`): a 7×7 stem of stride 2 and max pooling
/// for images of every size, then blocks of 6, 12, 24 and 16 layers, each of which adds width/2
/// channels. Images must have at least 29×29 pixels.
///
/// Parameter names and initial weights are torchvision's: `features.conv0.weight`,
/// `features.denseblock1.denselayer1.norm1.weight`, …, `classifier.weight`.
///
/// `freeze` folds the 59 BatchNorms that follow a convolution. The other 62 precede one, with a
/// ReLU between them; in evaluation mode each is one multiply-add per channel.
template <Task kTask = dynamic_task>
struct DenseNet121 {
  static constexpr Task static_task = kTask;     ///< the task that the type fixes
  static constexpr bool cuda_graph_safe = true;  ///< its work may be replayed as a CUDA graph

  Task task = kTask;  ///< what it classifies; channels and classes must be known
  int width = 64;     ///< channels of the stem, even, at least 2; each layer adds half as many
  std::uint64_t seed = default_seed;  ///< of the initial weights
  /// Holds the weights. Made from the members above.
  std::shared_ptr<detail::DenseNet121Module> module = make(task, width, seed);

  /// Returns logits N×classes.
  /// \param images float N×C×H×W in [0, 1]
  at::Tensor forward(const at::Tensor& images) const { return module->forward(images); }

  /// Returns what the last layer takes, float N×F.
  /// \param images as `forward` takes them
  at::Tensor features(const at::Tensor& images) const { return module->features(images); }

 private:
  static std::shared_ptr<detail::DenseNet121Module> make(const Task& task, int width, std::uint64_t seed) {
    detail::require_buildable("DenseNet121", kTask, task, /*min_side=*/29, width);
    if (width % 2 != 0) {
      throw Error("DenseNet121: width must be even, got {}; each layer adds half of it", width);
    }
    const Task merged_task = merged(kTask, task);
    return nn::with_torch_seed(seed, [&] {
      return std::make_shared<detail::DenseNet121Module>(merged_task.image.channels, merged_task.classes,
                                                         width);
    });
  }
};

}  // namespace refine::backbones

#if !defined(REFINE_COMPILED_LIB)
#include <refine/backbones/impl/densenet.ipp>
#endif
