#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include <refine/metrics/figures.hpp>

namespace refine::metrics {

/// The defense effectiveness rating (zhu2023enhancing), in [0, 1]: (max(0, ΔASR) − max(0, ΔBA) + 1) / 2 with
/// Δ = before − after. 0.5 is a defense that did nothing; NaN without a target.
inline double defense_effectiveness(const Figures& before, const Figures& after) {
  const double asr = before.asr.value() - after.asr.value();
  const double ba = before.ba.value() - after.ba.value();
  if (std::isnan(asr) || std::isnan(ba)) return std::numeric_limits<double>::quiet_NaN();
  return (std::max(0.0, asr) - std::max(0.0, ba) + 1) / 2;
}

}  // namespace refine::metrics
