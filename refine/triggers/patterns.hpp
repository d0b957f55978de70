#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numbers>
#include <optional>
#include <string>

#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>

/// Small coloured figures of our own, each in a place of its own, for triggers of several patches.
namespace refine::triggers::patterns {

/// A picture of the image's size and where it is to be seen.
struct Figure {
  at::Tensor picture;  ///< float C×H×W in [0, 1], black outside the mask
  at::Tensor mask;     ///< float H×W: 1 on the figure, 0 beside it
};

namespace detail {

using Colour = std::array<double, 3>;  ///< RGB, 0 to 1

/// Draws in a square of `size` pixels whose upper left one is (top, left). `colour(u, v)` is asked at pixel
/// centres, u to the right and v down, both from -1 to 1 over the square; no answer leaves the pixel out.
inline Figure drawn(const ImageShape& image, int size, int top, int left, auto colour) {
  Figure figure{at::zeros({image.channels, image.height, image.width}),
                at::zeros({image.height, image.width})};
  float* picture = figure.picture.mutable_data_ptr<float>();
  float* mask = figure.mask.mutable_data_ptr<float>();
  for (int y = 0; y < size; ++y) {
    for (int x = 0; x < size; ++x) {
      const std::optional<Colour> here = colour((2 * x + 1.0) / size - 1, (2 * y + 1.0) / size - 1);
      if (!here) continue;
      const auto pixel = static_cast<std::ptrdiff_t>(top + y) * image.width + left + x;
      mask[pixel] = 1;
      const double grey = 0.299 * (*here)[0] + 0.587 * (*here)[1] + 0.114 * (*here)[2];
      for (int c = 0; c < image.channels; ++c) {
        const double value = image.channels == 3 ? (*here)[static_cast<std::size_t>(c)] : grey;
        picture[static_cast<std::ptrdiff_t>(c) * image.height * image.width + pixel] =
            static_cast<float>(value);
      }
    }
  }
  return figure;
}

}  // namespace detail

/// Four figures whose sizes go with the image's shorter side s: a disc in four colours, 3/16 s, bottom right;
/// a chequered square of 4×4 cells, or as many as it has pixels, s/8, bottom left; a ring that runs from red
/// to yellow, 2/5 s, top right; a striped square, s/4, top left. \throws Error when a side is unknown or
/// below 16
inline std::array<Figure, 4> four(const ImageShape& image) {
  const int side = std::min(image.height, image.width);
  if (image.channels < 1 || side < 16) {
    Message why;
    throw Error(std::string((why << "four patches need images of 16x16 pixels at least, these are " << image
                                 << "; say .image = ImageShape{3, 32, 32}")
                                .view()));
  }
  using detail::Colour;
  using Pixel = std::optional<Colour>;
  const auto disc = [](double u, double v) -> Pixel {
    if (u * u + v * v > 1.1) return {};
    if (u < 0) return v < 0 ? Colour{1, 0, 1} : Colour{0, 1, 1};
    return v < 0 ? Colour{1, 1, 0} : Colour{0, 0.9, 0.1};
  };
  const int h = image.height, w = image.width, inset = side / 16;
  const int d = side * 3 / 16, q = side / 8, r = side * 2 / 5, s = side / 4;
  const auto chequers = [cells = std::min(q, 4)](double u, double v) -> Pixel {
    const int column = static_cast<int>(std::floor((u + 1) / 2 * cells)),
              row = static_cast<int>(std::floor((v + 1) / 2 * cells));
    return (column + row) % 2 == 0 ? Colour{1, 1, 1} : Colour{0.1, 0.1, 1};
  };
  const auto ring = [](double u, double v) -> Pixel {
    const double radius = u * u + v * v;
    if (radius > 1 || radius < 0.16) return {};
    return Colour{1, 0.5 + 0.5 * std::sin(3 * std::atan2(v, u)), 0};
  };
  const auto stripes = [](double u, double v) -> Pixel {
    return std::sin((u + v) * 2 * std::numbers::pi) < 0 ? Colour{0.6, 0, 0.9} : Colour{0.2, 1, 0.3};
  };
  return {
      detail::drawn(image, d, h - d, w - d, disc), detail::drawn(image, q, h - q - inset, inset, chequers),
      detail::drawn(image, r, inset, w - r - inset, ring), detail::drawn(image, s, inset, inset, stripes)};
}

}  // namespace refine::triggers::patterns

/// Trigger pictures of our own, float C×H×W in [0, 1].
namespace refine::triggers::patterns {

namespace detail {

inline at::Tensor drawn(const ImageShape& shape, auto pixel) {
  if (shape.channels < 1 || shape.height < 1 || shape.width < 1) {
    Message why;
    throw Error(std::string((why << "a trigger pattern needs a shape, " << shape
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
