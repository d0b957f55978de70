#pragma once

#include <string_view>

namespace refine {

/// "a " or "an ", as it is said before `name`, one that begins with a capital.
constexpr std::string_view article(std::string_view name) {
  const bool vowel = !name.empty() && std::string_view("AEIOU").find(name.front()) != std::string_view::npos;
  return vowel ? "an " : "a ";
}

}  // namespace refine
