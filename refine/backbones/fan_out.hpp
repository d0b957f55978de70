#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/GradMode.h>
#include <torch/nn/module.h>
#include <torch/nn/modules/conv.h>

#include <cmath>

namespace refine::backbones::detail {

/// Draws the weights of all convolutions in `module` from N(0, 2/(k·k·out)), so that gradients keep their
/// size on the way back through ReLUs (He et al., 2015, `he2015rectifiers`), and sets their biases to 0.
inline void draw_by_fan_out(torch::nn::Module& module) {
  const c10::NoGradGuard no_grad;
  for (const auto& part : module.modules(/*include_self=*/false)) {
    auto* convolution = dynamic_cast<torch::nn::Conv2dImpl*>(part.get());
    if (!convolution) continue;
    at::Tensor& weight = convolution->weight;
    const double fan_out = static_cast<double>(weight.size(0) * weight.size(2) * weight.size(3));
    weight.normal_(0, std::sqrt(2 / fan_out));
    if (convolution->bias.defined()) convolution->bias.zero_();
  }
}

}  // namespace refine::backbones::detail
