#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <refine/core/error.hpp>

namespace refine::report {

/// Some test images as the model meets them, a row an image, a column a stage: clean, triggered, transformed.
struct ImageSheet {
  struct Row {
    std::vector<std::vector<std::uint8_t>> images;  ///< channels × height × width bytes, one a column
    std::vector<std::string> captions = {};         ///< what the model says of each, one a column; or none
  };

  int channels = 3;  ///< 3 (RGB) or 1 (grey)
  int height = 0;
  int width = 0;
  std::vector<std::string> columns = {};
  std::vector<Row> rows = {};
};

/// \throws Error unless every row has an image of the sheet's size for every column, and captions for all or
/// none
inline void require_complete(const ImageSheet& sheet) {
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
