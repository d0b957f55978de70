#pragma once

#include <fmt/core.h>

#include <concepts>
#include <cstddef>
#include <source_location>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace refine {

/// One line of diagnostics, built by `constexpr` code.
///
/// A structural type: the text that is thrown at run time can also be a template argument, which
/// the compiler prints (see `Agreement`).
struct Message {
  static constexpr std::size_t capacity = 240;  ///< in bytes; a longer text is cut and ends in dots

  char text[capacity + 1] = {};  ///< UTF-8, zero-terminated

  /// Returns the text.
  constexpr std::string_view view() const { return text; }

  /// True if there is nothing to report.
  constexpr bool empty() const { return text[0] == '\0'; }

  /// Appends text.
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

  /// Appends a number in decimal.
  constexpr Message& operator<<(std::integral auto number) {
    char reversed[24] = {};
    std::size_t digits = 0;
    // Unsigned: the magnitude of the smallest `long long` does not fit one.
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
  /// Replaces the end of a full text by three dots, or by more where a UTF-8 character would be cut
  /// in two.
  constexpr void mark_cut() {
    std::size_t from = capacity - 3;
    while (from > 0 && (static_cast<unsigned char>(text[from]) & 0xc0) == 0x80) --from;
    for (; from < capacity; ++from) text[from] = '.';
  }
};

namespace detail {

/// A format string, and where in the source it is written.
template <typename... Args>
struct LocatedFormat {
  fmt::format_string<Args...> format;
  std::source_location where;

  template <typename Text>
  requires std::convertible_to<const Text&, std::string_view>
  consteval LocatedFormat(const Text& text, std::source_location location = std::source_location::current())
      : format(text), where(location) {}
};

}  // namespace detail

/// An error that the user can fix: a missing file, a wrong shape, a full disk.
///
/// `what()` is one line, `subject: problem (got X, expected Y); hint`. Control characters, which a
/// name in a hostile file may contain, are replaced by spaces.
class Error : public std::runtime_error {
 public:
  static constexpr int exit_status = 2;  ///< of a program that ends with an Error

  /// \brief Constructs an error from its line.
  /// \param line the message
  /// \param where the place that raises it
  explicit Error(std::string line, std::source_location where = std::source_location::current())
      : std::runtime_error(one_line(std::move(line))), where_(where) {}

  /// \brief Constructs an error from a format string of fmt and its arguments.
  template <typename... Args>
  requires(sizeof...(Args) > 0) explicit Error(detail::LocatedFormat<std::type_identity_t<Args>...> format,
                                               Args&&... args)
      : Error(fmt::format(format.format, std::forward<Args>(args)...), format.where) {}

  /// Returns the place in the library that raised the error.
  const std::source_location& where() const { return where_; }

 private:
  static std::string one_line(std::string text) {
    for (std::size_t i = 0; i < text.size(); ++i) {
      const auto byte = static_cast<unsigned char>(text[i]);
      // C0, DEL, and C1 as UTF-8.
      const bool c1 = byte == 0xc2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xa0;
      if (byte < 0x20 || byte == 0x7f || c1) text[i] = ' ';
      if (c1) text[i + 1] = ' ';
    }
    return text;
  }

  std::source_location where_;
};

}  // namespace refine
