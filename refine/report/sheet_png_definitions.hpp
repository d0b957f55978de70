#pragma once

// What sheet_png.hpp declares.

#include <refine/report/sheet_png.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <refine/core/compiled.hpp>
#include <refine/core/error.hpp>
#include <refine/report/png.hpp>

namespace refine::report {

REFINE_DEFINITION std::vector<std::uint8_t> interleaved(const ImageSheet& sheet,
                                                        const std::vector<std::uint8_t>& planes) {
  const auto plane = static_cast<std::size_t>(sheet.height) * static_cast<std::size_t>(sheet.width);
  std::vector<std::uint8_t> pixels(plane * 3);
  for (std::size_t i = 0; i < plane; ++i) {
    for (std::size_t c = 0; c < 3; ++c) pixels[i * 3 + c] = planes[sheet.channels == 3 ? c * plane + i : i];
  }
  return pixels;
}

REFINE_DEFINITION std::string sheet_png(const ImageSheet& sheet, int scale) {
  require_complete(sheet);
  if (sheet.rows.empty() || sheet.columns.empty() || scale < 1) {
    throw Error("cannot draw the image sheet: {} rows, {} columns at scale {}; each must be at least 1",
                sheet.rows.size(), sheet.columns.size(), scale);
  }
  const int down = sheet.height * scale + sheet_gutter;
  const int across = sheet.width * scale + sheet_gutter;
  const int height = static_cast<int>(sheet.rows.size()) * down + sheet_gutter;
  const int width = static_cast<int>(sheet.columns.size()) * across + sheet_gutter;
  std::vector<std::uint8_t> canvas(static_cast<std::size_t>(height) * static_cast<std::size_t>(width) * 3,
                                   255);
  for (std::size_t r = 0; r < sheet.rows.size(); ++r) {
    for (std::size_t c = 0; c < sheet.columns.size(); ++c) {
      const auto pixels = interleaved(sheet, sheet.rows[r].images[c]);
      const int top = static_cast<int>(r) * down + sheet_gutter;
      const int left = static_cast<int>(c) * across + sheet_gutter;
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
