#pragma once

#include <string_view>

namespace refine {

/// Of this library; saved with what it exports.
inline constexpr std::string_view version = "0.1.0";

}  // namespace refine
