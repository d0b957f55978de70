#pragma once

#include <cstdint>

#include <refine/metrics/interval.hpp>

namespace refine::metrics {

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

}  // namespace refine::metrics

#if !defined(REFINE_COMPILED)
#include <refine/metrics/proportion_definitions.hpp>
#endif
