#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>

#include <refine/backbones/detail/buildable.hpp>
#include <refine/backbones/detail/residual.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/nn/torch_random.hpp>

namespace refine::backbones {

/// ResNet-18 (He et al., 2016, `he2016resnet`) in two forms. `Variant::cifar`: a 3×3 stem of stride 1 and no max
/// pooling, for images of 8 pixels or more a side; parameter names are the reference's, `conv1.weight`,
/// `layer1.0.bn1.weight`, …, `layer2.0.shortcut.0.weight`, `linear.weight`, and weights are drawn by
/// PyTorch's defaults, as there. `Variant::imagenet`: a 7×7 stem of stride 2 and 3×3 max pooling, for 32 pixels or
/// more; names are torchvision's, `layer2.0.downsample.0.weight` and `fc.weight` in place of the last two,
/// and so is the draw (convolutions normal, by fan-out). Another `stem` makes the variants that people train
/// on small images: torchvision's network with a 3×3 stem, or without max pooling.
template <Task kTask = dynamic_task>
struct ResNet18 {
  static constexpr Task static_task = kTask;
  static constexpr bool cuda_graph_safe = true;

  Task task = kTask;
  int width = 64;  ///< channels of the first stage; the others have 2, 4 and 8 times as many
  std::optional<Variant> variant = {};  ///< left out: `variant_for` the task's images
  std::optional<Stem> stem = {};        ///< left out: the form's own
  std::uint64_t seed = default_seed;    ///< of the initial weights
  std::shared_ptr<detail::ResidualModule> module = make(task, width, variant, stem, seed);

  /// Float N×C×H×W → logits N×classes.
  at::Tensor forward(const at::Tensor& images) const { return module->forward(images); }

 private:
  static std::shared_ptr<detail::ResidualModule> make(const Task& said, int width,
                                                      std::optional<Variant> variant,
                                                      std::optional<Stem> stem, std::uint64_t seed) {
    const Task task = merged(kTask, said);
    const Variant chosen = variant.value_or(variant_for(task.image));
    const Stem begin = stem.value_or(stem_of(chosen));
    detail::require_stem("ResNet18", begin);
    detail::require_buildable("ResNet18", kTask, said, least_side(begin), width);
    return nn::with_torch_seed(seed, [&] {
      return std::make_shared<detail::ResidualModule>(detail::ResidualPlan{.channels = task.image.channels,
                                                                           .classes = task.classes,
                                                                           .width = width,
                                                                           .blocks = {2, 2, 2, 2},
                                                                           .bottleneck = false,
                                                                           .variant = chosen,
                                                                           .stem = begin});
    });
  }
};

/// ResNet-50 (He et al., 2016, `he2016resnet`): bottlenecks of three convolutions, in the two forms of
/// `ResNet18`, with the same names, sizes of images and draws. A bottleneck strides in its 3×3 convolution,
/// as in the reference and in torchvision (the paper has it in the first 1×1).
template <Task kTask = dynamic_task>
struct ResNet50 {
  static constexpr Task static_task = kTask;
  static constexpr bool cuda_graph_safe = true;

  Task task = kTask;
  int width = 64;  ///< channels in the first stage's bottlenecks; its output has 4 times as many
  std::optional<Variant> variant = {};  ///< left out: `variant_for` the task's images
  std::optional<Stem> stem = {};        ///< left out: the form's own
  std::uint64_t seed = default_seed;    ///< of the initial weights
  std::shared_ptr<detail::ResidualModule> module = make(task, width, variant, stem, seed);

  /// Float N×C×H×W → logits N×classes.
  at::Tensor forward(const at::Tensor& images) const { return module->forward(images); }

 private:
  static std::shared_ptr<detail::ResidualModule> make(const Task& said, int width,
                                                      std::optional<Variant> variant,
                                                      std::optional<Stem> stem, std::uint64_t seed) {
    const Task task = merged(kTask, said);
    const Variant chosen = variant.value_or(variant_for(task.image));
    const Stem begin = stem.value_or(stem_of(chosen));
    detail::require_stem("ResNet50", begin);
    detail::require_buildable("ResNet50", kTask, said, least_side(begin), width);
    return nn::with_torch_seed(seed, [&] {
      return std::make_shared<detail::ResidualModule>(detail::ResidualPlan{.channels = task.image.channels,
                                                                           .classes = task.classes,
                                                                           .width = width,
                                                                           .blocks = {3, 4, 6, 3},
                                                                           .bottleneck = true,
                                                                           .variant = chosen,
                                                                           .stem = begin});
    });
  }
};

}  // namespace refine::backbones
