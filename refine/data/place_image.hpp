#pragma once

#include <ATen/core/Tensor.h>
#include <refine/core/error.hpp>
#include <refine/core/image_shape.hpp>
#include <refine/data/decode_image.hpp>
#include <refine/data/resize.hpp>

#include <cstdint>
#include <filesystem>

/// From a decoded file to its place in a tensor of images.
namespace refine::data::detail {

/// The rows of `image` as a view, 1×3×H×W: good as long as `image` is.
at::Tensor pixels_of(Rgb& image);

/// RGB to grey where it lies, all three channels alike: ITU-R 601 luma in 16-bit fixed point, to the nearest.
void grey(Rgb& image);

/// Writes `image` to `to`, C×H×W bytes of `shape` (1 or 3 channels). \throws Error when it does not fit
void place(Rgb& image, const std::filesystem::path& file, const ImageShape& shape, Fit fit, std::uint8_t* to);

}  // namespace refine::data::detail

#if !defined(REFINE_COMPILED)
#include <refine/data/place_image_definitions.hpp>
#endif
