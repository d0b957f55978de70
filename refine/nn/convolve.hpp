#pragma once

#include <ATen/autocast_mode.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/conv2d.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/jit/frontend/tracer.h>
#include <torch/nn/modules/conv.h>

#include <atomic>
#include <cstdint>
#include <optional>
#include <variant>

#include <refine/winograd/convolution.hpp>

namespace refine::nn {

namespace detail {

inline std::atomic<bool>& winograd_allowed() {
  static std::atomic<bool> allowed = true;
  return allowed;
}

inline bool has_padding(const torch::nn::detail::ConvNdOptions<2>& o, std::int64_t zeros) {
  const auto* padding = std::get_if<torch::ExpandingArray<2>>(&o.padding());
  return padding != nullptr && (*padding)->at(0) == zeros && (*padding)->at(1) == zeros &&
         (zeros == 0 || std::holds_alternative<torch::enumtype::kZeros>(o.padding_mode()));
}

/// 3×3, stride 1, a border of one zero.
inline bool keeps_size(const torch::nn::detail::ConvNdOptions<2>& o) {
  const auto is = [](const torch::ExpandingArray<2>& pair, std::int64_t value) {
    return pair->at(0) == value && pair->at(1) == value;
  };
  return is(o.kernel_size(), 3) && is(o.stride(), 1) && is(o.dilation(), 1) && o.groups() == 1 &&
         has_padding(o, 1);
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
  if (detail::winograd_allowed() && winograd::suits(x, weight, bias) &&
      !at::autocast::is_autocast_enabled(at::kCPU) && !torch::jit::tracer::isTracing()) {
    return winograd::convolution(x, weight, bias);
  }
  return at::conv2d(x, weight, bias, 1, 1);
}

namespace detail {

/// Where oneDNN writes past the end of a kernel's gradient (LibTorch 2.13, processors with AVX2 alone):
/// strided 1×1 kernels over fewer than eight channels.
inline bool has_unsafe_gradient(const torch::nn::Conv2dImpl& convolution, const at::Tensor& x) {
  const auto& o = convolution.options;
  return o.kernel_size()->at(0) == 1 && o.kernel_size()->at(1) == 1 && o.stride()->at(0) > 1 &&
         o.in_channels() < 8 && o.groups() == 1 && has_padding(o, 0) && x.is_cpu() && x.dim() == 4 &&
         convolution.weight.requires_grad() && c10::GradMode::is_enabled();
}

}  // namespace detail

/// `convolution(x)`, which is the above where it is such a one.
inline at::Tensor convolve(torch::nn::Conv2d& convolution, const at::Tensor& x) {
  const auto& o = convolution->options;
  if (detail::keeps_size(o)) return convolve(x, convolution->weight, convolution->bias);
  if (detail::has_unsafe_gradient(*convolution, x)) {
    const auto& stride = *o.stride();
    return at::conv2d(x.slice(2, 0, std::nullopt, stride[0]).slice(3, 0, std::nullopt, stride[1]),
                      convolution->weight, convolution->bias);
  }
  return convolution->forward(x);
}

}  // namespace refine::nn
