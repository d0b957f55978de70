#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>

namespace refine::nn {

/// `normed(norm, convolve(convolution, x))` (foldable.hpp, convolve.hpp). While it trains, BatchNorm takes a
/// bias away again with the mean, so none is added: it gets no gradient (which would be 0 but for rounding),
/// and the running mean is told of it.
at::Tensor convolve_normed(torch::nn::Conv2d& convolution, torch::nn::BatchNorm2d& norm, const at::Tensor& x);

}  // namespace refine::nn

#if !defined(REFINE_COMPILED)
#include <refine/nn/convolve_normed_definitions.hpp>
#endif
