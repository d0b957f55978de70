#pragma once

#include <fmt/core.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

/// Formats numbers and class names the same way in the terminal table and on the page.
namespace refine::report::format {

/// Stands for a value that is not a number or was not measured.
inline constexpr std::string_view missing = "–";

/// Returns the name of a class, or "class 3" if it has none.
inline std::string class_name(const std::vector<std::string>& names, int cls) {
  const auto i = static_cast<std::size_t>(cls);
  return i < names.size() && !names[i].empty() ? names[i] : fmt::format("class {}", cls);
}

/// Formats a count with thousands separators: 12345 as "12,345".
inline std::string count(std::int64_t number) {
  std::string text = fmt::format("{}", number);
  for (auto end = static_cast<std::ptrdiff_t>(text.size()) - 3; end > (number < 0 ? 1 : 0); end -= 3) {
    text.insert(static_cast<std::size_t>(end), ",");
  }
  return text;
}

/// Formats a share times a hundred: 0.9139 as "91.39". Never "-0.00"; `missing` if the share is not
/// finite.
inline std::string hundredths(double share, int decimals = 2) {
  if (!std::isfinite(share)) return std::string(missing);
  const double unit = std::pow(10.0, decimals);
  const double rounded = std::round(share * 100 * unit) / unit;
  return fmt::format("{}{:.{}f}", rounded < 0 ? "−" : "", std::abs(rounded), decimals);
}

/// Formats a share in percent: 0.9139 as "91.4 %". `missing` if it is not finite.
inline std::string percent(double share, int decimals = 1) {
  return std::isfinite(share) ? hundredths(share, decimals) + " %" : std::string(missing);
}

/// Formats a difference of shares times a hundred, with its sign: "+0.40", "−91.00". `missing` if
/// it is not finite.
inline std::string signed_hundredths(double difference, int decimals = 2) {
  const auto text = hundredths(difference, decimals);
  return std::isfinite(difference) && !text.starts_with("−") &&
                 text.find_first_not_of("0.") != std::string::npos
             ? "+" + text
             : text;
}

}  // namespace refine::report::format
