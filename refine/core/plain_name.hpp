#pragma once

#include <string>
#include <string_view>

namespace refine {

/// A name as it is looked up: in lower case (ASCII), without hyphens and underscores.
inline std::string plain_name(std::string_view name) {
  std::string plain;
  for (const char c : name) {
    if (c == '-' || c == '_') continue;
    plain += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  }
  return plain;
}

/// Whether two spellings are of one name; one without a letter is of none.
inline bool same_name(std::string_view a, std::string_view b) {
  const std::string plain = plain_name(a);
  return !plain.empty() && plain == plain_name(b);
}

}  // namespace refine
