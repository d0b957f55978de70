#pragma once

#include <refine/core/text.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <refine/core/config.hpp>

namespace refine::detail {

/// The first character of a text and its number of bytes, which is 0 for invalid UTF-8.
struct Utf8Character {
  std::uint32_t code;
  std::size_t bytes;
};

REFINE_INLINE Utf8Character utf8_character(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return {first, 1};
  const std::size_t bytes = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() < bytes) return {0, 0};
  std::uint32_t code = first & (0x7fU >> bytes);
  for (std::size_t i = 1; i < bytes; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return {0, 0};
    code = code << 6 | (byte(i) & 0x3fU);
  }
  constexpr std::uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = code >= 0xd800 && code <= 0xdfff;
  return code < least[bytes] || surrogate || code > 0x10ffff ? Utf8Character{0, 0}
                                                             : Utf8Character{code, bytes};
}

/// True if a terminal or a reader takes the character as a command rather than as text.
REFINE_INLINE bool is_control(std::uint32_t code) {
  const auto within = [code](std::uint32_t first, std::uint32_t last) {
    return code >= first && code <= last;
  };
  return code < 0x20 || within(0x7f, 0x9f)            // C0, DEL, C1
         || within(0x2028, 0x202e) || code == 0x061c  // separators of lines; direction of writing
         || within(0x200e, 0x200f) || within(0x2066, 0x2069);
}

}  // namespace refine::detail

namespace refine::text {

REFINE_INLINE std::string printable(std::string_view text) {
  std::string shown;
  while (!text.empty()) {
    const auto [code, bytes] = detail::utf8_character(text);
    const std::size_t length = bytes == 0 ? 1 : bytes;
    if (bytes == 0 || detail::is_control(code)) {
      for (const char c : text.substr(0, length)) {
        shown += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
      }
    } else {
      shown += text.substr(0, length);
    }
    text.remove_prefix(length);
  }
  return shown;
}

REFINE_INLINE std::size_t find_invalid_utf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t bytes = detail::utf8_character(text.substr(i)).bytes;
    if (bytes == 0) return i;
    i += bytes;
  }
  return std::string_view::npos;
}

REFINE_INLINE bool is_utf8(std::string_view text) {
  return find_invalid_utf8(text) == std::string_view::npos;
}

REFINE_INLINE std::string to_utf8(std::string_view text) {
  std::string valid;
  for (std::size_t invalid; !text.empty(); text.remove_prefix(invalid + 1)) {
    invalid = find_invalid_utf8(text);
    valid += text.substr(0, invalid);
    if (invalid == std::string_view::npos) break;
    valid += fmt::format("\\x{:02x}", static_cast<unsigned char>(text[invalid]));
  }
  return valid;
}

REFINE_INLINE std::string escape_json_controls(std::string_view json) {
  std::string safe;
  safe.reserve(json.size());
  while (!json.empty()) {
    const auto [code, bytes] = detail::utf8_character(json);
    if (code > 0x20 && detail::is_control(code)) {
      safe += fmt::format("\\u{:04x}", code);
    } else {
      safe += json.substr(0, std::max<std::size_t>(bytes, 1));
    }
    json.remove_prefix(std::max<std::size_t>(bytes, 1));
  }
  return safe;
}

REFINE_INLINE std::string one_line(std::string_view text) {
  // LibTorch's stack of C++, which TORCH_SHOW_CPP_STACKTRACES=1 asks for.
  text = text.substr(0, text.find("\nException raised from "));
  while (text.ends_with('\n')) text.remove_suffix(1);
  const bool traceback =
      text.find("Traceback") != text.npos || text.starts_with("The following operation failed");
  const auto cut = traceback ? text.rfind('\n') : text.find('\n');
  if (cut != text.npos) text = traceback ? text.substr(cut + 1) : text.substr(0, cut);
  return printable(text);
}

REFINE_INLINE std::string quote_for_shell(std::string_view word) {
  constexpr std::string_view plain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=+./,:@%";
  if (!word.empty() && word.find_first_not_of(plain) == std::string_view::npos) return std::string(word);
  std::string quoted = "'";
  for (const char c : word) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

REFINE_INLINE std::string plain_name(std::string_view name) {
  std::string plain;
  for (const char c : name) {
    if (c == '-' || c == '_') continue;
    plain += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  }
  return plain;
}

REFINE_INLINE bool same_name(std::string_view a, std::string_view b) {
  const std::string plain = plain_name(a);
  return !plain.empty() && plain == plain_name(b);
}

}  // namespace refine::text
