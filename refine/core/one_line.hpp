#pragma once

#include <string>
#include <string_view>

#include <fmt/format.h>

namespace refine {

/// Text that others wrote, for a terminal or a line of a message: control characters, which could steer the
/// one and break the other, come as \xNN.
inline std::string printable(std::string_view text) {
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

/// What another library's message of many lines says, in one: the first line, or, of a traceback, the last.
inline std::string one_line(std::string_view text) {
  while (text.ends_with('\n')) text.remove_suffix(1);
  const bool traceback =
      text.find("Traceback") != text.npos || text.starts_with("The following operation failed");
  const auto cut = traceback ? text.rfind('\n') : text.find('\n');
  if (cut != text.npos) text = traceback ? text.substr(cut + 1) : text.substr(0, cut);
  return printable(text);
}

}  // namespace refine
