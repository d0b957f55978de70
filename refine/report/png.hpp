#pragma once

#include <cstdint>
#include <span>
#include <string>

#include <refine/core/error.hpp>

namespace refine::report {

/// An 8-bit RGB PNG, the same bytes for the same pixels.
/// \param pixels  height × width × 3 bytes \throws Error when libpng refuses
std::string png(std::span<const std::uint8_t> pixels, int height, int width);

}  // namespace refine::report

#if !defined(REFINE_COMPILED)
#include <refine/report/png_definitions.hpp>
#endif
