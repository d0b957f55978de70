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

/// ResNet-18 with pre-activation (He et al., 2016, `he2016identity`), for images of 8 pixels or more a side:
/// the victim of WaNet (`nguyen2021wanet`) and of BackdoorBench (`wu2022backdoorbench`), whose parameter names
/// it has: `conv1.weight`, `layer1.0.bn1.weight`, `layer2.0.shortcut.0.weight`, `linear.weight`. As there, the
/// last stage is averaged as it is; the paper's BatchNorm and ReLU behind it, which other code calls `bn`, are
/// there with `last_norm`. Weights are drawn by PyTorch's defaults.
template <Task kTask = dynamic_task>
struct PreActResNet18 {
  static constexpr Task static_task = kTask;
  static constexpr bool cuda_graph_safe = true;

  Task task = kTask;
  int width = 64;          ///< channels of the first stage; the others have 2, 4 and 8 times as many
  bool last_norm = false;  ///< BatchNorm and ReLU behind the last stage
  std::uint64_t seed = default_seed;  ///< of the initial weights
  std::shared_ptr<detail::PreActModule> module = make(task, width, last_norm, seed);

  /// Float N×C×H×W → logits N×classes.
  at::Tensor forward(const at::Tensor& images) const { return module->forward(images); }

 private:
  static std::shared_ptr<detail::PreActModule> make(const Task& specified, int width, bool last_norm,
                                                    std::uint64_t seed) {
    detail::require_buildable("PreActResNet18", kTask, specified, 8, width);
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
