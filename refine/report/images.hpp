#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <refine/core/error.hpp>

namespace refine::report {

/// Test images at each stage of a defense: one row for each image, one column for each stage
/// (clean, triggered, transformed).
struct ImageSheet {
  /// One test image at every stage.
  struct Row {
    std::vector<std::vector<std::uint8_t>> images;  ///< channels × height × width bytes, one for each column
    std::vector<std::string> captions = {};         ///< the model's prediction, one for each column, or empty
  };

  int channels = 3;                       ///< 3 (RGB) or 1 (grey)
  int height = 0;                         ///< of each image, in pixels
  int width = 0;                          ///< of each image, in pixels
  std::vector<std::string> columns = {};  ///< names of the stages
  std::vector<Row> rows = {};             ///< the images; empty: the report shows no sheet
};

/// Pixels between the images of `sheet_png`, and around them.
inline constexpr int sheet_gutter = 8;

/// Checks that every row has an image of the sheet's size for every column, and captions for all
/// columns or none.
///
/// \throws Error if a row or an image does not fit
void check_complete(const ImageSheet& sheet);

/// Encodes RGB pixels as an 8-bit PNG. The same pixels give the same bytes.
///
/// \param pixels  height × width × 3 bytes, interleaved
/// \param height  in pixels, at least 1
/// \param width  in pixels, at least 1
/// \return the content of a PNG file
/// \throws Error if the number of bytes does not match the size, or libpng fails
std::string png(std::span<const std::uint8_t> pixels, int height, int width);

/// Draws the sheet as one PNG without text: the images on white, with gutters of `sheet_gutter`
/// pixels.
///
/// \param sheet  at least one row and one column
/// \param scale  side of the square that each pixel becomes, at least 1
/// \return the content of a PNG file
/// \throws Error if the sheet is empty or incomplete
std::string sheet_png(const ImageSheet& sheet, int scale);

namespace detail {

/// Converts one image of a sheet from planes to interleaved RGB. Grey is repeated.
///
/// \param sheet  gives the size of the image
/// \param planes  channels × height × width bytes
/// \return height × width × 3 bytes
std::vector<std::uint8_t> interleave_rgb(const ImageSheet& sheet, const std::vector<std::uint8_t>& planes);

}  // namespace detail

}  // namespace refine::report

#if !defined(REFINE_COMPILED_LIB)
#include <refine/report/impl/images.ipp>
#endif
