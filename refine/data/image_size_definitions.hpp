#pragma once

// What image_size.hpp declares.

#include <refine/data/image_size.hpp>

#include <filesystem>
#include <string>
#include <utility>

#include <refine/core/compiled.hpp>
#include <refine/core/error.hpp>
#include <refine/core/file_bytes.hpp>
#include <refine/data/byte_reader.hpp>
#include <refine/data/decode_image.hpp>
#include <refine/data/decoders.hpp>
#include <refine/data/exif.hpp>

namespace refine::data::detail {

REFINE_DEFINITION ImageShape claimed_shape(const std::filesystem::path& file) {
  std::string bytes;
  try {
    bytes = file_bytes(file);
  } catch (const Error&) {
    return {};
  }
  int width = 0, height = 0;
  if (bytes.starts_with("\x89PNG\r\n\x1a\n") && bytes.size() >= 24) {
    const ByteReader header{bytes, /*big=*/true};
    width = static_cast<int>(header.u32(16)), height = static_cast<int>(header.u32(20));
    if (png_orientation(bytes) >= 5) std::swap(width, height);
  } else if (bytes.starts_with("\xff\xd8")) {
    jpeg_size(bytes, height, width);
  } else {
    try {
      Rgb image;
      decode(bytes, file.string(), image);
      width = image.width, height = image.height;
    } catch (const Error&) {
      return {};
    }
  }
  return width > 0 && height > 0 ? ImageShape{3, height, width} : ImageShape{};
}

}  // namespace refine::data::detail
