#pragma once

#include <string>
#include <string_view>

namespace refine {

/// Returns foreign text with every byte that could control a terminal or break a line written as \xNN: control
/// characters (C0, DEL, C1), line separators, marks that change the direction of writing, and bytes that are
/// no UTF-8.
std::string printable(std::string_view text);

/// What another library's message of many lines says, in one: the first line, or, of a traceback, the last.
std::string one_line(std::string_view text);

}  // namespace refine

#if !defined(REFINE_COMPILED)
#include <refine/core/one_line_definitions.hpp>
#endif
