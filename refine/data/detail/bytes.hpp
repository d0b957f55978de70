#pragma once

#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace refine::data::detail {

/// Numbers from a file's bytes. What lies behind the end reads as 0.
struct ByteReader {
  std::string_view bytes;
  bool big = false;  ///< the most significant byte comes first

  bool has(std::uint64_t at, std::uint64_t count) const {
    return at <= bytes.size() && count <= bytes.size() - at;
  }

  std::uint32_t u8(std::uint64_t at) const { return has(at, 1) ? static_cast<std::uint8_t>(bytes[at]) : 0; }

  std::uint32_t u16(std::uint64_t at) const {
    return big ? u8(at) << 8 | u8(at + 1) : u8(at + 1) << 8 | u8(at);
  }

  std::uint32_t u32(std::uint64_t at) const {
    return big ? u16(at) << 16 | u16(at + 2) : u16(at + 2) << 16 | u16(at);
  }
};

}  // namespace refine::data::detail

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

inline std::size_t find_invalid_utf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = detail::utf8_length(text.substr(i));
    if (length == 0) return i;
    i += length;
  }
  return std::string_view::npos;
}

inline std::string to_utf8(std::string_view text) {
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
