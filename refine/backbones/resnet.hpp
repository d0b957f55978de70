#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>

#include <refine/backbones/backbone.hpp>
#include <refine/backbones/detail/buildable.hpp>
#include <refine/backbones/detail/residual.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/nn/torch_random.hpp>

namespace refine::backbones {

/// ResNet-18 (He et al., 2016, `he2016resnet`), in two variants:
///
///  - `Variant::cifar` has a 3×3 stem of stride 1 and no max pooling, for images of at least 8×8
///    pixels. Parameter names are those of the authors' code: `conv1.weight`,
///    `layer1.0.bn1.weight`, …, `layer2.0.shortcut.0.weight`, `linear.weight`. Weights are drawn by
///    PyTorch's defaults, as in that code.
///  - `Variant::imagenet` has a 7×7 stem of stride 2 and 3×3 max pooling, for images of at least
///    32×32 pixels. Parameter names are torchvision's (`layer2.0.downsample.0.weight` and
///    `fc.weight` in place of the last two), and so are the initial weights (convolutions normal,
///    by fan-out).
///
/// Set `stem` for the mixed forms that are common on small images: torchvision's network with a 3×3
/// stem, or without max pooling.
template <Task kTask = dynamic_task>
struct ResNet18 {
  static constexpr Task static_task = kTask;     ///< the task that the type fixes
  static constexpr bool cuda_graph_safe = true;  ///< its work may be replayed as a CUDA graph

  Task task = kTask;  ///< what it classifies; channels and classes must be known
  int width = 64;     ///< channels of the first stage, at least 1; the others have 2, 4 and 8 times as many
  std::optional<Variant> variant = {};  ///< empty: `variant_for` the task's images
  std::optional<Stem> stem = {};        ///< empty: `stem_of` the variant
  std::uint64_t seed = default_seed;    ///< of the initial weights
  /// Holds the weights. Made from the members above.
  std::shared_ptr<detail::ResidualModule> module = make(task, width, variant, stem, seed);

  /// Returns logits N×classes.
  /// \param images float N×C×H×W in [0, 1]
  at::Tensor forward(const at::Tensor& images) const { return module->forward(images); }

  /// Returns what the last layer takes, float N×F.
  /// \param images as `forward` takes them
  at::Tensor features(const at::Tensor& images) const { return module->features(images); }

 private:
  static std::shared_ptr<detail::ResidualModule> make(const Task& specified, int width,
                                                      std::optional<Variant> variant,
                                                      std::optional<Stem> stem, std::uint64_t seed) {
    return detail::make_residual("ResNet18", kTask, specified, {2, 2, 2, 2}, /*bottleneck=*/false, width,
                                 variant, stem, seed);
  }
};

/// ResNet-50 (He et al., 2016, `he2016resnet`): bottlenecks of three convolutions, in the two
/// variants of `ResNet18`, with the same image sizes, parameter names and initial weights. A
/// bottleneck strides in its 3×3 convolution, as in the authors' code and in torchvision; in the
/// paper, its first 1×1 convolution does.
template <Task kTask = dynamic_task>
struct ResNet50 {
  static constexpr Task static_task = kTask;     ///< the task that the type fixes
  static constexpr bool cuda_graph_safe = true;  ///< its work may be replayed as a CUDA graph

  Task task = kTask;  ///< what it classifies; channels and classes must be known
  int width = 64;  ///< channels in the first stage's bottlenecks, at least 1; its output has 4 times as many
  std::optional<Variant> variant = {};  ///< empty: `variant_for` the task's images
  std::optional<Stem> stem = {};        ///< empty: `stem_of` the variant
  std::uint64_t seed = default_seed;    ///< of the initial weights
  /// Holds the weights. Made from the members above.
  std::shared_ptr<detail::ResidualModule> module = make(task, width, variant, stem, seed);

  /// Returns logits N×classes.
  /// \param images float N×C×H×W in [0, 1]
  at::Tensor forward(const at::Tensor& images) const { return module->forward(images); }

  /// Returns what the last layer takes, float N×F.
  /// \param images as `forward` takes them
  at::Tensor features(const at::Tensor& images) const { return module->features(images); }

 private:
  static std::shared_ptr<detail::ResidualModule> make(const Task& specified, int width,
                                                      std::optional<Variant> variant,
                                                      std::optional<Stem> stem, std::uint64_t seed) {
    return detail::make_residual("ResNet50", kTask, specified, {3, 4, 6, 3}, /*bottleneck=*/true, width,
                                 variant, stem, seed);
  }
};

/// ResNet-18 with pre-activation (He et al., 2016, `he2016identity`), for images of at least 8×8
/// pixels: the victim of WaNet (`nguyen2021wanet`) and of BackdoorBench (`wu2022backdoorbench`).
///
/// Parameter names are theirs: `conv1.weight`, `layer1.0.bn1.weight`, `layer2.0.shortcut.0.weight`,
/// `linear.weight`. As in their code, the output of the last stage is averaged directly; set
/// `last_norm` for the paper's BatchNorm and ReLU in between, which other code names `bn`. Weights
/// are drawn by PyTorch's defaults.
template <Task kTask = dynamic_task>
struct PreActResNet18 {
  static constexpr Task static_task = kTask;     ///< the task that the type fixes
  static constexpr bool cuda_graph_safe = true;  ///< its work may be replayed as a CUDA graph

  Task task = kTask;  ///< what it classifies; channels and classes must be known
  int width = 64;     ///< channels of the first stage, at least 1; the others have 2, 4 and 8 times as many
  bool last_norm = false;             ///< BatchNorm and ReLU after the last stage
  std::uint64_t seed = default_seed;  ///< of the initial weights
  /// Holds the weights. Made from the members above.
  std::shared_ptr<detail::PreActModule> module = make(task, width, last_norm, seed);

  /// Returns logits N×classes.
  /// \param images float N×C×H×W in [0, 1]
  at::Tensor forward(const at::Tensor& images) const { return module->forward(images); }

  /// Returns what the last layer takes, float N×F.
  /// \param images as `forward` takes them
  at::Tensor features(const at::Tensor& images) const { return module->features(images); }

 private:
  static std::shared_ptr<detail::PreActModule> make(const Task& specified, int width, bool last_norm,
                                                    std::uint64_t seed) {
    detail::require_buildable("PreActResNet18", kTask, specified, /*min_side=*/8, width);
    const Task task = merged(kTask, specified);
    return nn::with_torch_seed(seed, [&] {
      return std::make_shared<detail::PreActModule>(detail::PreActPlan{.channels = task.image.channels,
                                                                       .classes = task.classes,
                                                                       .width = width,
                                                                       .blocks = {2, 2, 2, 2},
                                                                       .last_norm = last_norm});
    });
  }
};

}  // namespace refine::backbones
