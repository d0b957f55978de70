#pragma once

#include <refine/report/images.hpp>

#include <png.h>

#include <algorithm>
#include <cstddef>

#include <refine/core/config.hpp>

namespace refine::report {

namespace detail {

REFINE_INLINE std::vector<std::uint8_t> interleave_rgb(const ImageSheet& sheet,
                                                       const std::vector<std::uint8_t>& planes) {
  const auto plane = static_cast<std::size_t>(sheet.height) * static_cast<std::size_t>(sheet.width);
  std::vector<std::uint8_t> pixels(plane * 3);
  for (std::size_t i = 0; i < plane; ++i) {
    for (std::size_t c = 0; c < 3; ++c) pixels[i * 3 + c] = planes[sheet.channels == 3 ? c * plane + i : i];
  }
  return pixels;
}

}  // namespace detail

REFINE_INLINE void check_complete(const ImageSheet& sheet) {
  if (sheet.rows.empty()) return;
  if ((sheet.channels != 1 && sheet.channels != 3) || sheet.height < 1 || sheet.width < 1) {
    throw Error("ImageSheet: images must have 1 or 3 channels and at least one pixel, got {}x{}x{}",
                sheet.channels, sheet.height, sheet.width);
  }
  const auto bytes = static_cast<std::size_t>(sheet.channels) * static_cast<std::size_t>(sheet.height) *
                     static_cast<std::size_t>(sheet.width);
  for (std::size_t r = 0; r < sheet.rows.size(); ++r) {
    const auto& row = sheet.rows[r];
    if (row.images.size() != sheet.columns.size() ||
        (!row.captions.empty() && row.captions.size() != sheet.columns.size())) {
      throw Error(
          "ImageSheet: row {} must have {} images, one for each column, and as many captions or none, got {} and {}",
          r, sheet.columns.size(), row.images.size(), row.captions.size());
    }
    for (const auto& image : row.images) {
      if (image.size() == bytes) continue;
      throw Error(
          "ImageSheet: an image of row {} has the wrong size (got {} bytes, expected {} for {}x{}x{})", r,
          image.size(), bytes, sheet.channels, sheet.height, sheet.width);
    }
  }
}

REFINE_INLINE std::string png(std::span<const std::uint8_t> pixels, int height, int width) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(width);
  image.height = static_cast<png_uint_32>(height);
  image.format = PNG_FORMAT_RGB;
  const auto needed = static_cast<std::size_t>(height) * static_cast<std::size_t>(width) * 3;
  if (height < 1 || width < 1 || pixels.size() != needed) {
    throw Error("png: {}x{} pixels need height x width x 3 bytes, got {}", height, width, pixels.size());
  }
  png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(image);
  std::string bytes(size, '\0');
  if (!png_image_write_to_memory(&image, bytes.data(), &size, 0, pixels.data(), 0, nullptr)) {
    throw Error("png: cannot encode {}x{} pixels: {}", height, width, image.message);
  }
  bytes.resize(size);
  return bytes;
}

REFINE_INLINE std::string sheet_png(const ImageSheet& sheet, int scale) {
  check_complete(sheet);
  if (sheet.rows.empty() || sheet.columns.empty() || scale < 1) {
    throw Error("sheet_png: rows, columns and scale must each be at least 1, got {}, {} and {}",
                sheet.rows.size(), sheet.columns.size(), scale);
  }
  const int step_y = sheet.height * scale + sheet_gutter;
  const int step_x = sheet.width * scale + sheet_gutter;
  const int height = static_cast<int>(sheet.rows.size()) * step_y + sheet_gutter;
  const int width = static_cast<int>(sheet.columns.size()) * step_x + sheet_gutter;
  std::vector<std::uint8_t> canvas(static_cast<std::size_t>(height) * static_cast<std::size_t>(width) * 3,
                                   255);
  for (std::size_t r = 0; r < sheet.rows.size(); ++r) {
    for (std::size_t c = 0; c < sheet.columns.size(); ++c) {
      const auto pixels = detail::interleave_rgb(sheet, sheet.rows[r].images[c]);
      const int top = static_cast<int>(r) * step_y + sheet_gutter;
      const int left = static_cast<int>(c) * step_x + sheet_gutter;
      for (int y = 0; y < sheet.height * scale; ++y) {
        for (int x = 0; x < sheet.width * scale; ++x) {
          const auto from = (static_cast<std::size_t>(y / scale) * static_cast<std::size_t>(sheet.width) +
                             static_cast<std::size_t>(x / scale)) *
                            3;
          const auto to = (static_cast<std::size_t>(top + y) * static_cast<std::size_t>(width) +
                           static_cast<std::size_t>(left + x)) *
                          3;
          std::copy_n(pixels.data() + from, 3, canvas.data() + to);
        }
      }
    }
  }
  return png(canvas, height, width);
}

}  // namespace refine::report
