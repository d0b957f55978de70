#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include <refine/core/task.hpp>
#include <refine/data/detail/pixels.hpp>

namespace refine::data::detail {

/// Decodes an image, recognised by content.
/// \throws Error that contains `name`
void decode(std::string_view data, std::string_view name, RgbImage& image);

// ---- one decoder for each format ----
//
// Each leaves an upright image and returns an empty string, or the reason why it failed.

/// Decodes a JPEG of 1, 3 or 4 components. CMYK and YCCK are converted as Pillow does, which takes
/// them to be inverted.
///
/// A stray byte between markers and an unknown JFIF revision are accepted. All other warnings of
/// libjpeg are errors, such as a premature end, which it would fill with grey.
std::string decode_jpeg(std::string_view data, RgbImage& image);

/// Reads the size that `decode_jpeg` would return, from the header.
/// \param data the file's content
/// \param height,width receive the size; 0 if the header is invalid
void jpeg_size(std::string_view data, int& height, int& width);

/// Decodes a PNG of any colour type and depth.
std::string decode_png(std::string_view data, RgbImage& image);

/// Decodes a WebP image, lossy or lossless, not animated.
std::string decode_webp(std::string_view data, RgbImage& image);

/// Decodes the first page of a TIFF. Alpha is dropped, 16 bits become 8.
std::string decode_tiff(std::string_view data, RgbImage& image);

/// Decodes a BMP of 1, 4, 8, 16, 24 or 32 bits, not run-length encoded.
std::string decode_bmp(std::string_view data, RgbImage& image);

/// Decodes a PBM, PGM or PPM image (P1 to P6), of up to 16 bits.
std::string decode_pnm(std::string_view data, RgbImage& image);

// ---- orientation, as cameras store it beside the pixels ----

/// Returns the orientation, 1 to 8, of an EXIF block, with or without "Exif\0\0" before it; 1 if it
/// has none or is damaged.
int exif_orientation(std::string_view exif);

/// Returns the orientation of a PNG file (chunk eXIf); 1 if it has none.
int png_orientation(std::string_view file);

/// Returns the orientation of a WebP file (chunk EXIF); 1 if it has none.
int webp_orientation(std::string_view file);

/// Rotates and mirrors an image so that it is upright, as Pillow's `ImageOps.exif_transpose` does.
/// \param image changed in place
/// \param orientation 1 to 8
void make_upright(RgbImage& image, int orientation);

/// Returns the size 3×H×W that an image file has once it is decoded. Reads the whole file, and
/// decodes only the header of PNG and JPEG files. All extents are open if the file cannot be read;
/// decoding it then reports the reason.
ImageShape shape_in_header(const std::filesystem::path& file);

}  // namespace refine::data::detail

#if !defined(REFINE_COMPILED_LIB)
#include <refine/data/impl/decoders.ipp>
#endif
