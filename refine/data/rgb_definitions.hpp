#pragma once

// What rgb.hpp declares.

#include <refine/data/rgb.hpp>

#include <fmt/core.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include <refine/core/compiled.hpp>

namespace refine::data::detail {

REFINE_DEFINITION std::string Rgb::resize(std::int64_t h, std::int64_t w) {
  if (h < 1 || w < 1 || h > largest_side || w > largest_side) {
    return fmt::format("it claims {} x {} pixels, and sides of 1 to {} are read", w, h, largest_side);
  }
  height = static_cast<int>(h), width = static_cast<int>(w);
  bytes.resize(static_cast<std::size_t>(3 * h * w));
  return {};
}

REFINE_DEFINITION void Rgb::planes_to(std::uint8_t* to) const {
  const std::size_t plane = bytes.size() / 3;
  for (std::size_t i = 0; i < plane; ++i) {
    for (std::size_t c = 0; c < 3; ++c) to[c * plane + i] = bytes[3 * i + c];
  }
}

}  // namespace refine::data::detail
