#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <refine/report/image_sheet.hpp>

namespace refine::report {

/// One image of a sheet as interleaved bytes, height × width × 3; grey is repeated.
std::vector<std::uint8_t> interleaved(const ImageSheet& sheet, const std::vector<std::uint8_t>& planes);

inline constexpr int sheet_gutter = 8;  ///< pixels between the images of `sheet_png`, and around them

/// The sheet as one picture: each pixel a square of `scale`, the images on white with gutters of
/// `sheet_gutter` pixels, also around them. No text. \throws Error when the sheet is empty or incomplete
std::string sheet_png(const ImageSheet& sheet, int scale);

}  // namespace refine::report

#if !defined(REFINE_COMPILED)
#include <refine/report/sheet_png_definitions.hpp>
#endif
