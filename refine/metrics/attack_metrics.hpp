#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include <refine/metrics/confusion.hpp>
#include <refine/metrics/lift.hpp>
#include <refine/metrics/proportion.hpp>
#include <refine/metrics/target.hpp>

namespace refine::metrics {

/// The metrics of one classifier under one attack.
struct AttackMetrics {
  int classes = 0;     ///< number of classes
  Target target = {};  ///< the attack's target class; empty if it has none
  Proportion ba = {};  ///< benign accuracy: clean images predicted as their class
  /// Attack success rate: triggered images that are predicted as the target of their class, over
  /// those of classes whose target is another class. Without a target, 0 of 0.
  Proportion asr = {};
  Proportion ra = {};  ///< robust accuracy: the same images predicted as their class
  /// Images whose prediction the trigger changes, over those of classes that are not their own
  /// target. Without a target, over all images.
  Proportion moved = {};
  ConfusionMatrix clean = {};      ///< classes × classes, all test images
  ConfusionMatrix triggered = {};  ///< the same images with the trigger, including those of the target class
  /// Those of the images whose prediction the trigger does not change.
  ConfusionMatrix unchanged = {};
  std::vector<Lift> lifts = {};     ///< one per class, over the images of `moved`
  Lift largest_lift = {};           ///< the largest of `lifts`
  PairLift largest_pair_lift = {};  ///< the largest over a true class and another predicted class
};

namespace detail {

/// Computes accuracies and attack success from the confusion matrices. Those of a matrix that is
/// empty stay 0 of 0.
inline void set_shares(AttackMetrics& m) {
  m.ba = {.hits = m.clean.trace(), .n = m.clean.sum()};
  if (m.triggered.size() == 0) return;
  if (!m.target) m.ra = {.hits = m.triggered.trace(), .n = m.triggered.sum()};
  for (int c = 0; c < m.classes; ++c) {
    if (!m.target.moves(c)) continue;
    m.asr.n += m.triggered.row(c).sum();
    m.asr.hits += m.triggered(c, *m.target.of(c));
    m.ra.hits += m.triggered(c, c);
  }
  if (m.target) m.ra.n = m.asr.n;
}

/// Computes the lifts and the moved share from all three matrices.
inline void set_lifts(AttackMetrics& m) {
  m.largest_pair_lift = largest_pair_lift(m.clean, m.triggered, m.unchanged);
  m.lifts = lifts_of(m.clean, m.triggered, m.unchanged, m.target);
  m.largest_lift = largest_lift(m.lifts);
  m.moved.n = m.largest_lift.n;
  for (const Lift& lift : m.lifts) m.moved.hits += lift.gained;  // an image is gained by one class
}

}  // namespace detail

/// Computes all metrics from the predictions for a test set.
///
/// Without a target, RA, the moved share and the lifts are over all test images.
///
/// \param p the predictions, with and without the trigger
/// \throws Error if the lengths differ, or a class or a target is not in [0, classes)
inline AttackMetrics attack_metrics(const Predictions& p) {
  detail::require_labels("true labels", p.truth, p.truth.size(), p.classes);
  detail::require_labels("clean predictions", p.clean, p.truth.size(), p.classes);
  detail::require_labels("triggered predictions", p.triggered, p.truth.size(), p.classes);
  p.target.require_valid(p.classes);
  AttackMetrics result{.classes = p.classes, .target = p.target};
  auto [without, with, unchanged] = detail::count_pairs(p.truth, p.clean, p.triggered, p.classes);
  result.clean = std::move(without);
  result.triggered = std::move(with);
  result.unchanged = std::move(unchanged);
  detail::set_shares(result);
  detail::set_lifts(result);
  return result;
}

/// Removes what says nothing if a classifier's own answers stood for the labels: BA and RA, whose `n` becomes 0.
inline void forget_labels(AttackMetrics& m) {
  m.ba = m.ra = {};
}

/// Returns the lift of class `cls` over the images of class `truth`; its `n` is 0 if the predictions
/// of pairs were not measured.
///
/// \param m the metrics of the classifier
/// \param truth the true class, in [0, classes)
/// \param cls another class, in [0, classes)
inline PairLift pair_lift(const AttackMetrics& m, int truth, int cls) {
  if (m.largest_pair_lift.lift.n == 0) return {.truth = truth, .lift = {.cls = cls}};
  return {.truth = truth,
          .lift = detail::lift_of_pair(m.clean, m.triggered, m.unchanged, truth, cls),
          .pairs = m.largest_pair_lift.pairs};
}

/// Returns what the trigger adds to what the attacker wants: the share of images that are predicted as the target of
/// their class with the trigger, minus the share of the same images without it, over the images that the attack moves.
///
/// It is one number for all classes, so that few images of each class suffice. With one target class, it is the lift
/// of that class. Its `cls` says nothing.
///
/// \param m the metrics of the classifier
/// \return its `n` is 0 without a target, or if the predictions of pairs were not measured
inline Lift target_lift(const AttackMetrics& m) {
  Lift lift;
  if (!m.target || m.largest_pair_lift.lift.n == 0) return lift;
  for (int truth = 0; truth < m.classes; ++truth) {
    if (!m.target.moves(truth)) continue;
    const Lift pair = detail::lift_of_pair(m.clean, m.triggered, m.unchanged, truth, *m.target.of(truth));
    lift.with_trigger += pair.with_trigger;
    lift.without_trigger += pair.without_trigger;
    lift.gained += pair.gained;
    lift.lost += pair.lost;
    lift.n += pair.n;
  }
  return lift;
}

/// Returns the pairs of a true class and another class that the trigger lifts by more than a
/// threshold, at the lower end of `PairLift::interval()`; the largest lift first.
///
/// \param m the metrics of the classifier
/// \param threshold in [0, 1]
inline std::vector<PairLift> pair_lifts_above(const AttackMetrics& m, double threshold) {
  std::vector<PairLift> above;
  if (m.largest_pair_lift.lift.n == 0) return above;
  const double z = z95_of_largest(m.largest_pair_lift.pairs);
  for (int truth = 0; truth < m.classes; ++truth) {
    for (int cls = 0; cls < m.classes; ++cls) {
      if (truth == cls || m.triggered(truth, cls) <= m.clean(truth, cls)) continue;
      const PairLift pair = pair_lift(m, truth, cls);
      if (pair.lift.interval(z).low > threshold) above.push_back(pair);
    }
  }
  std::ranges::stable_sort(above, std::ranges::greater(), &PairLift::value);
  return above;
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
