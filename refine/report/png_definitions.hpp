#pragma once

// What png.hpp declares.

#include <refine/report/png.hpp>

#include <png.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include <refine/core/compiled.hpp>

namespace refine::report {

REFINE_DEFINITION std::string png(std::span<const std::uint8_t> pixels, int height, int width) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(width);
  image.height = static_cast<png_uint_32>(height);
  image.format = PNG_FORMAT_RGB;
  const auto needed = static_cast<std::size_t>(height) * static_cast<std::size_t>(width) * 3;
  if (height < 1 || width < 1 || pixels.size() != needed) {
    throw Error("cannot write a PNG of {}x{} pixels from {} bytes; give height x width x 3", height, width,
                pixels.size());
  }
  png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(image);
  std::string bytes(size, '\0');
  if (!png_image_write_to_memory(&image, bytes.data(), &size, 0, pixels.data(), 0, nullptr)) {
    throw Error("cannot write a PNG of {}x{} pixels: {}", height, width, image.message);
  }
  bytes.resize(size);
  return bytes;
}

}  // namespace refine::report
