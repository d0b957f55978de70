#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>

#include <refine/nn/convolve.hpp>
#include <refine/nn/foldable.hpp>

namespace refine::nn {

/// `normed(norm, convolve(convolution, x))`. While it trains, BatchNorm takes a bias away again with the
/// mean, so none is added: it gets no gradient (which would be 0 but for rounding), and the running mean is
/// told of it.
inline at::Tensor convolve_normed(torch::nn::Conv2d& convolution, torch::nn::BatchNorm2d& norm,
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
