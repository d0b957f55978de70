#pragma once

#include <concepts>
#include <cstddef>
#include <string_view>

namespace refine {

/// One line of diagnostics, built by `constexpr` code. It is a structural type, so that the very text which
/// is thrown at run time can also be a template argument, where the compiler prints it (see `Agreement`).
struct Message {
  static constexpr std::size_t capacity = 240;  ///< characters; what does not fit is cut off

  char text[capacity + 1] = {};

  constexpr std::string_view view() const { return text; }
  constexpr bool empty() const { return text[0] == '\0'; }

  constexpr Message& operator<<(std::string_view part) {
    std::size_t end = view().size();
    for (char c : part) {
      if (end < capacity) text[end++] = c;
    }
    return *this;
  }

  constexpr Message& operator<<(std::integral auto number) {
    char reversed[24] = {};
    std::size_t digits = 0;
    auto rest = number < 0 ? -static_cast<long long>(number) : static_cast<long long>(number);
    do {
      reversed[digits++] = static_cast<char>('0' + rest % 10);
      rest /= 10;
    } while (rest != 0);
    if (number < 0) *this << std::string_view("-");
    while (digits > 0) *this << std::string_view(&reversed[--digits], 1);
    return *this;
  }

  friend constexpr bool operator==(const Message&, const Message&) = default;
};

}  // namespace refine
