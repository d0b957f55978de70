#pragma once

#include <string>
#include <string_view>

namespace refine::report {

/// Text as HTML text or attribute value: no markup of its own, and no control characters.
inline std::string html_escape(std::string_view text) {
  std::string safe;
  safe.reserve(text.size());
  for (char c : text) {
    switch (c) {
      case '&':
        safe += "&amp;";
        break;
      case '<':
        safe += "&lt;";
        break;
      case '>':
        safe += "&gt;";
        break;
      case '"':
        safe += "&quot;";
        break;
      case '\'':
        safe += "&#39;";
        break;
      default:
        if (static_cast<unsigned char>(c) >= 0x20 || c == '\n' || c == '\t') {
          safe += c == 0x7f ? ' ' : c;
        } else {
          safe += ' ';
        }
    }
  }
  return safe;
}

}  // namespace refine::report
