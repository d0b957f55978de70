#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>

#include <refine/core/error.hpp>
#include <refine/core/task.hpp>
#include <refine/data/detail/pixels.hpp>
#include <refine/data/resize.hpp>

namespace refine::data::detail {

/// Returns an image's pixels as a view, 1×3×H×W, which is valid as long as `image` is.
inline at::Tensor view_as_tensor(RgbImage& image) {
  return at::from_blob(image.bytes.data(), {1, image.height, image.width, 3}, at::kByte)
      .permute({0, 3, 1, 2});
}

/// Sets all three channels to the ITU-R 601 luma, in place: 16-bit fixed point, rounded to the
/// nearest.
inline void convert_to_grey(RgbImage& image) {
  for (std::size_t i = 0; i + 2 < image.bytes.size(); i += 3) {
    std::uint8_t* p = &image.bytes[i];
    p[0] = p[1] = p[2] =
        static_cast<std::uint8_t>((19595u * p[0] + 38470u * p[1] + 7471u * p[2] + 0x8000u) >> 16);
  }
}

/// Writes a decoded image into a tensor of images, resized and grey as required.
/// \param image may be changed
/// \param file named in messages
/// \param shape of the result, of 1 or 3 channels
/// \param mode how the image is resized
/// \param to C·H·W bytes
/// \throws Error if the image does not fit
inline void write_pixels(RgbImage& image, const std::filesystem::path& file, const ImageShape& shape,
                         ResizeMode mode, std::uint8_t* to) {
  const bool fits = image.height == shape.height && image.width == shape.width && mode.shorter_side == 0;
  if (!fits && mode == ResizeMode::exact) {
    throw Error(
        "{}: wrong size (got {} x {} pixels, expected {} x {}); resize or remove it, or use ResizeMode::crop or "
        "stretch (--fit crop, --fit stretch)",
        file.string(), image.width, image.height, shape.width, shape.height);
  }
  const std::int64_t h = image.height, w = image.width;
  const std::int64_t side = mode.shorter_side;
  const std::int64_t longest =
      side > 0 ? side * std::max(h, w) / std::min(h, w) : std::max(shape.height * w / h, shape.width * h / w);
  if (mode.kind == ResizeMode::Kind::crop && longest > RgbImage::max_side) {
    throw Error("{}: too long and narrow to crop ({} x {} pixels, to {} x {}); remove it", file.string(), w,
                h, shape.width, shape.height);
  }
  if (shape.channels == 1) convert_to_grey(image);
  if (fits && shape.channels == 3) return image.copy_planes_to(to);
  at::Tensor target = at::from_blob(to, {1, shape.channels, shape.height, shape.width}, at::kByte);
  target.copy_(
      resize_to_fit(view_as_tensor(image), mode, shape.height, shape.width).narrow(1, 0, shape.channels));
}

}  // namespace refine::data::detail
