#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include <refine/core/task.hpp>
#include <refine/data/detail/pixels.hpp>

/// A decoder a format. Each returns why it failed, or an empty string, and leaves an upright image.
namespace refine::data::detail {

/// JPEG of 1, 3 or 4 components. CMYK and YCCK are converted as Pillow does, which takes them for inverted.
/// A stray byte between markers and an unknown JFIF revision do no harm; all else that libjpeg warns of (a
/// premature end, say, which it would fill up with grey) fails.
std::string decode_jpeg(std::string_view data, Rgb& image);

/// The size of a JPEG as it comes out of `decode_jpeg`, without its pixels; 0 if it has no valid header.
void jpeg_size(std::string_view data, int& height, int& width);

std::string decode_png(std::string_view data, Rgb& image);

std::string decode_webp(std::string_view data, Rgb& image);

/// The first page of a TIFF; alpha is dropped, 16 bits become 8.
std::string decode_tiff(std::string_view data, Rgb& image);

/// A BMP of 1, 4, 8, 16, 24 or 32 bits, not run-length encoded.
std::string decode_bmp(std::string_view data, Rgb& image);

/// PBM, PGM and PPM (P1 to P6), of up to 16 bits.
std::string decode_pnm(std::string_view data, Rgb& image);

}  // namespace refine::data::detail

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

/// Returns the size of an image file as it is read, 3×H×W: of a PNG or JPEG from its header alone. All open
/// if it cannot be read; decoding it then reports why.
ImageShape claimed_shape(const std::filesystem::path& file);

}  // namespace refine::data::detail

#if !defined(REFINE_COMPILED_LIB)
#include <refine/data/impl/decoders.ipp>
#endif
