#pragma once

#include <functional>
#include <string>
#include <utility>

namespace refine {

/// One line about what happens, for a person. It may contain bytes of file names; `text::printable` makes
/// them safe to print.
struct Notice {
  /// How much attention a notice deserves.
  enum class Kind {
    note,     ///< a decision that the caller may want to know, such as which weights of a checkpoint are used
    warning,  ///< something that looks wrong and does not stop the work, such as few images
  };

  Kind kind = Kind::note;  ///< how much attention it deserves
  std::string text = {};   ///< without a prefix and without a line end
};

/// Receives notices while the library works. Empty: they are dropped.
///
///     DefendOptions options{.notify = [](const Notice& n) { std::cerr << n.text << '\n'; }};
using Notify = std::function<void(const Notice&)>;

namespace detail {

/// Sends a note, if anyone receives it.
inline void note(const Notify& notify, std::string text) {
  if (notify) notify({Notice::Kind::note, std::move(text)});
}

/// Sends a warning, if anyone receives it.
inline void warn(const Notify& notify, std::string text) {
  if (notify) notify({Notice::Kind::warning, std::move(text)});
}

}  // namespace detail

}  // namespace refine
