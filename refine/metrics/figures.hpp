#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include <refine/metrics/confusion_matrix.hpp>
#include <refine/metrics/lift.hpp>
#include <refine/metrics/predictions.hpp>
#include <refine/metrics/proportion.hpp>

namespace refine::metrics {

/// The figures of one classifier under one attack.
struct Figures {
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
inline Figures figures(const Predictions& p) {
  Figures result{.classes = p.classes, .target = p.target};
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
