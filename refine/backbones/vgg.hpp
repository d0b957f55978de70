#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>

#include <refine/backbones/detail/buildable.hpp>
#include <refine/backbones/detail/vgg_layers.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/nn/torch_random.hpp>

namespace refine::backbones {

/// VGG-16 (Simonyan and Zisserman, 2015, `simonyan2015vgg`), with BatchNorm or without, for images of 32
/// pixels or more a side. Parameter names are `features.0.weight`, … in both forms. `Variant::cifar`: one linear
/// layer behind, `classifier.weight`, as the reference has it; that takes 32×32 images only, here what is
/// left of larger ones is averaged. `Variant::imagenet`: torchvision's three layers of 64·width behind an average
/// pooling to 7×7, `classifier.0`, `.3` and `.6`. Weights are drawn as both do: convolutions normal by
/// fan-out, linear layers normal of deviation 0.01, biases 0.
template <Task kTask = dynamic_task>
struct Vgg16 {
  static constexpr Task static_task = kTask;
  static constexpr bool cuda_graph_safe = true;

  Task task = kTask;
  int width = 64;          ///< channels of the first convolutions; the others have 2, 4 and 8 times as many
  bool batch_norm = true;  ///< behind each convolution; the reference's code leaves it out
  std::optional<Variant> variant = {};  ///< left out: `variant_for` the task's images
  std::uint64_t seed = default_seed;    ///< of the initial weights
  std::shared_ptr<detail::VggModule> module = make(task, width, batch_norm, variant, seed);

  /// Float N×C×H×W → logits N×classes.
  at::Tensor forward(const at::Tensor& images) const { return module->forward(images); }

 private:
  static std::shared_ptr<detail::VggModule> make(const Task& said, int width, bool batch_norm,
                                                 std::optional<Variant> variant, std::uint64_t seed) {
    detail::require_buildable("VGG16", kTask, said, 32, width);
    const Task task = merged(kTask, said);
    return nn::with_torch_seed(seed, [&] {
      return std::make_shared<detail::VggModule>(
          detail::VggPlan{.channels = task.image.channels,
                          .classes = task.classes,
                          .width = width,
                          .groups = {2, 2, 3, 3, 3},
                          .batch_norm = batch_norm,
                          .variant = variant.value_or(variant_for(task.image))});
    });
  }
};

/// VGG-19 (Simonyan and Zisserman, 2015, `simonyan2015vgg`): `Vgg16` with a convolution more in each of the
/// last three groups, in the same two forms, with the same sizes of images, names and draws. With BatchNorm it
/// is torchvision's `vgg19_bn` in `Variant::imagenet`, and BackdoorBench's (`wu2022backdoorbench`).
template <Task kTask = dynamic_task>
struct Vgg19 {
  static constexpr Task static_task = kTask;
  static constexpr bool cuda_graph_safe = true;

  Task task = kTask;
  int width = 64;          ///< channels of the first convolutions; the others have 2, 4 and 8 times as many
  bool batch_norm = true;  ///< behind each convolution
  std::optional<Variant> variant = {};  ///< left out: `variant_for` the task's images
  std::uint64_t seed = default_seed;    ///< of the initial weights
  std::shared_ptr<detail::VggModule> module = make(task, width, batch_norm, variant, seed);

  /// Float N×C×H×W → logits N×classes.
  at::Tensor forward(const at::Tensor& images) const { return module->forward(images); }

 private:
  static std::shared_ptr<detail::VggModule> make(const Task& specified, int width, bool batch_norm,
                                                 std::optional<Variant> variant, std::uint64_t seed) {
    detail::require_buildable("VGG19", kTask, specified, 32, width);
    const Task task = merged(kTask, specified);
    return nn::with_torch_seed(seed, [&] {
      return std::make_shared<detail::VggModule>(
          detail::VggPlan{.channels = task.image.channels,
                          .classes = task.classes,
                          .width = width,
                          .groups = {2, 2, 4, 4, 4},
                          .batch_norm = batch_norm,
                          .variant = variant.value_or(variant_for(task.image))});
    });
  }
};

}  // namespace refine::backbones
