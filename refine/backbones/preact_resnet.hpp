#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>

#include <refine/backbones/detail/buildable.hpp>
#include <refine/backbones/detail/residual.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/nn/torch_random.hpp>

namespace refine::backbones {

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
