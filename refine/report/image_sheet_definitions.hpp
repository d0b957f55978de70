#pragma once

// What image_sheet.hpp declares.

#include <refine/report/image_sheet.hpp>

#include <cstddef>

#include <refine/core/compiled.hpp>

namespace refine::report {

REFINE_DEFINITION void require_complete(const ImageSheet& sheet) {
  if (sheet.rows.empty()) return;
  if ((sheet.channels != 1 && sheet.channels != 3) || sheet.height < 1 || sheet.width < 1) {
    throw Error(
        "cannot draw the image sheet: its images are {}x{}x{}; give 1 or 3 channels and at least one pixel",
        sheet.channels, sheet.height, sheet.width);
  }
  const auto bytes = static_cast<std::size_t>(sheet.channels) * static_cast<std::size_t>(sheet.height) *
                     static_cast<std::size_t>(sheet.width);
  for (std::size_t r = 0; r < sheet.rows.size(); ++r) {
    const auto& row = sheet.rows[r];
    if (row.images.size() != sheet.columns.size() ||
        (!row.captions.empty() && row.captions.size() != sheet.columns.size())) {
      throw Error(
          "cannot draw the image sheet: row {} has {} images and {} captions for {} columns; give one each",
          r, row.images.size(), row.captions.size(), sheet.columns.size());
    }
    for (const auto& image : row.images) {
      if (image.size() == bytes) continue;
      throw Error("cannot draw the image sheet: an image of row {} has {} bytes, {}x{}x{} are {}", r,
                  image.size(), sheet.channels, sheet.height, sheet.width, bytes);
    }
  }
}

}  // namespace refine::report
