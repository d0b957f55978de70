#pragma once

// What utf8.hpp declares.

#include <refine/data/utf8.hpp>

#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include <refine/core/compiled.hpp>

namespace refine::data::detail {

/// The bytes of the character that `text` begins with; 0 if they are not well-formed.
inline std::size_t utf8_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(text[i]); };
  const std::uint8_t first = byte(0);
  if (first < 0x80) return 1;
  const std::size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() < length) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  const bool overlong = (first == 0xe0 && byte(1) < 0xa0) || (first == 0xf0 && byte(1) < 0x90);
  const bool surrogate = first == 0xed && byte(1) > 0x9f;
  const bool too_high = first == 0xf4 && byte(1) > 0x8f;
  return overlong || surrogate || too_high ? 0 : length;
}

}  // namespace refine::data::detail

namespace refine::data {

REFINE_DEFINITION std::size_t find_invalid_utf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = detail::utf8_length(text.substr(i));
    if (length == 0) return i;
    i += length;
  }
  return std::string_view::npos;
}

REFINE_DEFINITION std::string to_utf8(std::string_view text) {
  std::string valid;
  for (std::size_t bad; !text.empty(); text.remove_prefix(bad + 1)) {
    bad = find_invalid_utf8(text);
    valid += text.substr(0, bad);
    if (bad == std::string_view::npos) break;
    valid += fmt::format("\\x{:02x}", static_cast<std::uint8_t>(text[bad]));
  }
  return valid;
}

}  // namespace refine::data
