#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>

#include <refine/backbones/buildable.hpp>
#include <refine/backbones/form.hpp>
#include <refine/backbones/residual.hpp>
#include <refine/core/seed.hpp>
#include <refine/core/task.hpp>
#include <refine/nn/seeded.hpp>

namespace refine::backbones {

/// ResNet-50 (He et al., 2016, `he2016resnet`): bottlenecks of three convolutions, in the two forms of
/// `ResNet18`, with the same names, sizes of images and draws. A bottleneck strides in its 3×3 convolution,
/// as in the reference and in torchvision (the paper has it in the first 1×1).
template <Task kTask = dynamic_task>
struct ResNet50 {
  static constexpr Task static_task = kTask;
  static constexpr bool replayable = true;

  Task task = kTask;
  int width = 64;  ///< channels in the first stage's bottlenecks; its output has 4 times as many
  std::optional<Form> form = {};      ///< left out: `form_for` the task's images
  std::optional<Stem> stem = {};      ///< left out: the form's own
  std::uint64_t seed = default_seed;  ///< of the initial weights
  std::shared_ptr<detail::ResidualModule> module = make(task, width, form, stem, seed);

  /// Float N×C×H×W → logits N×classes.
  at::Tensor forward(const at::Tensor& images) const { return module->forward(images); }

 private:
  static std::shared_ptr<detail::ResidualModule> make(const Task& said, int width, std::optional<Form> form,
                                                      std::optional<Stem> stem, std::uint64_t seed) {
    const Task task = merged(kTask, said);
    const Form chosen = form.value_or(form_for(task.image));
    const Stem begin = stem.value_or(stem_of(chosen));
    detail::require_stem("ResNet50", begin);
    detail::require_buildable("ResNet50", kTask, said, least_side(begin), width);
    return nn::seeded(seed, [&] {
      return std::make_shared<detail::ResidualModule>(detail::ResidualPlan{.channels = task.image.channels,
                                                                           .classes = task.classes,
                                                                           .width = width,
                                                                           .blocks = {3, 4, 6, 3},
                                                                           .bottleneck = true,
                                                                           .form = chosen,
                                                                           .stem = begin});
    });
  }
};

}  // namespace refine::backbones
