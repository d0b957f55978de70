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

#include <refine/core/check.hpp>
#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>

/// \namespace refine::triggers::patterns
/// Pictures for triggers, drawn by this library: float C×H×W in [0, 1], the same on every machine.
namespace refine::triggers::patterns {

namespace detail {

/// RGB, each in [0, 1].
using Colour = std::array<double, 3>;

/// Throws unless all extents are known and positive.
inline void require_known(const ImageShape& shape) {
  Message why;
  if (shape.channels < 1 || shape.height < 1 || shape.width < 1) {
    why << "trigger pattern needs a fully known image shape, got " << shape
        << "; set .image = ImageShape{3, 32, 32}";
  }
  require_agreement(why);
}

/// Draws a picture from `value_of(channel, y, x)`, which is called in the order of memory.
inline at::Tensor draw(const ImageShape& shape, auto value_of) {
  require_known(shape);
  at::Tensor picture = at::empty({shape.channels, shape.height, shape.width}, at::kFloat);
  float* out = picture.mutable_data_ptr<float>();
  for (int c = 0; c < shape.channels; ++c) {
    for (int y = 0; y < shape.height; ++y) {
      for (int x = 0; x < shape.width; ++x) *out++ = value_of(c, y, x);
    }
  }
  return picture;
}

}  // namespace detail

/// Returns a checkerboard of black and white pixels; the upper left pixel is white.
///
/// \param shape of the picture
/// \throws Error if an extent is unknown or not positive
inline at::Tensor checkerboard(const ImageShape& shape) {
  return detail::draw(shape, [](int, int y, int x) { return (y + x) % 2 == 0 ? 1.0f : 0.0f; });
}

/// Returns uniform noise: each value is drawn from [0, 1).
///
/// \param shape of the picture
/// \param seed the same seed gives the same picture on every machine
/// \throws Error if an extent is unknown or not positive
inline at::Tensor noise(const ImageShape& shape, std::uint64_t seed) {
  Random random(derived_seed(seed, "noise pattern"));
  return detail::draw(shape, [&](int, int, int) {
    return static_cast<float>(static_cast<double>(random() >> 40) / static_cast<double>(1 << 24));
  });
}

/// A picture of the image's size, and the pixels that belong to it.
struct MaskedPattern {
  at::Tensor picture;  ///< float C×H×W in [0, 1], black outside the mask
  at::Tensor mask;     ///< float H×W: 1 inside the pattern, 0 outside
};

namespace detail {

/// Draws into a square of `size` pixels whose upper left pixel is (`top`, `left`).
///
/// `colour_of(u, v)` returns the colour of a pixel, or nothing for a pixel outside the pattern; u
/// (to the right) and v (down) are the coordinates of the pixel's centre, from -1 to 1 over the
/// square.
inline MaskedPattern draw_masked(const ImageShape& image, int size, int top, int left, auto colour_of) {
  MaskedPattern pattern{at::zeros({image.channels, image.height, image.width}),
                        at::zeros({image.height, image.width})};
  float* picture = pattern.picture.mutable_data_ptr<float>();
  float* mask = pattern.mask.mutable_data_ptr<float>();
  for (int y = 0; y < size; ++y) {
    for (int x = 0; x < size; ++x) {
      const std::optional<Colour> colour = colour_of((2 * x + 1.0) / size - 1, (2 * y + 1.0) / size - 1);
      if (!colour) continue;
      const auto pixel = static_cast<std::ptrdiff_t>(top + y) * image.width + left + x;
      mask[pixel] = 1;
      const double grey = 0.299 * (*colour)[0] + 0.587 * (*colour)[1] + 0.114 * (*colour)[2];
      for (int c = 0; c < image.channels; ++c) {
        const double value = image.channels == 3 ? (*colour)[static_cast<std::size_t>(c)] : grey;
        picture[static_cast<std::ptrdiff_t>(c) * image.height * image.width + pixel] =
            static_cast<float>(value);
      }
    }
  }
  return pattern;
}

}  // namespace detail

/// Returns the four patches of `Patches`, each in its own corner. Their extents are fractions of
/// the image's shorter side s:
///
/// 1. a disc in four colours, 3/16 s, bottom right;
/// 2. a chequered square of 4×4 cells (fewer if it has fewer pixels), s/8, bottom left;
/// 3. a ring from red to yellow, 2/5 s, top right;
/// 4. a striped square, s/4, top left.
///
/// \param image shape of the images; if it does not have three channels, the patches are grey
/// \throws Error if an extent is unknown or the shorter side is below 16
inline std::array<MaskedPattern, 4> adaptive_patches(const ImageShape& image) {
  const int side = std::min(image.height, image.width);
  Message why;
  if (image.channels < 1 || side < 16) {
    why << "Patches needs images of at least 16x16 pixels, got " << image
        << "; set .image = ImageShape{3, 32, 32}";
  }
  require_agreement(why);
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
  return {detail::draw_masked(image, d, h - d, w - d, disc),
          detail::draw_masked(image, q, h - q - inset, inset, chequers),
          detail::draw_masked(image, r, inset, w - r - inset, ring),
          detail::draw_masked(image, s, inset, inset, stripes)};
}

}  // namespace refine::triggers::patterns
