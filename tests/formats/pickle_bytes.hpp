#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace refine::formats {

/// The bytes of a number, as this machine stores it.
template <typename Number>
std::string raw(Number value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

// Pickle instructions, encoded as pickletools documents them.

inline std::string text(std::string_view value) {
  return "X" + raw(static_cast<std::uint32_t>(value.size())) + std::string(value);
}

inline std::string global(const std::string& module, const std::string& name) {
  return "c" + module + "\n" + name + "\n";
}

}  // namespace refine::formats
