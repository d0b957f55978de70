#pragma once

// What fan_out.hpp declares.

#include <refine/backbones/fan_out.hpp>

#include <c10/core/GradMode.h>

#include <cmath>

#include <refine/core/compiled.hpp>

namespace refine::backbones::detail {

REFINE_DEFINITION void draw_by_fan_out(torch::nn::Module& module) {
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
