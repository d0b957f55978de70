#pragma once

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
void require_complete(const ImageSheet& sheet);

}  // namespace refine::report

#if !defined(REFINE_COMPILED)
#include <refine/report/image_sheet_definitions.hpp>
#endif
