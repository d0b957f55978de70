#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/_upsample_bilinear2d_aa.h>
#include <ATen/ops/upsample_bilinear2d.h>
#include <c10/core/DispatchKeySet.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <array>
#include <cstdint>

#include <refine/core/task.hpp>

namespace refine::transforms::detail {

/// Returns images at another height and width, by bilinear interpolation, with a filter against
/// aliasing where they shrink.
/// \param images float N×C×H×W
/// \param shape of the result; height and width must be known
inline at::Tensor resize_images(const at::Tensor& images, const ImageShape& shape) {
  if (images.size(2) == shape.height && images.size(3) == shape.width) return images;
  // As in `nn::upsample_bilinear`.
  const c10::impl::ExcludeDispatchKeyGuard without_autocast(c10::autocast_dispatch_keyset);
  const std::array<std::int64_t, 2> size = {shape.height, shape.width};
  constexpr bool align_corners = false;
  const bool shrinks = shape.height < images.size(2) || shape.width < images.size(3);
  // LibTorch's filter does not take what a network draws in bfloat16.
  const at::Tensor single = images.scalar_type() == at::kBFloat16 ? images.to(at::kFloat) : images;
  const at::Tensor resized = shrinks ? at::_upsample_bilinear2d_aa(single, size, align_corners)
                                     : at::upsample_bilinear2d(images, size, align_corners);
  return resized.contiguous(images.suggest_memory_format());
}

}  // namespace refine::transforms::detail
