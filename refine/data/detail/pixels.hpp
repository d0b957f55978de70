#pragma once

#include <fmt/core.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <refine/data/dataset.hpp>

namespace refine::data::detail {

/// Longer files are not decoded: the largest allowed image, 100 million pixels of RGBA in 16 bits, has 0.8 GB.
inline constexpr std::uintmax_t max_image_file_bytes = std::uintmax_t{1} << 30;

/// A decoded image: rows of RGB bytes, top first.
struct RgbImage {
  // So that a forged header cannot claim all memory. A progressive JPEG takes nine bytes a pixel while it is decoded.
  static constexpr int max_side = 1 << 14;
  static constexpr std::int64_t max_pixels = 100'000'000;

  int height = 0;                   ///< in pixels
  int width = 0;                    ///< in pixels
  std::vector<std::uint8_t> bytes;  ///< 3·height·width

  /// Returns an empty string, or the reason why images of this size are not allowed.
  static std::string refuse_size(std::int64_t new_height, std::int64_t new_width) {
    if (new_height < 1 || new_width < 1 || new_height > max_side || new_width > max_side) {
      return fmt::format("it claims {} x {} pixels, but a side must be 1 to {}", new_width, new_height,
                         max_side);
    }
    if (new_height * new_width > max_pixels) {
      return fmt::format("it claims {} x {} pixels, but the largest number of pixels is {}", new_width,
                         new_height, max_pixels);
    }
    return {};
  }

  /// Resizes the buffer; the pixels are then unspecified.
  /// \return an empty string, or the reason if the size is not allowed
  std::string resize(std::int64_t new_height, std::int64_t new_width) {
    if (auto reason = refuse_size(new_height, new_width); !reason.empty()) return reason;
    height = static_cast<int>(new_height), width = static_cast<int>(new_width);
    bytes.resize(static_cast<std::size_t>(3 * new_height * new_width));
    return {};
  }

  /// Writes the three colour planes, one after the other.
  /// \param to 3·height·width bytes
  void copy_planes_to(std::uint8_t* to) const {
    const std::size_t plane = bytes.size() / 3;
    for (std::size_t i = 0; i < plane; ++i) {
      for (std::size_t c = 0; c < 3; ++c) to[c * plane + i] = bytes[3 * i + c];
    }
  }
};

}  // namespace refine::data::detail
