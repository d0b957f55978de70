#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <cstdint>
#include <string>

#include <refine/core/error.hpp>
#include <refine/core/image_shape.hpp>
#include <refine/core/random.hpp>
#include <refine/core/seed.hpp>

/// Trigger pictures of our own, float C×H×W in [0, 1].
namespace refine::triggers::patterns {

namespace detail {

inline at::Tensor drawn(const ImageShape& shape, auto pixel) {
  if (shape.channels < 1 || shape.height < 1 || shape.width < 1) {
    Message why;
    throw Error(std::string((why << "refine: a trigger pattern needs a shape, " << shape
                                 << " is none; say .image = ImageShape{3, 32, 32}")
                                .view()));
  }
  at::Tensor picture = at::empty({shape.channels, shape.height, shape.width}, at::kFloat);
  float* out = picture.mutable_data_ptr<float>();
  for (int c = 0; c < shape.channels; ++c) {
    for (int y = 0; y < shape.height; ++y) {
      for (int x = 0; x < shape.width; ++x) *out++ = pixel(c, y, x);
    }
  }
  return picture;
}

}  // namespace detail

/// Black and white fields of one pixel, the upper left one white.
inline at::Tensor checkerboard(const ImageShape& shape) {
  return detail::drawn(shape, [](int, int y, int x) { return (y + x) % 2 == 0 ? 1.0f : 0.0f; });
}

/// Every value drawn evenly from [0, 1): the same seed gives the same picture on every machine.
inline at::Tensor noise(const ImageShape& shape, std::uint64_t seed) {
  Random random(derived_seed(seed, "noise pattern"));
  return detail::drawn(shape, [&](int, int, int) {
    return static_cast<float>(static_cast<double>(random() >> 40) / static_cast<double>(1 << 24));
  });
}

}  // namespace refine::triggers::patterns
