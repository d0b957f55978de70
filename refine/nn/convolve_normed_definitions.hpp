#pragma once

// What convolve_normed.hpp declares.

#include <refine/nn/convolve_normed.hpp>

#include <refine/core/compiled.hpp>
#include <refine/nn/convolve.hpp>
#include <refine/nn/foldable.hpp>

namespace refine::nn {

REFINE_DEFINITION at::Tensor convolve_normed(torch::nn::Conv2d& convolution, torch::nn::BatchNorm2d& norm,
                                             const at::Tensor& x) {
  const at::Tensor& bias = convolution->bias;
  const bool adds_nothing = !norm.is_empty() && norm->is_training() && norm->running_mean.defined() &&
                            norm->options.momentum() && bias.defined() &&
                            detail::keeps_size(convolution->options);
  if (!adds_nothing) return normed(norm, convolve(convolution, x));
  const at::Tensor y = norm->forward(convolve(x, convolution->weight, {}));
  // As data: autograd has noted the running mean, which the gradient while training does not depend on.
  norm->running_mean.variable_data().add_(bias.variable_data(), *norm->options.momentum());
  return y;
}

}  // namespace refine::nn
