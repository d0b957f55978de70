#pragma once

// What one_line.hpp declares.

#include <refine/core/one_line.hpp>

#include <fmt/format.h>

#include <string>
#include <string_view>

#include <refine/core/compiled.hpp>

namespace refine {

REFINE_DEFINITION std::string printable(std::string_view text) {
  std::string shown;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      shown += fmt::format("\\x{:02x}", byte);
    } else {
      shown += c;
    }
  }
  return shown;
}

REFINE_DEFINITION std::string one_line(std::string_view text) {
  while (text.ends_with('\n')) text.remove_suffix(1);
  const bool traceback =
      text.find("Traceback") != text.npos || text.starts_with("The following operation failed");
  const auto cut = traceback ? text.rfind('\n') : text.find('\n');
  if (cut != text.npos) text = traceback ? text.substr(cut + 1) : text.substr(0, cut);
  return printable(text);
}

}  // namespace refine
