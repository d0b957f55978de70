#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace refine::data {

/// Returns the index of the first byte that is not well-formed UTF-8 (RFC 3629: no overlong forms, no
/// surrogates, nothing above U+10FFFF), or `npos` where all of it is.
std::size_t find_invalid_utf8(std::string_view text);

inline bool is_utf8(std::string_view text) {
  return find_invalid_utf8(text) == std::string_view::npos;
}

/// Returns `text` as UTF-8: unchanged if it is, else with each byte that is not as `\xNN`. A folder's name may
/// be any bytes; a name in JSON may not.
std::string to_utf8(std::string_view text);

}  // namespace refine::data

#if !defined(REFINE_COMPILED)
#include <refine/data/utf8_definitions.hpp>
#endif
