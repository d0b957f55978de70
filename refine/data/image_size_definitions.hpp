#pragma once

// What image_size.hpp declares.

#include <refine/data/image_size.hpp>

#include <turbojpeg.h>

#include <cstddef>
#include <filesystem>
#include <memory>
#include <string>

#include <refine/core/compiled.hpp>
#include <refine/core/error.hpp>
#include <refine/core/file_bytes.hpp>

namespace refine::data::detail {

REFINE_DEFINITION ImageShape claimed_shape(const std::filesystem::path& file) {
  std::string bytes;
  try {
    bytes = file_bytes(file);
  } catch (const Error&) {
    return {};
  }
  int width = 0, height = 0, subsampling = 0, colours = 0;
  if (bytes.starts_with("\x89PNG\r\n\x1a\n") && bytes.size() >= 24) {
    const auto number = [&](std::size_t at) {  // big-endian, in the first chunk
      unsigned value = 0;
      for (std::size_t i = at; i < at + 4; ++i) value = value << 8 | static_cast<unsigned char>(bytes[i]);
      return static_cast<int>(value);
    };
    width = number(16), height = number(20);
  } else if (bytes.starts_with("\xff\xd8")) {
    const std::unique_ptr<void, int (*)(tjhandle)> decoder(tjInitDecompress(), &tjDestroy);
    const auto* data = reinterpret_cast<const unsigned char*>(bytes.data());
    if (!decoder ||
        tjDecompressHeader3(decoder.get(), data, bytes.size(), &width, &height, &subsampling, &colours)) {
      return {};
    }
  }
  return width > 0 && height > 0 ? ImageShape{3, height, width} : ImageShape{};
}

}  // namespace refine::data::detail
