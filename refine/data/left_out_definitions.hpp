#pragma once

// What left_out.hpp declares.

#include <refine/data/left_out.hpp>

#include <fmt/core.h>

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <string>
#include <vector>

#include <refine/core/compiled.hpp>
#include <refine/core/one_line.hpp>

namespace refine::data {

REFINE_DEFINITION void tell_left_out(const std::vector<std::string>& skipped) {
  constexpr std::size_t most = 20;
  for (std::size_t i = 0; i < std::min(skipped.size(), most); ++i) {
    fmt::print(stderr, "left out: {}\n", printable(skipped[i]));
  }
  if (skipped.size() > most) fmt::print(stderr, "left out: {} more\n", skipped.size() - most);
}

}  // namespace refine::data
