#pragma once

// What foldable.hpp declares.

#include <refine/nn/foldable.hpp>

#include <ATen/TensorOperators.h>
#include <c10/core/GradMode.h>

#include <string>

#include <refine/core/compiled.hpp>

namespace refine::nn {

REFINE_DEFINITION torch::nn::Conv2d folded(const torch::nn::Conv2d& convolution,
                                           const torch::nn::BatchNorm2d& norm) {
  c10::NoGradGuard no_grad;
  const auto& o = convolution->options;
  torch::nn::Conv2d merged(torch::nn::Conv2dOptions(o.in_channels(), o.out_channels(), o.kernel_size())
                               .stride(o.stride())
                               .padding(o.padding())
                               .dilation(o.dilation())
                               .groups(o.groups())
                               .padding_mode(o.padding_mode())
                               .bias(true));
  merged->to(convolution->weight.device(), convolution->weight.scalar_type());
  // In double, so that folding itself costs no accuracy.
  const at::Tensor scale =
      norm->weight.to(at::kDouble) / (norm->running_var.to(at::kDouble) + norm->options.eps()).sqrt();
  at::Tensor shift = -norm->running_mean.to(at::kDouble);
  if (convolution->bias.defined()) shift = shift + convolution->bias.to(at::kDouble);
  merged->weight.copy_(convolution->weight.to(at::kDouble) * scale.view({-1, 1, 1, 1}));
  merged->bias.copy_(shift * scale + norm->bias.to(at::kDouble));
  return merged;
}

REFINE_DEFINITION void fold_pair(torch::nn::Module& owner, const std::string& convolution_name,
                                 torch::nn::Conv2d& convolution, const std::string& norm_name,
                                 torch::nn::BatchNorm2d& norm) {
  convolution = owner.replace_module(convolution_name, folded(convolution, norm));
  owner.unregister_module(norm_name);
  norm = nullptr;
}

REFINE_DEFINITION void fold_all(torch::nn::Module& root) {
  for (const auto& module : root.modules(/*include_self=*/false)) {
    if (auto* foldable = dynamic_cast<Foldable*>(module.get())) foldable->fold();
  }
  if (auto* foldable = dynamic_cast<Foldable*>(&root)) foldable->fold();
}

}  // namespace refine::nn
