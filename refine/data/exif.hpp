#pragma once

#include <refine/data/rgb.hpp>

#include <string_view>

/// The orientation that a camera wrote beside its pixels.
namespace refine::data::detail {

/// Returns the orientation, 1 to 8, of an EXIF block (with or without "Exif\0\0" before it); 1 if it has none
/// or is damaged.
int exif_orientation(std::string_view exif);

/// Returns the orientation of a PNG (chunk eXIf) or WebP file (chunk EXIF); 1 if it has none.
int png_orientation(std::string_view file);
int webp_orientation(std::string_view file);

/// Turns and mirrors the rows so that the image is upright, as Pillow's `ImageOps.exif_transpose` does.
/// \param orientation 1 to 8
void make_upright(Rgb& image, int orientation);

}  // namespace refine::data::detail

#if !defined(REFINE_COMPILED)
#include <refine/data/exif_definitions.hpp>
#endif
