#pragma once

#include <refine/core/image_shape.hpp>

#include <filesystem>

namespace refine::data::detail {

/// What a PNG or JPEG file says of itself before any pixel: 3×H×W. All open when it cannot be read or is
/// neither: whoever decodes it says why.
ImageShape claimed_shape(const std::filesystem::path& file);

}  // namespace refine::data::detail

#if !defined(REFINE_COMPILED)
#include <refine/data/image_size_definitions.hpp>
#endif
