#pragma once

#include <cstdint>
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
