#pragma once

#include <ATen/autocast_mode.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/upsample_bilinear2d.h>
#include <c10/core/DispatchKeySet.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <cstdint>

namespace refine::nn {

/// N×C×H×W with both sides `times` as long, bilinear, in the type that `x` has: autocast would have it, and
/// all that is joined to it, in float32, which a convolution behind it rounds to bfloat16 again.
inline at::Tensor upsampled(const at::Tensor& x, std::int64_t times, bool align_corners) {
  const c10::impl::ExcludeDispatchKeyGuard without_autocast(c10::autocast_dispatch_keyset);
  return at::upsample_bilinear2d(x, {times * x.size(2), times * x.size(3)}, align_corners);
}

}  // namespace refine::nn
