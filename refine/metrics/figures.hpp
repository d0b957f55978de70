#pragma once

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
Figures figures(const Predictions& p);

}  // namespace refine::metrics

#if !defined(REFINE_COMPILED)
#include <refine/metrics/figures_definitions.hpp>
#endif
