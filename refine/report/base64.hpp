#pragma once

#include <string>
#include <string_view>

namespace refine::report {

/// RFC 4648, with padding.
std::string base64(std::string_view bytes);

}  // namespace refine::report

#if !defined(REFINE_COMPILED)
#include <refine/report/base64_definitions.hpp>
#endif
