#pragma once

#include <ATen/core/Tensor.h>

#include <refine/core/image_shape.hpp>

namespace refine::triggers {

/// The null policy: images stay as they are.
template <ImageShape kImage = ImageShape{}>
struct None {
  static constexpr ImageShape static_image = kImage;

  ImageShape image = kImage;

  at::Tensor apply(const at::Tensor& images) const { return images; }
};

}  // namespace refine::triggers
