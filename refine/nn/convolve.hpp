#pragma once

#include <ATen/autocast_mode.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/conv2d.h>
#include <torch/csrc/jit/frontend/tracer.h>
#include <torch/nn/modules/conv.h>

#include <variant>

#include <refine/winograd/convolution.hpp>

namespace refine::nn {

namespace detail {

inline bool& winograd_allowed() {
  static bool allowed = true;
  return allowed;
}

/// 3×3, stride 1, a border of one zero.
inline bool keeps_size(const torch::nn::detail::ConvNdOptions<2>& o) {
  const auto is = [](const torch::ExpandingArray<2>& pair, std::int64_t value) {
    return pair->at(0) == value && pair->at(1) == value;
  };
  const auto* padding = std::get_if<torch::ExpandingArray<2>>(&o.padding());
  return is(o.kernel_size(), 3) && is(o.stride(), 1) && is(o.dilation(), 1) && o.groups() == 1 &&
         padding != nullptr && is(*padding, 1) &&
         std::holds_alternative<torch::enumtype::kZeros>(o.padding_mode());
}

}  // namespace detail

/// Says once, for the process, whether `convolve` may choose another algorithm than LibTorch's; it may,
/// unless this says no. Say no to compare with LibTorch to the last bits.
inline void allow_winograd(bool yes) {
  detail::winograd_allowed() = yes;
}

/// A 3×3 convolution of stride 1 over images with a border of one zero: by `winograd::convolution` where that
/// is quicker, which is so in float32 on an x86 processor and outside of autocast, else by LibTorch. What is
/// traced, for export, is LibTorch's own. \param bias may be undefined
inline at::Tensor convolve(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  if (detail::winograd_allowed() && winograd::suits(x, weight) &&
      !at::autocast::is_autocast_enabled(at::kCPU) && !torch::jit::tracer::isTracing()) {
    return winograd::convolution(x, weight, bias);
  }
  return at::conv2d(x, weight, bias, 1, 1);
}

/// `convolution(x)`, which is the above where it is such a one.
inline at::Tensor convolve(torch::nn::Conv2d& convolution, const at::Tensor& x) {
  return detail::keeps_size(convolution->options) ? convolve(x, convolution->weight, convolution->bias)
                                                  : convolution->forward(x);
}

}  // namespace refine::nn
