#pragma once

#include <refine/nn/conv.hpp>

#include <ATen/ops/conv2d.h>
#include <ATen/ops/convolution.h>
#include <torch/csrc/jit/frontend/tracer.h>

#include <optional>
#include <variant>

#include <refine/core/config.hpp>
#include <refine/winograd/convolution.hpp>

namespace refine::nn::detail {

REFINE_INLINE std::atomic<bool>& winograd_allowed() {
  static std::atomic<bool> allowed = true;
  return allowed;
}

REFINE_INLINE bool has_padding(const torch::nn::detail::ConvNdOptions<2>& o, std::int64_t zeros) {
  const auto* padding = std::get_if<torch::ExpandingArray<2>>(&o.padding());
  return padding != nullptr && (*padding)->at(0) == zeros && (*padding)->at(1) == zeros &&
         (zeros == 0 || std::holds_alternative<torch::enumtype::kZeros>(o.padding_mode()));
}

REFINE_INLINE bool is_3x3_same(const torch::nn::detail::ConvNdOptions<2>& o) {
  const auto is = [](const torch::ExpandingArray<2>& pair, std::int64_t value) {
    return pair->at(0) == value && pair->at(1) == value;
  };
  return is(o.kernel_size(), 3) && is(o.stride(), 1) && is(o.dilation(), 1) && o.groups() == 1 &&
         has_padding(o, 1);
}

}  // namespace refine::nn::detail

namespace refine::nn {

REFINE_INLINE at::Tensor convolve(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  if (detail::winograd_allowed() && winograd::suits(x, weight, bias) &&
      !at::autocast::is_autocast_enabled(at::kCPU) && !torch::jit::tracer::isTracing()) {
    return winograd::convolution(x, weight, bias);
  }
  return at::conv2d(x, weight, bias, 1, 1);
}

REFINE_INLINE at::Tensor convolve(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                                  const ConvolutionOptions& options) {
  const c10::DeviceType device = x.device().type();
  const auto compute = [&](const at::Tensor& input, const at::Tensor& kernel, const at::Tensor& offset) {
    const std::optional<at::Tensor> given = offset.defined() ? std::optional(offset) : std::nullopt;
    return at::convolution(input, kernel, given, options.stride, options.padding, options.dilation,
                           options.transposed, options.output_padding, options.groups);
  };
  if (!at::autocast::is_autocast_enabled(device)) return compute(x, weight, bias);
  const at::ScalarType type = at::autocast::get_autocast_dtype(device);
  const auto cast = [&](const at::Tensor& tensor) {
    return tensor.defined() ? at::autocast::cached_cast(type, tensor, device) : tensor;
  };
  const at::Tensor input = cast(x), kernel = cast(weight), offset = cast(bias);
  const c10::impl::ExcludeDispatchKeyGuard without_autocast(c10::autocast_dispatch_keyset);
  return compute(input, kernel, offset);
}

}  // namespace refine::nn

namespace refine::nn::detail {

/// True where oneDNN writes past the end of a kernel's gradient (LibTorch 2.13, processors with
/// only AVX2): strided 1×1 kernels over fewer than eight channels.
REFINE_INLINE bool has_unsafe_gradient(const torch::nn::Conv2dImpl& convolution, const at::Tensor& x) {
  const auto& o = convolution.options;
  return o.kernel_size()->at(0) == 1 && o.kernel_size()->at(1) == 1 && o.stride()->at(0) > 1 &&
         o.in_channels() < 8 && o.groups() == 1 && has_padding(o, 0) && x.is_cpu() && x.dim() == 4 &&
         convolution.weight.requires_grad() && c10::GradMode::is_enabled();
}

}  // namespace refine::nn::detail

namespace refine::nn {

REFINE_INLINE at::Tensor convolve(torch::nn::Conv2d& convolution, const at::Tensor& x) {
  const auto& o = convolution->options;
  if (detail::is_3x3_same(o)) return convolve(x, convolution->weight, convolution->bias);
  if (detail::has_unsafe_gradient(*convolution, x)) {
    const auto& stride = *o.stride();
    return at::conv2d(x.slice(2, 0, std::nullopt, stride[0]).slice(3, 0, std::nullopt, stride[1]),
                      convolution->weight, convolution->bias);
  }
  return convolution->forward(x);
}

REFINE_INLINE at::Tensor conv_bn(torch::nn::Conv2d& convolution, torch::nn::BatchNorm2d& norm,
                                 const at::Tensor& x) {
  const at::Tensor& bias = convolution->bias;
  const bool adds_nothing = !norm.is_empty() && norm->is_training() && norm->running_mean.defined() &&
                            norm->options.momentum() && bias.defined() &&
                            detail::is_3x3_same(convolution->options);
  if (!adds_nothing) return apply_batch_norm(norm, convolve(convolution, x));
  const at::Tensor y = batch_norm(*norm, convolve(x, convolution->weight, {}));
  // As data: autograd tracks the version of the running mean, which the gradient does not depend on
  // in training.
  norm->running_mean.variable_data().add_(bias.variable_data(), *norm->options.momentum());
  return y;
}

}  // namespace refine::nn
