#pragma once

#include <fmt/core.h>

#include <cstddef>
#include <stdexcept>
#include <string>
#include <utility>

namespace refine {

/// What a user can cause and a user can mend: a missing file, a wrong shape, a full disk. `what()` is one
/// line that says what, why, where and what to do; a program prints it and exits with `Error::exit_status`.
class Error : public std::runtime_error {
 public:
  static constexpr int exit_status = 2;

  explicit Error(std::string line) : std::runtime_error(one_line(std::move(line))) {}

  template <typename... Args>
  requires(sizeof...(Args) > 0) explicit Error(fmt::format_string<Args...> format, Args&&... args)
      : Error(fmt::format(format, std::forward<Args>(args)...)) {}

 private:
  static std::string one_line(std::string text) {
    // A name from a hostile file may carry a terminal's control sequences: C0, DEL, and C1 as UTF-8.
    for (std::size_t i = 0; i < text.size(); ++i) {
      const auto byte = static_cast<unsigned char>(text[i]);
      const bool c1 = byte == 0xc2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xa0;
      if (byte < 0x20 || byte == 0x7f || c1) text[i] = ' ';
      if (c1) text[i + 1] = ' ';
    }
    return text;
  }
};

}  // namespace refine
