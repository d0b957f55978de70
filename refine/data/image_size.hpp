#pragma once

#include <refine/core/image_shape.hpp>

#include <filesystem>

namespace refine::data::detail {

/// Returns the size of an image file as it is read, 3×H×W: of a PNG or JPEG from its header alone. All open
/// if it cannot be read; decoding it then reports why.
ImageShape claimed_shape(const std::filesystem::path& file);

}  // namespace refine::data::detail

#if !defined(REFINE_COMPILED)
#include <refine/data/image_size_definitions.hpp>
#endif
