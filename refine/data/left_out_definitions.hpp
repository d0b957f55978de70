#pragma once

// What left_out.hpp declares.

#include <refine/data/left_out.hpp>

#include <fmt/core.h>

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <map>
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

REFINE_DEFINITION void tell_passed_over(const std::vector<std::filesystem::path>& files) {
  if (files.empty()) return;
  std::map<std::string, std::size_t> counts;
  for (const auto& file : files) ++counts[file.extension().string()];
  std::string kinds;
  for (const auto& [extension, count] : counts) {
    kinds += fmt::format("{}{} {}", kinds.empty() ? "" : ", ", count,
                         extension.empty() ? "without an extension" : printable(extension));
  }
  fmt::print(stderr, "passed over: {} file{} not read as an image ({}), the first {}\n", files.size(),
             files.size() == 1 ? "" : "s", kinds, printable(files.front().string()));
}

}  // namespace refine::data
