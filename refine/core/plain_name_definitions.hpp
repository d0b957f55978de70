#pragma once

// What plain_name.hpp declares.

#include <refine/core/plain_name.hpp>

#include <string>
#include <string_view>

#include <refine/core/compiled.hpp>

namespace refine {

REFINE_DEFINITION std::string plain_name(std::string_view name) {
  std::string plain;
  for (const char c : name) {
    if (c == '-' || c == '_') continue;
    plain += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  }
  return plain;
}

REFINE_DEFINITION bool same_name(std::string_view a, std::string_view b) {
  const std::string plain = plain_name(a);
  return !plain.empty() && plain == plain_name(b);
}

}  // namespace refine
