#pragma once

#include <string>
#include <string_view>

namespace refine::report {

/// Text as HTML text or attribute value: no markup of its own, and no control characters.
std::string html_escape(std::string_view text);

}  // namespace refine::report

#if !defined(REFINE_COMPILED)
#include <refine/report/html_escape_definitions.hpp>
#endif
