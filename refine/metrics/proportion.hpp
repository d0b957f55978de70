#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>

namespace refine::metrics {

/// A confidence interval; both ends belong to it.
struct Interval {
  double low = 0;   ///< lower end
  double high = 0;  ///< upper end
};

/// The standard normal quantile of a two-sided 95 % interval.
inline constexpr double z95 = 1.959963984540054;

/// Returns the standard normal quantile that is exceeded with probability `tail`, to about 14 digits.
///
/// Newton's method on erfc. It starts at 0, left of the solution, where the upper tail is convex: it
/// approaches from the left and never overshoots.
///
/// \param tail in (0, 0.5]
inline double upper_quantile(double tail) {
  constexpr double density_at_0 = std::numbers::inv_sqrtpi / std::numbers::sqrt2;
  double z = 0;
  for (int i = 0; i < 1000; ++i) {  // about z² / 2 steps: 18 for a tail of 1e-9
    const double excess = std::erfc(z / std::numbers::sqrt2) / 2 - tail;
    const double next = z + excess / (density_at_0 * std::exp(-z * z / 2));
    if (!(next > z)) break;
    z = next;
  }
  return z;
}

/// Returns the standard normal quantile of two-sided intervals that hold together with 95 %
/// probability (Bonferroni's inequality, `dunn1961multiple`), if each has the coverage of its level. The interval of
/// the largest of `count` estimates needs it: that one was selected for being the largest.
///
/// \param count number of intervals, at least 1
inline double z95_of_largest(std::int64_t count) {
  return upper_quantile(0.025 / static_cast<double>(count));
}

/// A count out of a total. If the total is 0, its value and interval are NaN.
struct Proportion {
  std::int64_t hits = 0;  ///< the count
  std::int64_t n = 0;     ///< the total

  /// Returns hits / n, in [0, 1].
  double value() const {
    return n == 0 ? std::numeric_limits<double>::quiet_NaN()
                  : static_cast<double>(hits) / static_cast<double>(n);
  }

  /// Returns Wilson's score interval (`wilson1927probable`), which keeps its coverage near 0 and 1,
  /// where the metrics of a defense lie.
  ///
  /// \param z normal quantile of the confidence level
  Interval wilson(double z = z95) const {
    const double count = static_cast<double>(n);
    const double p = value();
    const double share = z * z / count;
    const double middle = p + share / 2;
    const double half = z * std::sqrt(p * (1 - p) / count + share / (4 * count));
    if (n == 0) return {p, p};
    // At 0 and 1 the root equals the other term; computing the difference would leave a rounding
    // error.
    return {hits == 0 ? 0.0 : std::max(0.0, (middle - half) / (1 + share)),
            hits == n ? 1.0 : std::min(1.0, (middle + half) / (1 + share))};
  }

  /// True if counts and totals are equal.
  friend bool operator==(const Proportion&, const Proportion&) = default;
};

}  // namespace refine::metrics
