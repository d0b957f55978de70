#pragma once

#include <ATen/autocast_mode.h>
#include <ATen/core/Tensor.h>
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

namespace refine::nn {

/// Lays every 4-D parameter out channels-last, in place, which is what convolutions are quickest with on the
/// CPU and on tensor cores. Values and names stay.
inline void to_channels_last(torch::nn::Module& module) {
  c10::NoGradGuard no_grad;
  for (auto& parameter : module.parameters()) {
    if (parameter.dim() == 4) parameter.set_data(parameter.contiguous(at::MemoryFormat::ChannelsLast));
  }
}

namespace detail {

std::atomic<bool>& winograd_allowed();

/// 3×3, stride 1, a border of one zero.
bool is_3x3_same(const torch::nn::detail::ConvNdOptions<2>& o);

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

/// `apply_batch_norm(norm, convolve(convolution, x))` (foldable.hpp, convolve.hpp). While it trains, BatchNorm takes a
/// bias away again with the mean, so none is added: it gets no gradient (which would be 0 but for rounding),
/// and the running mean is told of it.
at::Tensor conv_bn(torch::nn::Conv2d& convolution, torch::nn::BatchNorm2d& norm, const at::Tensor& x);

/// N×C×H×W with both sides `times` as long, bilinear, in the type that `x` has: autocast would have it, and
/// all that is joined to it, in float32, which a convolution behind it rounds to bfloat16 again.
inline at::Tensor upsample_bilinear(const at::Tensor& x, std::int64_t times, bool align_corners) {
  const c10::impl::ExcludeDispatchKeyGuard without_autocast(c10::autocast_dispatch_keyset);
  return at::upsample_bilinear2d(x, {times * x.size(2), times * x.size(3)}, align_corners);
}

}  // namespace refine::nn

#if !defined(REFINE_COMPILED_LIB)
#include <refine/nn/impl/conv.ipp>
#endif
