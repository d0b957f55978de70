#pragma once

#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace refine::data::detail {

/// Reads integers from a file's bytes. Bytes beyond the end read as 0.
struct ByteReader {
  std::string_view bytes;
  bool big_endian = false;  ///< the most significant byte comes first

  /// True if the bytes [offset, offset + count) exist.
  bool has(std::uint64_t offset, std::uint64_t count) const {
    return offset <= bytes.size() && count <= bytes.size() - offset;
  }

  std::uint32_t u8(std::uint64_t offset) const {
    return has(offset, 1) ? static_cast<std::uint8_t>(bytes[offset]) : 0;
  }

  std::uint32_t u16(std::uint64_t offset) const {
    return big_endian ? u8(offset) << 8 | u8(offset + 1) : u8(offset + 1) << 8 | u8(offset);
  }

  std::uint32_t u32(std::uint64_t offset) const {
    return big_endian ? u16(offset) << 16 | u16(offset + 2) : u16(offset + 2) << 16 | u16(offset);
  }
};

/// Returns the length in bytes of the UTF-8 character that `text` begins with; 0 if it is not
/// well-formed.
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

/// Returns the index of the first byte that is not well-formed UTF-8 (RFC 3629: no overlong forms,
/// no surrogates, nothing above U+10FFFF), or `npos` if all are.
inline std::size_t find_invalid_utf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = detail::utf8_length(text.substr(i));
    if (length == 0) return i;
    i += length;
  }
  return std::string_view::npos;
}

/// True if `text` is well-formed UTF-8.
inline bool is_utf8(std::string_view text) {
  return find_invalid_utf8(text) == std::string_view::npos;
}

/// Returns `text` with each byte that is not well-formed UTF-8 written as `\xNN`. A folder's name
/// may be any bytes; a name in JSON may not.
inline std::string to_utf8(std::string_view text) {
  std::string valid;
  for (std::size_t invalid; !text.empty(); text.remove_prefix(invalid + 1)) {
    invalid = find_invalid_utf8(text);
    valid += text.substr(0, invalid);
    if (invalid == std::string_view::npos) break;
    valid += fmt::format("\\x{:02x}", static_cast<std::uint8_t>(text[invalid]));
  }
  return valid;
}

}  // namespace refine::data
