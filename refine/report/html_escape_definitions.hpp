#pragma once

// What html_escape.hpp declares.

#include <refine/report/html_escape.hpp>

#include <string>
#include <string_view>

#include <refine/core/compiled.hpp>

namespace refine::report {

REFINE_DEFINITION std::string html_escape(std::string_view text) {
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
