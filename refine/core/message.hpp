#pragma once

#include <concepts>
#include <cstddef>
#include <string_view>

namespace refine {

/// One line of diagnostics, built by `constexpr` code. It is a structural type, so that the very text which
/// is thrown at run time can also be a template argument, where the compiler prints it (see `Agreement`).
struct Message {
  static constexpr std::size_t capacity = 240;  ///< bytes; a longer text is cut there and ends in dots

  char text[capacity + 1] = {};

  constexpr std::string_view view() const { return text; }
  constexpr bool empty() const { return text[0] == '\0'; }

  constexpr Message& operator<<(std::string_view part) {
    std::size_t end = view().size();
    for (char c : part) {
      if (end == capacity) {
        mark_cut();
        break;
      }
      text[end++] = c;
    }
    return *this;
  }

  constexpr Message& operator<<(std::integral auto number) {
    char reversed[24] = {};
    std::size_t digits = 0;
    // The magnitude, unsigned: that of the smallest number is no `long long`.
    const bool negative = std::signed_integral<decltype(number)> && static_cast<long long>(number) < 0;
    const auto bits = static_cast<unsigned long long>(number);
    auto rest = negative ? 0 - bits : bits;
    do {
      reversed[digits++] = static_cast<char>('0' + rest % 10);
      rest /= 10;
    } while (rest != 0);
    if (negative) *this << std::string_view("-");
    while (digits > 0) *this << std::string_view(&reversed[--digits], 1);
    return *this;
  }

  friend constexpr bool operator==(const Message&, const Message&) = default;

 private:
  /// Replaces the end of a full text by three dots or, so that no UTF-8 character is cut in two, some more.
  constexpr void mark_cut() {
    std::size_t from = capacity - 3;
    while (from > 0 && (static_cast<unsigned char>(text[from]) & 0xc0) == 0x80) --from;
    for (; from < capacity; ++from) text[from] = '.';
  }
};

}  // namespace refine
