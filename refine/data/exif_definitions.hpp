#pragma once

// What exif.hpp declares.

#include <refine/data/exif.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <utility>
#include <vector>

#include <refine/core/compiled.hpp>
#include <refine/data/byte_reader.hpp>

namespace refine::data::detail {

REFINE_DEFINITION int exif_orientation(std::string_view exif) {
  using namespace std::string_view_literals;
  if (exif.starts_with("Exif\0\0"sv)) exif.remove_prefix(6);
  const bool big = exif.starts_with("MM"sv);
  if (!big && !exif.starts_with("II"sv)) return 1;
  const ByteReader bytes{exif, big};
  const std::uint64_t directory = bytes.u32(4);
  const std::uint32_t entries = bytes.u16(directory);
  for (std::uint32_t i = 0; i < entries; ++i) {
    const std::uint64_t entry = directory + 2 + 12 * std::uint64_t{i};
    if (!bytes.has(entry, 12)) return 1;
    if (bytes.u16(entry) != 0x0112) continue;
    const std::uint32_t kind = bytes.u16(entry + 2);  // SHORT or LONG
    const std::uint32_t value = kind == 3 ? bytes.u16(entry + 8) : kind == 4 ? bytes.u32(entry + 8) : 1;
    return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
  }
  return 1;
}

REFINE_DEFINITION int png_orientation(std::string_view file) {
  const ByteReader bytes{file, /*big=*/true};
  for (std::uint64_t at = 8; bytes.has(at, 12); at += 12 + std::uint64_t{bytes.u32(at)}) {
    if (file.substr(at + 4, 4) != "eXIf") continue;
    const std::uint32_t size = bytes.u32(at);
    return bytes.has(at + 8, size) ? exif_orientation(file.substr(at + 8, size)) : 1;
  }
  return 1;
}

REFINE_DEFINITION int webp_orientation(std::string_view file) {
  const ByteReader bytes{file, /*big=*/false};
  for (std::uint64_t at = 12; bytes.has(at, 8);) {
    const std::uint64_t size = bytes.u32(at + 4);
    if (file.substr(at, 4) == "EXIF") {
      return bytes.has(at + 8, size) ? exif_orientation(file.substr(at + 8, size)) : 1;
    }
    at += 8 + size + size % 2;
  }
  return 1;
}

REFINE_DEFINITION void make_upright(Rgb& image, int orientation) {
  if (orientation <= 1 || orientation > 8) return;
  const std::size_t h = static_cast<std::size_t>(image.height), w = static_cast<std::size_t>(image.width);
  const bool lies = orientation >= 5;  // rows become columns
  const std::size_t height = lies ? w : h, width = lies ? h : w;
  const bool flip_y = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  const bool flip_x = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  std::vector<std::uint8_t> upright(image.bytes.size());
  std::uint8_t* to = upright.data();
  for (std::size_t y = 0; y < height; ++y) {
    for (std::size_t x = 0; x < width; ++x, to += 3) {
      std::size_t row = lies ? x : y, column = lies ? y : x;
      if (flip_y) row = h - 1 - row;
      if (flip_x) column = w - 1 - column;
      std::memcpy(to, &image.bytes[3 * (row * w + column)], 3);
    }
  }
  image.bytes = std::move(upright);
  image.height = static_cast<int>(height), image.width = static_cast<int>(width);
}

}  // namespace refine::data::detail
