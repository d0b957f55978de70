#pragma once

// What base64.hpp declares.

#include <refine/report/base64.hpp>

#include <cstddef>
#include <string>
#include <string_view>

#include <refine/core/compiled.hpp>

namespace refine::report {

REFINE_DEFINITION std::string base64(std::string_view bytes) {
  constexpr std::string_view alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    const std::size_t have = bytes.size() - i;
    const auto at = [&](std::size_t k) { return k < have ? static_cast<unsigned char>(bytes[i + k]) : 0u; };
    const unsigned word = at(0) << 16 | at(1) << 8 | at(2);
    text += alphabet[word >> 18 & 63];
    text += alphabet[word >> 12 & 63];
    text += have > 1 ? alphabet[word >> 6 & 63] : '=';
    text += have > 2 ? alphabet[word & 63] : '=';
  }
  return text;
}

}  // namespace refine::report
