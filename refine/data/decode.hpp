#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <string_view>

#include <refine/core/error.hpp>
#include <refine/core/file.hpp>

namespace refine::data {

/// Decodes a JPEG, PNG, WebP, TIFF, BMP or PNM image; the format is recognised by content.
///
/// Grey and palette images are expanded to RGB, CMYK is converted, alpha is dropped, 16 bits become
/// 8, and colour profiles are ignored. The EXIF orientation is applied, as Pillow's
/// `ImageOps.exif_transpose` does.
/// \param bytes the content of the file
/// \param name used in messages
/// \return uint8, 3×H×W
/// \throws Error if the format is not supported, the image is damaged or incomplete, or a side
///   exceeds 16,384 pixels
at::Tensor decode_image(std::string_view bytes, std::string_view name);

/// Decodes an image file.
/// \param path the file
/// \return uint8, 3×H×W
/// \throws Error as above, and if the file cannot be read
inline at::Tensor decode_image(const std::filesystem::path& path) {
  return decode_image(read_file(path), path.string());
}

/// What happens to a file that cannot be decoded, or that has the wrong size.
enum class OnDecodeError {
  fail,  ///< an `Error` that names the file is thrown
  skip,  ///< the file is left out, and a line gives the reason
};

}  // namespace refine::data

#if !defined(REFINE_COMPILED_LIB)
#include <refine/data/impl/decode.ipp>
#endif
