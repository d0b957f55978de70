#pragma once

#include <cstddef>
#include <string>
#include <string_view>

/// Text for people: untrusted bytes, names, messages of other libraries.
namespace refine::text {

/// Returns the indefinite article for a capitalised name, with a space: `"a "` or `"an "`.
constexpr std::string_view article(std::string_view name) {
  const bool vowel = !name.empty() && std::string_view("AEIOU").find(name.front()) != std::string_view::npos;
  return vowel ? "an " : "a ";
}

/// Returns untrusted text in a form that is safe for a terminal and for one line.
///
/// Control characters (C0, DEL, C1), line separators, marks that change the direction of writing,
/// and bytes that are not UTF-8 are written as `\xNN`.
std::string printable(std::string_view text);

/// Returns the index of the first byte that is not well-formed UTF-8 (RFC 3629: no overlong forms,
/// no surrogates, nothing above U+10FFFF), or `npos` if all are.
std::size_t find_invalid_utf8(std::string_view text);

/// True if `text` is well-formed UTF-8.
bool is_utf8(std::string_view text);

/// Returns `text` with each byte that is not well-formed UTF-8 written as `\xNN`. A folder's name
/// may be any bytes; a name in JSON may not.
std::string to_utf8(std::string_view text);

/// Returns JSON in which the characters that `printable` replaces are written as `\uNNNN`, which denotes the same text.
/// \param json a document in UTF-8, in which line breaks occur only between its parts
std::string escape_json_controls(std::string_view json);

/// Returns the essential line of another library's message: the first line, or the last one of a
/// traceback. What follows "Exception raised from" is LibTorch's stack of C++, which is left out.
std::string one_line(std::string_view text);

/// Returns a word as a shell reads it: in single quotes unless it consists of plain characters only.
std::string quote_for_shell(std::string_view word);

/// Returns `text` with the letters A to Z in lower case, whatever the locale.
inline std::string lower(std::string_view text) {
  std::string result(text);
  for (char& c : result) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return result;
}

/// Returns a name in the form that is used for look-up: lower case (ASCII), without hyphens and
/// underscores.
std::string plain_name(std::string_view name);

/// True if two spellings denote the same name. A spelling without a letter denotes none.
bool same_name(std::string_view a, std::string_view b);

}  // namespace refine::text

#if !defined(REFINE_COMPILED_LIB)
#include <refine/core/impl/text.ipp>
#endif
