#pragma once

#include <string>
#include <string_view>

namespace refine {

/// "a " or "an ", as it is said before `name`, one that begins with a capital.
constexpr std::string_view article(std::string_view name) {
  const bool vowel = !name.empty() && std::string_view("AEIOU").find(name.front()) != std::string_view::npos;
  return vowel ? "an " : "a ";
}

/// Returns foreign text with every byte that could control a terminal or break a line written as \xNN: control
/// characters (C0, DEL, C1), line separators, marks that change the direction of writing, and bytes that are
/// no UTF-8.
std::string printable(std::string_view text);

/// What another library's message of many lines says, in one: the first line, or, of a traceback, the last.
std::string one_line(std::string_view text);

/// A name as it is looked up: in lower case (ASCII), without hyphens and underscores.
std::string plain_name(std::string_view name);

/// Whether two spellings are of one name; one without a letter is of none.
bool same_name(std::string_view a, std::string_view b);

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/core/impl/text.ipp>
#endif
