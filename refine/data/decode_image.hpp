#pragma once

#include <ATen/core/Tensor.h>
#include <refine/core/error.hpp>
#include <refine/core/file_bytes.hpp>

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace refine::data {

namespace detail {

/// Rows of RGB bytes, top first.
struct Rgb {
  int height = 0, width = 0;
  std::vector<std::uint8_t> bytes;

  static constexpr int largest_side = 1 << 14;  // a forged header must not claim all memory

  /// Empty when the image may be had, or else why not.
  std::string resize(std::int64_t h, std::int64_t w);

  void planes_to(std::uint8_t* to) const;
};

/// By content, not by name. \throws Error naming `name`.
void decode(std::string_view data, std::string_view name, Rgb& image);

}  // namespace detail

/// A JPEG or PNG, told by its content, as uint8 3×H×W. Grey and palette images are expanded, alpha is
/// dropped, 16 bits become 8, colour profiles are ignored. `name` stands in the message. \throws Error when
/// it is neither, is cut short or damaged, or has a side longer than 16,384 pixels.
at::Tensor decode_image(std::string_view bytes, std::string_view name);

/// The same from a file. \throws Error naming it.
inline at::Tensor decode_image(const std::filesystem::path& path) {
  return decode_image(file_bytes(path), path.string());
}

}  // namespace refine::data

#if !defined(REFINE_COMPILED)
#include <refine/data/decode_image_definitions.hpp>
#endif
