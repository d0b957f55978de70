#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>

#include <refine/backbones/backbone.hpp>
#include <refine/backbones/detail/vgg_layers.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>

namespace refine::backbones {

/// VGG-16 (Simonyan and Zisserman, 2015, `simonyan2015vgg`), with or without BatchNorm, for images
/// of at least 32×32 pixels, in two variants:
///
///  - `Variant::cifar` ends in one linear layer, `classifier.weight`, as in the authors' code. That
///    code takes 32×32 images only; here the features of larger images are averaged.
///  - `Variant::imagenet` ends in torchvision's average pooling to 7×7 and three linear layers, the
///    hidden ones of 64·width: `classifier.0`, `.3` and `.6`.
///
/// Both name the convolutions `features.0.weight`, … Initial weights are the same in both codes:
/// convolutions normal by fan-out, linear layers normal with deviation 0.01, biases 0.
template <Task kTask = dynamic_task>
struct Vgg16 {
  static constexpr Task static_task = kTask;     ///< the task that the type fixes
  static constexpr bool cuda_graph_safe = true;  ///< its work may be replayed as a CUDA graph

  Task task = kTask;  ///< what it classifies; channels and classes must be known
  int width = 64;  ///< channels of the first group, at least 1; the others have 2, 4, 8 and 8 times as many
  bool batch_norm = true;               ///< BatchNorm after each convolution; the authors' code has none
  std::optional<Variant> variant = {};  ///< empty: `variant_for` the task's images
  std::uint64_t seed = default_seed;    ///< of the initial weights
  /// Holds the weights. Made from the members above.
  std::shared_ptr<detail::VggModule> module = make(task, width, batch_norm, variant, seed);

  /// Returns logits N×classes.
  /// \param images float N×C×H×W in [0, 1]
  at::Tensor forward(const at::Tensor& images) const { return module->forward(images); }

  /// Returns what the last layer takes, float N×F.
  /// \param images as `forward` takes them
  at::Tensor features(const at::Tensor& images) const { return module->features(images); }

 private:
  static std::shared_ptr<detail::VggModule> make(const Task& specified, int width, bool batch_norm,
                                                 std::optional<Variant> variant, std::uint64_t seed) {
    return detail::make_vgg("VGG16", kTask, specified, {2, 2, 3, 3, 3}, width, batch_norm, variant, seed);
  }
};

/// VGG-19 (Simonyan and Zisserman, 2015, `simonyan2015vgg`): `Vgg16` with one more convolution in
/// each of the last three groups, in the same variants, with the same image sizes, parameter names
/// and initial weights. With BatchNorm, `Variant::imagenet` is torchvision's `vgg19_bn`, which
/// BackdoorBench (`wu2022backdoorbench`) uses too.
template <Task kTask = dynamic_task>
struct Vgg19 {
  static constexpr Task static_task = kTask;     ///< the task that the type fixes
  static constexpr bool cuda_graph_safe = true;  ///< its work may be replayed as a CUDA graph

  Task task = kTask;  ///< what it classifies; channels and classes must be known
  int width = 64;  ///< channels of the first group, at least 1; the others have 2, 4, 8 and 8 times as many
  bool batch_norm = true;               ///< BatchNorm after each convolution; the authors' code has none
  std::optional<Variant> variant = {};  ///< empty: `variant_for` the task's images
  std::uint64_t seed = default_seed;    ///< of the initial weights
  /// Holds the weights. Made from the members above.
  std::shared_ptr<detail::VggModule> module = make(task, width, batch_norm, variant, seed);

  /// Returns logits N×classes.
  /// \param images float N×C×H×W in [0, 1]
  at::Tensor forward(const at::Tensor& images) const { return module->forward(images); }

  /// Returns what the last layer takes, float N×F.
  /// \param images as `forward` takes them
  at::Tensor features(const at::Tensor& images) const { return module->features(images); }

 private:
  static std::shared_ptr<detail::VggModule> make(const Task& specified, int width, bool batch_norm,
                                                 std::optional<Variant> variant, std::uint64_t seed) {
    return detail::make_vgg("VGG19", kTask, specified, {2, 2, 4, 4, 4}, width, batch_norm, variant, seed);
  }
};

}  // namespace refine::backbones
