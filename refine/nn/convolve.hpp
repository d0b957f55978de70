#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/modules/conv.h>

#include <atomic>

namespace refine::nn {

namespace detail {

std::atomic<bool>& winograd_allowed();

/// 3×3, stride 1, a border of one zero.
bool keeps_size(const torch::nn::detail::ConvNdOptions<2>& o);

}  // namespace detail

/// Says once, for the process, whether `convolve` may choose another algorithm than LibTorch's; it may,
/// unless this says no. Say no to compare with LibTorch to the last bits.
inline void allow_winograd(bool yes) {
  detail::winograd_allowed() = yes;
}

/// A 3×3 convolution of stride 1 over images with a border of one zero: by `winograd::convolution` where that
/// is quicker, which is so in float32 on an x86 processor and outside of autocast, else by LibTorch. What is
/// traced, for export, is LibTorch's own. \param bias may be undefined
at::Tensor convolve(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

/// `convolution(x)`, which is the above where it is such a one.
at::Tensor convolve(torch::nn::Conv2d& convolution, const at::Tensor& x);

}  // namespace refine::nn

#if !defined(REFINE_COMPILED)
#include <refine/nn/convolve_definitions.hpp>
#endif
