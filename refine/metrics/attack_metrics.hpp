#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include <refine/metrics/confusion.hpp>
#include <refine/metrics/lift.hpp>
#include <refine/metrics/proportion.hpp>

namespace refine::metrics {

/// The figures of one classifier under one attack.
struct AttackMetrics {
  int classes = 0;
  std::optional<int> target = std::nullopt;
  Proportion ba = {};   ///< clean images predicted as their class
  Proportion asr = {};  ///< triggered images of other classes predicted as the target; of none without one
  Proportion ra = {};   ///< the same images predicted as their class
  ConfusionMatrix clean = {};      ///< classes × classes, all test images
  ConfusionMatrix triggered = {};  ///< the same images with the trigger, those of the target class too
  std::vector<Lift> lifts = {};    ///< one a class
  Lift largest_lift = {};
};

/// \throws Error when the lengths differ, or a label or the target lies outside [0, classes)
AttackMetrics attack_metrics(const Predictions& p);

/// The defense effectiveness rating (zhu2023enhancing), in [0, 1]: (max(0, ΔASR) − max(0, ΔBA) + 1) / 2 with
/// Δ = before − after. 0.5 is a defense that did nothing; NaN without a target.
inline double defense_effectiveness(const AttackMetrics& before, const AttackMetrics& after) {
  const double asr = before.asr.value() - after.asr.value();
  const double ba = before.ba.value() - after.ba.value();
  if (std::isnan(asr) || std::isnan(ba)) return std::numeric_limits<double>::quiet_NaN();
  return (std::max(0.0, asr) - std::max(0.0, ba) + 1) / 2;
}

inline AttackMetrics attack_metrics(const Predictions& p) {
  AttackMetrics result{.classes = p.classes, .target = p.target};
  result.lifts = lifts(p.truth, p.clean, p.triggered, p.classes, p.target);
  result.largest_lift = largest_lift(result.lifts);
  result.clean = confusion_matrix(p.truth, p.clean, p.classes);
  result.triggered = confusion_matrix(p.truth, p.triggered, p.classes);
  result.ba = {.hits = result.clean.trace(), .n = result.clean.sum()};
  result.ra = {.hits = result.triggered.trace(), .n = result.triggered.sum()};
  if (p.target) {
    const int t = *p.target;
    result.ra.hits -= result.triggered(t, t);
    result.ra.n -= result.triggered.row(t).sum();
    result.asr = {.hits = result.triggered.col(t).sum() - result.triggered(t, t), .n = result.ra.n};
  }
  return result;
}

}  // namespace refine::metrics
