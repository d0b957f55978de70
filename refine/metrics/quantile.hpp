#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <utility>
#include <vector>

namespace refine::metrics {

/// Returns a quantile of values, interpolated linearly between neighbours; NaN if there are none.
/// \param values in any order
/// \param share of the values that are below it, in [0, 1]; 0.5 is the median
inline double quantile(std::vector<double> values, double share) {
  if (values.empty()) return std::numeric_limits<double>::quiet_NaN();
  std::ranges::sort(values);
  const double position = share * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::size_t>(position);
  const std::size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (values[above] - values[below]) * (position - static_cast<double>(below));
}

/// Returns the median of values; NaN if there are none.
inline double median(std::vector<double> values) {
  return quantile(std::move(values), 0.5);
}

/// The median of some values, and their spread.
struct Quartiles {
  double median = 0;
  double low = 0, high = 0;  ///< quartiles: a quarter of the values is below, a quarter above
  std::size_t n = 0;         ///< number of values
};

/// Returns the quartiles of values; NaN if there are none.
inline Quartiles quartiles(const std::vector<double>& values) {
  return {.median = quantile(values, 0.5),
          .low = quantile(values, 0.25),
          .high = quantile(values, 0.75),
          .n = values.size()};
}

}  // namespace refine::metrics
