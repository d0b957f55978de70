#pragma once

#include <string>
#include <string_view>

namespace refine {

/// Text that others wrote, for a terminal or a line of a message: control characters, which could steer the
/// one and break the other, come as \xNN.
std::string printable(std::string_view text);

/// What another library's message of many lines says, in one: the first line, or, of a traceback, the last.
std::string one_line(std::string_view text);

}  // namespace refine

#if !defined(REFINE_COMPILED)
#include <refine/core/one_line_definitions.hpp>
#endif
