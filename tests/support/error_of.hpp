#pragma once

#include <gtest/gtest.h>

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

#include <refine/core/error.hpp>

namespace refine::testing {

/// Calls `act` and returns the line of the `Error` that it throws. Empty if it throws none; other
/// exceptions propagate.
///
/// Fails unless the message is one line.
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

/// Checks that a text contains each of `words`.
inline void expect_words(const std::string& line, std::initializer_list<std::string_view> words) {
  for (const auto word : words) {
    EXPECT_NE(line.find(word), std::string::npos) << "'" << word << "' not in: " << line;
  }
}

}  // namespace refine::testing
