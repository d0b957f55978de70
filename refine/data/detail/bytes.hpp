#pragma once

#include <cstdint>
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

}  // namespace refine::data::detail
