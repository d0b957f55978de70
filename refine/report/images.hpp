#pragma once

#include <cstdint>
#include <span>
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

/// An 8-bit RGB PNG, the same bytes for the same pixels.
/// \param pixels  height × width × 3 bytes \throws Error when libpng refuses
std::string png(std::span<const std::uint8_t> pixels, int height, int width);

/// One image of a sheet as interleaved bytes, height × width × 3; grey is repeated.
std::vector<std::uint8_t> interleaved(const ImageSheet& sheet, const std::vector<std::uint8_t>& planes);

inline constexpr int sheet_gutter = 8;  ///< pixels between the images of `sheet_png`, and around them

/// The sheet as one picture: each pixel a square of `scale`, the images on white with gutters of
/// `sheet_gutter` pixels, also around them. No text. \throws Error when the sheet is empty or incomplete
std::string sheet_png(const ImageSheet& sheet, int scale);

}  // namespace refine::report

#if !defined(REFINE_COMPILED_LIB)
#include <refine/report/impl/images.ipp>
#endif
