#pragma once

#include <ATen/core/Tensor.h>

#include <refine/core/task.hpp>
#include <refine/nn/conv.hpp>

namespace refine::transforms::detail {

/// Returns images at another height and width, by bilinear interpolation, with a filter against
/// aliasing where they shrink.
/// \param images float N×C×H×W
/// \param shape of the result; height and width must be known
inline at::Tensor resize_images(const at::Tensor& images, const ImageShape& shape) {
  if (images.size(2) == shape.height && images.size(3) == shape.width) return images;
  const bool shrinks = shape.height < images.size(2) || shape.width < images.size(3);
  const at::Tensor resized = shrinks ? nn::resize_antialiased(images, shape.height, shape.width)
                                     : nn::resize_bilinear(images, shape.height, shape.width);
  return resized.contiguous(images.suggest_memory_format());
}

}  // namespace refine::transforms::detail
