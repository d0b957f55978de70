#pragma once

#include <ATen/core/Tensor.h>
#include <refine/core/error.hpp>
#include <refine/core/file_bytes.hpp>
#include <refine/data/rgb.hpp>

#include <filesystem>
#include <string>
#include <string_view>

namespace refine::data {

namespace detail {

/// By content, not by name. \throws Error naming `name`.
void decode(std::string_view data, std::string_view name, Rgb& image);

}  // namespace detail

/// Decodes a JPEG, PNG, WebP, TIFF, BMP or PNM image, told by its content, to uint8 3×H×W. Grey and palette
/// images are expanded, CMYK is converted, alpha is dropped, 16 bits become 8, colour profiles are ignored.
/// The orientation that EXIF says is applied, as Pillow's `ImageOps.exif_transpose` does.
/// \param name stands in the message
/// \throws Error if it is none of these, is cut short or damaged, or has a side longer than 16,384 pixels
at::Tensor decode_image(std::string_view bytes, std::string_view name);

/// The same from a file. \throws Error naming it.
inline at::Tensor decode_image(const std::filesystem::path& path) {
  return decode_image(file_bytes(path), path.string());
}

}  // namespace refine::data

#if !defined(REFINE_COMPILED)
#include <refine/data/decode_image_definitions.hpp>
#endif
