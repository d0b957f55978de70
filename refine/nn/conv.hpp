#pragma once

#include <ATen/autocast_mode.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/_upsample_bilinear2d_aa.h>
#include <ATen/ops/upsample_bilinear2d.h>
#include <c10/core/DispatchKeySet.h>
#include <c10/core/GradMode.h>
#include <c10/core/MemoryFormat.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/nn/module.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>

#include <atomic>
#include <cstdint>
#include <vector>

#include <refine/core/task.hpp>
#include <refine/nn/shared_batch.hpp>

namespace refine::nn {

/// Changes the memory layout of all 4-D parameters to channels-last, in place.
///
/// Convolutions are fastest in it, on processors and on tensor cores. Values and names do not
/// change.
inline void to_channels_last(torch::nn::Module& module) {
  c10::NoGradGuard no_grad;
  for (auto& parameter : module.parameters()) {
    if (parameter.dim() == 4) parameter.set_data(parameter.contiguous(at::MemoryFormat::ChannelsLast));
  }
}

namespace detail {

/// Returns the process-wide setting of `allow_winograd`.
std::atomic<bool>& winograd_allowed();

/// True for a 3×3 convolution of stride 1 with zero padding of one pixel.
bool is_3x3_same(const torch::nn::detail::ConvNdOptions<2>& o);

}  // namespace detail

/// Sets, for the process, whether `convolve` may use `winograd::convolution`. It may by default.
///
/// Pass false to get LibTorch's results to the last bit.
inline void allow_winograd(bool yes) {
  detail::winograd_allowed() = yes;
}

/// Computes a 3×3 convolution of stride 1 with zero padding of one pixel.
///
/// Uses `winograd::convolution` where that is faster: in float32, on an x86 processor, outside of
/// autocast. Uses LibTorch's otherwise, and while tracing for export.
/// \param x N×in×H×W
/// \param weight out×in×3×3
/// \param bias of `out` values, or undefined
/// \return N×out×H×W
at::Tensor convolve(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

/// The arguments of a convolution after its kernel and bias, in the order of `at::convolution`.
struct ConvolutionOptions {
  std::vector<std::int64_t> stride = {1, 1}, padding = {0, 0}, dilation = {1, 1};
  bool transposed = false;
  std::vector<std::int64_t> output_padding = {0, 0};
  std::int64_t groups = 1;
};

/// Computes `at::convolution`, whose inputs LibTorch's autocast does not cast on processors, as it computes
/// `at::conv2d`. Traced networks call it, and would fail on mixed types.
/// \param x N×in×…, with as many extents as the kernel
/// \param weight the kernel
/// \param bias may be undefined
/// \return N×out×…, in autocast's type if it is on
at::Tensor convolve(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                    const ConvolutionOptions& options);

/// Computes `convolution(x)`, by the first overload if the convolution is of that kind.
/// \param convolution any
/// \param x N×in×H×W
at::Tensor convolve(torch::nn::Conv2d& convolution, const at::Tensor& x);

/// Computes `norm(x)`, or returns `x` if the norm was folded into a convolution (`fold_conv_bn`).
/// \param norm may be empty
/// \param x N×channels×H×W
inline at::Tensor apply_batch_norm(torch::nn::BatchNorm2d& norm, const at::Tensor& x) {
  return norm.is_empty() ? x : batch_norm(*norm, x);
}

/// Computes `apply_batch_norm(norm, convolve(convolution, x))`.
///
/// In training mode BatchNorm subtracts the bias of the convolution with the mean. The bias is
/// therefore not added and gets no gradient (which would be 0 except for rounding); the running
/// mean accounts for it.
/// \param convolution any
/// \param norm may be empty
/// \param x N×in×H×W
at::Tensor conv_bn(torch::nn::Conv2d& convolution, torch::nn::BatchNorm2d& norm, const at::Tensor& x);

/// Resizes images by bilinear interpolation, in the type of `x`.
///
/// Autocast would compute it, and all that is concatenated with it, in float32, which the next
/// convolution rounds to bfloat16 again.
/// \param x N×C×H×W
/// \param align_corners as in LibTorch
/// \return N×C×height×width
inline at::Tensor resize_bilinear(const at::Tensor& x, std::int64_t height, std::int64_t width,
                                  bool align_corners = false) {
  const c10::impl::ExcludeDispatchKeyGuard without_autocast(c10::autocast_dispatch_keyset);
  return at::upsample_bilinear2d(x, {height, width}, align_corners);
}

/// Resizes images by bilinear interpolation with a filter against aliasing, as PIL does.
/// \param x N×C×H×W; bfloat16 and half, which LibTorch's filter does not take, become float
/// \return N×C×height×width
inline at::Tensor resize_antialiased(const at::Tensor& x, std::int64_t height, std::int64_t width) {
  const c10::impl::ExcludeDispatchKeyGuard without_autocast(c10::autocast_dispatch_keyset);
  const bool is_reduced = at::isReducedFloatingType(x.scalar_type());
  return at::_upsample_bilinear2d_aa(is_reduced ? x.to(at::kFloat) : x, {height, width},
                                     /*align_corners=*/false);
}

/// Resizes images by bilinear interpolation, antialiased where they shrink. Images of that size stay as they are.
/// \param x float N×C×H×W
/// \param shape whose height and width, which must be known, the images get
/// \return N×C×height×width, in the memory format of `x`
inline at::Tensor resize(const at::Tensor& x, const ImageShape& shape) {
  if (x.size(2) == shape.height && x.size(3) == shape.width) return x;
  const bool shrinks = shape.height < x.size(2) || shape.width < x.size(3);
  return (shrinks ? resize_antialiased(x, shape.height, shape.width)
                  : resize_bilinear(x, shape.height, shape.width))
      .contiguous(x.suggest_memory_format());
}

}  // namespace refine::nn

#if !defined(REFINE_COMPILED_LIB)
#include <refine/nn/impl/conv.ipp>
#endif
