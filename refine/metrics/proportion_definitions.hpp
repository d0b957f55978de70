#pragma once

// What proportion.hpp declares.

#include <refine/metrics/proportion.hpp>

#include <algorithm>
#include <cmath>
#include <limits>

#include <refine/core/compiled.hpp>

namespace refine::metrics {

REFINE_DEFINITION double Proportion::value() const {
  return n == 0 ? std::numeric_limits<double>::quiet_NaN()
                : static_cast<double>(hits) / static_cast<double>(n);
}

REFINE_DEFINITION Interval Proportion::wilson(double z) const {
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
