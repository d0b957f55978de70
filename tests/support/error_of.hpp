#pragma once

#include <gtest/gtest.h>

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

#include <refine/core/error.hpp>

namespace refine::testing {

/// The line of the `Error` that `act` throws; empty when it throws none. Anything else passes through.
template <typename Act>
std::string error_of(Act&& act) {
  try {
    std::forward<Act>(act)();
  } catch (const Error& error) {
    const std::string line = error.what();
    EXPECT_EQ(line.find('\n'), std::string::npos) << line;
    return line;
  }
  return {};
}

inline void expect_words(const std::string& line, std::initializer_list<std::string_view> words) {
  for (const auto word : words) {
    EXPECT_NE(line.find(word), std::string::npos) << "'" << word << "' not in: " << line;
  }
}

}  // namespace refine::testing
