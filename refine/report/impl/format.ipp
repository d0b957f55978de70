#pragma once

#include <refine/report/format.hpp>

#include <fmt/core.h>

#include <cmath>
#include <cstddef>

#include <refine/core/config.hpp>

namespace refine::report::format {

REFINE_INLINE std::string class_name(const std::vector<std::string>& names, int cls) {
  const auto i = static_cast<std::size_t>(cls);
  return i < names.size() && !names[i].empty() ? names[i] : fmt::format("class {}", cls);
}

REFINE_INLINE std::string count(std::int64_t number) {
  std::string text = fmt::format("{}", number);
  for (auto end = static_cast<std::ptrdiff_t>(text.size()) - 3; end > (number < 0 ? 1 : 0); end -= 3) {
    text.insert(static_cast<std::size_t>(end), ",");
  }
  return text;
}

REFINE_INLINE std::string hundredths(double share, int decimals) {
  if (!std::isfinite(share)) return std::string(missing);
  const double unit = std::pow(10.0, decimals);
  const double rounded = std::round(share * 100 * unit) / unit;
  return fmt::format("{}{:.{}f}", rounded < 0 ? "−" : "", std::abs(rounded), decimals);
}

REFINE_INLINE std::string percent(double share, int decimals) {
  return std::isfinite(share) ? hundredths(share, decimals) + " %" : std::string(missing);
}

REFINE_INLINE std::string signed_hundredths(double difference, int decimals) {
  const auto text = hundredths(difference, decimals);
  return std::isfinite(difference) && !text.starts_with("−") &&
                 text.find_first_not_of("0.") != std::string::npos
             ? "+" + text
             : text;
}

}  // namespace refine::report::format
