#pragma once

#include <fmt/core.h>
#include <refine/core/one_line.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <string>
#include <vector>

namespace refine::data {

/// What a file that cannot be decoded, or does not fit, brings about.
enum class OnBad {
  fail,  ///< an `Error` that names it
  skip,  ///< it is left out, and a line says why
};

/// One line for each file that was left out, on standard error; of very many, how many more.
inline void tell_left_out(const std::vector<std::string>& skipped) {
  constexpr std::size_t most = 20;
  for (std::size_t i = 0; i < std::min(skipped.size(), most); ++i) {
    fmt::print(stderr, "left out: {}\n", printable(skipped[i]));
  }
  if (skipped.size() > most) fmt::print(stderr, "left out: {} more\n", skipped.size() - most);
}

}  // namespace refine::data
