#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace refine::data::detail {

/// Rows of RGB bytes, top first.
struct Rgb {
  int height = 0, width = 0;
  std::vector<std::uint8_t> bytes;

  static constexpr int largest_side = 1 << 14;  // a forged header must not claim all memory

  /// Empty when the image may be had, or else why not.
  std::string resize(std::int64_t h, std::int64_t w);

  void planes_to(std::uint8_t* to) const;
};

}  // namespace refine::data::detail

#if !defined(REFINE_COMPILED)
#include <refine/data/rgb_definitions.hpp>
#endif
