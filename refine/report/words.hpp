#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/core.h>

/// How figures are said, the same on the terminal and on the page.
namespace refine::report::words {

inline constexpr std::string_view missing = "–";

/// "cat", or "class 3" where there are no names.
inline std::string class_name(const std::vector<std::string>& names, int cls) {
  const auto i = static_cast<std::size_t>(cls);
  return i < names.size() && !names[i].empty() ? names[i] : fmt::format("class {}", cls);
}

/// 12345 as "12,345".
inline std::string count(std::int64_t number) {
  std::string text = fmt::format("{}", number);
  for (auto end = static_cast<std::ptrdiff_t>(text.size()) - 3; end > (number < 0 ? 1 : 0); end -= 3) {
    text.insert(static_cast<std::size_t>(end), ",");
  }
  return text;
}

/// A share times a hundred: 0.9139 as "91.39". Never "-0.00"; a dash for what is not a number.
inline std::string hundredths(double share, int decimals = 2) {
  if (!std::isfinite(share)) return std::string(missing);
  const double unit = std::pow(10.0, decimals);
  const double rounded = std::round(share * 100 * unit) / unit;
  return fmt::format("{}{:.{}f}", rounded < 0 ? "−" : "", std::abs(rounded), decimals);
}

/// "91.4 %"
inline std::string percent(double share, int decimals = 1) {
  return std::isfinite(share) ? hundredths(share, decimals) + " %" : std::string(missing);
}

/// A difference, with its sign: "+0.40", "−91.00".
inline std::string signed_hundredths(double difference, int decimals = 2) {
  const auto text = hundredths(difference, decimals);
  return std::isfinite(difference) && !text.starts_with("−") &&
                 text.find_first_not_of("0.") != std::string::npos
             ? "+" + text
             : text;
}

}  // namespace refine::report::words
