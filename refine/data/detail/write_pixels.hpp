#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>

#include <refine/core/error.hpp>
#include <refine/core/task.hpp>
#include <refine/data/decode.hpp>
#include <refine/data/resize.hpp>

/// From a decoded file to its place in a tensor of images.
namespace refine::data::detail {

/// The rows of `image` as a view, 1×3×H×W: good as long as `image` is.
at::Tensor pixels_of(Rgb& image);

/// RGB to grey where it lies, all three channels alike: ITU-R 601 luma in 16-bit fixed point, to the nearest.
void grey(Rgb& image);

/// Writes `image` to `to`, C×H×W bytes of `shape` (1 or 3 channels). \throws Error when it does not fit
void place(Rgb& image, const std::filesystem::path& file, const ImageShape& shape, ResizeMode fit,
           std::uint8_t* to);

inline at::Tensor pixels_of(Rgb& image) {
  return at::from_blob(image.bytes.data(), {1, image.height, image.width, 3}, at::kByte)
      .permute({0, 3, 1, 2});
}

inline void grey(Rgb& image) {
  for (std::size_t i = 0; i + 2 < image.bytes.size(); i += 3) {
    std::uint8_t* p = &image.bytes[i];
    p[0] = p[1] = p[2] =
        static_cast<std::uint8_t>((19595u * p[0] + 38470u * p[1] + 7471u * p[2] + 0x8000u) >> 16);
  }
}

inline void place(Rgb& image, const std::filesystem::path& file, const ImageShape& shape, ResizeMode fit,
                  std::uint8_t* to) {
  const bool fits = image.height == shape.height && image.width == shape.width && fit.shorter_side == 0;
  if (!fits && fit == ResizeMode::exact) {
    throw Error(
        "cannot use {}: it has {} x {} pixels, wanted are {} x {}; resize or remove it, or say how to fit it "
        "(Fit::crop, Fit::stretch)",
        file.string(), image.width, image.height, shape.width, shape.height);
  }
  const std::int64_t h = image.height, w = image.width;
  const std::int64_t side = fit.shorter_side;
  const std::int64_t longest =
      side > 0 ? side * std::max(h, w) / std::min(h, w) : std::max(shape.height * w / h, shape.width * h / w);
  if (fit.kind == ResizeMode::Kind::crop && longest > Rgb::largest_side) {
    throw Error("cannot crop {}: with {} x {} pixels it is too long and narrow for {} x {}; remove it",
                file.string(), w, h, shape.width, shape.height);
  }
  if (shape.channels == 1) grey(image);
  if (fits && shape.channels == 3) return image.planes_to(to);
  at::Tensor place = at::from_blob(to, {1, shape.channels, shape.height, shape.width}, at::kByte);
  place.copy_(resize_to_fit(pixels_of(image), fit, shape.height, shape.width).narrow(1, 0, shape.channels));
}

}  // namespace refine::data::detail
