#pragma once

namespace refine::metrics {

/// What the data leave open about a figure, both ends included.
struct Interval {
  double low = 0;
  double high = 0;
};

/// The standard normal quantile of a two-sided 95 % interval.
inline constexpr double z95 = 1.959963984540054;

}  // namespace refine::metrics
