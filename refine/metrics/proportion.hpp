#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

namespace refine::metrics {

/// What the data leave open about a figure, both ends included.
struct Interval {
  double low = 0;
  double high = 0;
};

/// The standard normal quantile of a two-sided 95 % interval.
inline constexpr double z95 = 1.959963984540054;

/// So many of so many. Of none, it has no value: NaN, and an interval of NaN.
struct Proportion {
  std::int64_t hits = 0;
  std::int64_t n = 0;

  /// In [0, 1].
  double value() const;

  /// The score interval of Wilson (wilson1927probable), which holds its word near 0 and 1, where the figures
  /// of a defense lie.
  Interval wilson(double z = z95) const;

  friend bool operator==(const Proportion&, const Proportion&) = default;
};

inline double Proportion::value() const {
  return n == 0 ? std::numeric_limits<double>::quiet_NaN()
                : static_cast<double>(hits) / static_cast<double>(n);
}

inline Interval Proportion::wilson(double z) const {
  const double count = static_cast<double>(n);
  const double p = value();
  const double share = z * z / count;
  const double middle = p + share / 2;
  const double half = z * std::sqrt(p * (1 - p) / count + share / (4 * count));
  if (n == 0) return {p, p};
  // At the ends the root equals the other term; only rounding would say otherwise.
  return {hits == 0 ? 0.0 : std::max(0.0, (middle - half) / (1 + share)),
          hits == n ? 1.0 : std::min(1.0, (middle + half) / (1 + share))};
}

}  // namespace refine::metrics
