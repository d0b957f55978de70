#pragma once

#include <refine/data/rgb.hpp>

#include <string>
#include <string_view>

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

#if !defined(REFINE_COMPILED)
#include <refine/data/decoders_definitions.hpp>
#endif
