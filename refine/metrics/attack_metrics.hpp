#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include <refine/metrics/confusion.hpp>
#include <refine/metrics/lift.hpp>
#include <refine/metrics/proportion.hpp>

namespace refine::metrics {

/// The metrics of one classifier under one attack.
struct AttackMetrics {
  int classes = 0;                           ///< number of classes
  std::optional<int> target = std::nullopt;  ///< the attack's target class; empty if it has none
  Proportion ba = {};                        ///< benign accuracy: clean images predicted as their class
  /// Attack success rate: triggered images of other classes predicted as the target. Without a
  /// target, 0 of 0.
  Proportion asr = {};
  Proportion ra = {};              ///< robust accuracy: the same images predicted as their class
  ConfusionMatrix clean = {};      ///< classes × classes, all test images
  ConfusionMatrix triggered = {};  ///< the same images with the trigger, including those of the target class
  std::vector<Lift> lifts = {};    ///< one per class
  Lift largest_lift = {};          ///< the largest of `lifts`
};

/// Computes all metrics from the predictions for a test set.
///
/// Without a target, RA and the lifts are over all test images.
///
/// \param p the predictions, with and without the trigger
/// \throws Error if the lengths differ, or a class or the target is not in [0, classes)
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
    const std::int64_t target_to_target = result.triggered(t, t);
    result.ra.hits -= target_to_target;
    result.ra.n -= result.triggered.row(t).sum();
    result.asr = {.hits = result.triggered.col(t).sum() - target_to_target, .n = result.ra.n};
  }
  return result;
}

/// Returns the defense effectiveness rating (`zhu2023enhancing`), in [0, 1]:
/// (max(0, ΔASR) − max(0, ΔBA) + 1) / 2 with Δ = before − after.
///
/// A defense that changes nothing has 0.5.
///
/// \param before metrics of the victim
/// \param after metrics of the defended model
/// \return NaN without a target
inline double defense_effectiveness(const AttackMetrics& before, const AttackMetrics& after) {
  const double asr = before.asr.value() - after.asr.value();
  const double ba = before.ba.value() - after.ba.value();
  if (std::isnan(asr) || std::isnan(ba)) return std::numeric_limits<double>::quiet_NaN();
  return (std::max(0.0, asr) - std::max(0.0, ba) + 1) / 2;
}

}  // namespace refine::metrics
