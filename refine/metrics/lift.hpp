#pragma once

#include <Eigen/Core>
#include <range/v3/algorithm/max_element.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/metrics/confusion.hpp>
#include <refine/metrics/proportion.hpp>

namespace refine::metrics {

/// What the trigger adds to one class: the share of images predicted as `cls` with the trigger,
/// minus the share of the same images predicted as `cls` without it.
///
/// At the target, the lift is the attack itself. At other classes, it finds an attack that was
/// merely redirected to another class, which the attack success rate at the target misses.
struct Lift {
  int cls = 0;                       ///< the class
  std::int64_t with_trigger = 0;     ///< images predicted as `cls` with the trigger
  std::int64_t without_trigger = 0;  ///< the same images predicted as `cls` without it
  std::int64_t gained = 0;           ///< images predicted as `cls` with the trigger only
  std::int64_t lost = 0;             ///< images predicted as `cls` without the trigger only
  std::int64_t n = 0;                ///< images
  std::int64_t candidates = 1;  ///< lifts among which this one was selected as the largest; 1: it was not

  /// Returns the lift, in [-1, 1]; NaN if there are no images.
  double value() const {
    if (n == 0) return std::numeric_limits<double>::quiet_NaN();
    return static_cast<double>(with_trigger - without_trigger) / static_cast<double>(n);
  }

  /// Returns the adjusted Wald interval for paired proportions (`bonett2012adjusted`).
  ///
  /// Both shares are of the same images, so only images whose prediction changed carry information.
  /// One image is added to those gained and one to those lost; the interval's centre is therefore
  /// slightly nearer to 0 than `value()`.
  ///
  /// \param z normal quantile of the confidence level
  Interval interval(double z) const {
    if (n == 0) return {value(), value()};
    const double count = static_cast<double>(n) + 2;
    const double up = (static_cast<double>(gained) + 1) / count;
    const double down = (static_cast<double>(lost) + 1) / count;
    const double half = z * std::sqrt((up + down - (up - down) * (up - down)) / count);
    return {std::max(-1.0, up - down - half), std::min(1.0, up - down + half)};
  }

  /// Returns that interval, widened for the selection among `candidates` (`z95_of_largest`).
  ///
  /// The interval is approximate. At this level and small counts, its upper end is below the true lift more often than
  /// the level says, and its lower end above it less often.
  Interval interval() const { return interval(z95_of_largest(std::max<std::int64_t>(candidates, 1))); }

  /// True if all counts are equal.
  friend bool operator==(const Lift&, const Lift&) = default;
};

namespace detail {

/// One count per class.
using ClassCounts = Eigen::Array<std::int64_t, Eigen::Dynamic, 1>;

/// Confusion matrices of the same images.
struct PairedCounts {
  ConfusionMatrix without;    ///< predictions without the trigger
  ConfusionMatrix with;       ///< predictions with it
  ConfusionMatrix unchanged;  ///< of the images whose prediction is the same with and without it
};

/// Counts the clean and the triggered predictions. Rows are the classes in `rows`. The labels must
/// be valid.
inline PairedCounts count_pairs(Labels rows, Labels clean, Labels triggered, int classes) {
  const auto zero = ConfusionMatrix::Zero(classes, classes);
  PairedCounts counts = {zero, zero, zero};
  for (std::size_t i = 0; i < rows.size(); ++i) {
    ++counts.without(rows[i], clean[i]);
    ++counts.with(rows[i], triggered[i]);
    if (clean[i] == triggered[i]) ++counts.unchanged(rows[i], clean[i]);
  }
  return counts;
}

/// Returns the lift of every class from the images of each predicted class.
/// \param n images of each class's lift
inline std::vector<Lift> lifts_of(const ClassCounts& without, const ClassCounts& with,
                                  const ClassCounts& unchanged, const ClassCounts& n) {
  std::vector<Lift> lifts;
  lifts.reserve(static_cast<std::size_t>(n.size()));
  for (Eigen::Index c = 0; c < n.size(); ++c) {
    lifts.push_back({.cls = static_cast<int>(c),
                     .with_trigger = with[c],
                     .without_trigger = without[c],
                     .gained = with[c] - unchanged[c],
                     .lost = without[c] - unchanged[c],
                     .n = n[c]});
  }
  return lifts;
}

/// Returns the lift of every class over the images of classes that are not their own target.
inline std::vector<Lift> lifts_of(const ConfusionMatrix& without, const ConfusionMatrix& with,
                                  const ConfusionMatrix& unchanged, const Target& target) {
  const auto per_class = [&](const ConfusionMatrix& matrix) -> ClassCounts {
    ClassCounts sum = matrix.colwise().sum().transpose();
    for (int c = 0; c < static_cast<int>(matrix.rows()); ++c) {
      if (target.is_at(c)) sum -= matrix.row(c).transpose().array();
    }
    return sum;
  };
  const ClassCounts images = per_class(without);
  return lifts_of(images, per_class(with), per_class(unchanged),
                  ClassCounts::Constant(images.size(), images.sum()));
}

}  // namespace detail

/// Returns the largest of the lifts; among equals, that of the lowest class.
///
/// \param lifts not empty, all over the same images
/// \return that lift, with its `candidates`
inline Lift largest_lift(const std::vector<Lift>& lifts) {
  Lift largest =
      *ranges::max_element(lifts, {}, [](const Lift& l) { return l.with_trigger - l.without_trigger; });
  largest.candidates = static_cast<std::int64_t>(lifts.size());
  return largest;
}

/// The lift of a pair of classes: what the trigger adds to the class `lift.cls`, over the images of
/// another true class.
///
/// It finds what the lift of a class cannot: an attack with a target for each class moves every
/// image and leaves all classes as frequent as before, and an attack on one class is diluted by the
/// images of all others.
struct PairLift {
  int truth = 0;           ///< the true class
  Lift lift = {};          ///< of another class, over the images of class `truth`
  std::int64_t pairs = 0;  ///< number of pairs among which this one was selected

  /// Returns the lift, in [-1, 1]; NaN if there are no images.
  double value() const { return lift.value(); }

  /// Returns the interval of `Lift`, widened for the selection among `pairs`; approximate, too.
  Interval interval() const { return lift.interval(z95_of_largest(std::max<std::int64_t>(pairs, 1))); }

  /// True if classes and counts are equal.
  friend bool operator==(const PairLift&, const PairLift&) = default;
};

namespace detail {

/// Returns the number of pairs of a true class that has images and another class.
inline std::int64_t number_of_pairs(const ConfusionMatrix& counts) {
  return (counts.rowwise().sum().array() > 0).count() * (counts.cols() - 1);
}

/// Returns the lift of class `cls` over the images of class `truth`.
inline Lift lift_of_pair(const ConfusionMatrix& without, const ConfusionMatrix& with,
                         const ConfusionMatrix& unchanged, Eigen::Index truth, Eigen::Index cls) {
  return {.cls = static_cast<int>(cls),
          .with_trigger = with(truth, cls),
          .without_trigger = without(truth, cls),
          .gained = with(truth, cls) - unchanged(truth, cls),
          .lost = without(truth, cls) - unchanged(truth, cls),
          .n = without.row(truth).sum()};
}

/// Returns the largest lift of a pair, by share; among equals, that of the lowest true class, then
/// of the lowest predicted class. Without images or with one class, its `n` is 0.
inline PairLift largest_pair_lift(const ConfusionMatrix& without, const ConfusionMatrix& with,
                                  const ConfusionMatrix& unchanged) {
  PairLift largest{.pairs = number_of_pairs(without)};
  for (Eigen::Index truth = 0; largest.pairs > 0 && truth < without.rows(); ++truth) {
    if (without.row(truth).sum() == 0) continue;
    Eigen::Matrix<std::int64_t, 1, Eigen::Dynamic> added = with.row(truth) - without.row(truth);
    added[truth] = std::numeric_limits<std::int64_t>::min();  // no pair
    Eigen::Index cls = 0;
    added.maxCoeff(&cls);
    const Lift lift = lift_of_pair(without, with, unchanged, truth, cls);
    if (largest.lift.n > 0 && lift.value() <= largest.value()) continue;
    largest.truth = static_cast<int>(truth);
    largest.lift = lift;
  }
  return largest;
}

}  // namespace detail

/// The result of a guessed trigger on clean images without labels.
struct ScanEntry {
  std::string trigger;            ///< description: "checkerboard 3×3, bottom right"
  std::vector<Lift> before = {};  ///< lifts of the victim, one per class
  std::vector<Lift> after = {};   ///< lifts of the defended model, one per class
  bool local = true;              ///< true: changes a small part of the image, which no sound model reacts to
  std::vector<Lift> gated = {};   ///< lifts of the gated answer, one per class; empty: not measured

  /// Returns the number of images. Each of them counts for all classes except the one that the
  /// victim predicts.
  std::int64_t images() const {
    std::int64_t sum = 0;
    for (const Lift& lift : before) sum += lift.n;
    return before.size() < 2 ? 0 : sum / static_cast<std::int64_t>(before.size() - 1);
  }

  /// True if all fields are equal.
  friend bool operator==(const ScanEntry&, const ScanEntry&) = default;
};

/// Returns the lift of every class without labels: over the images that the victim does not predict
/// as that class. Each class has its own `n`. For the victim itself, `without_trigger` is 0.
///
/// \param victim classes that the victim predicts for the clean images
/// \param clean classes that the measured model predicts without the trigger, in the same order
/// \param triggered classes that it predicts with the trigger, in the same order
/// \param classes number of classes, at least 1
/// \throws Error if the lengths differ or a class is not in [0, classes)
inline std::vector<Lift> scan_lifts(Labels victim, Labels clean, Labels triggered, int classes) {
  detail::require_labels("victim's predictions", victim, victim.size(), classes);
  detail::require_labels("clean predictions", clean, victim.size(), classes);
  detail::require_labels("triggered predictions", triggered, victim.size(), classes);
  // A matrix would have the square of the classes, and a scan calls this for each of its triggers.
  const auto zero = detail::ClassCounts::Zero(classes);
  detail::ClassCounts without = zero, with = zero, unchanged = zero;
  detail::ClassCounts n = detail::ClassCounts::Constant(classes, static_cast<std::int64_t>(victim.size()));
  for (std::size_t i = 0; i < victim.size(); ++i) {
    --n[victim[i]];
    without[clean[i]] += clean[i] != victim[i];
    with[triggered[i]] += triggered[i] != victim[i];
    unchanged[clean[i]] += clean[i] == triggered[i] && clean[i] != victim[i];
  }
  return detail::lifts_of(without, with, unchanged, n);
}

/// Returns the lift with the largest `value()`; among equals, that of the lowest class. Unlike
/// `largest_lift`, compares lifts over different images.
///
/// \param lifts those over no images are ignored
/// \return that lift, with its `candidates`; a lift with `n` = 0 if none is left
inline Lift max_lift_by_share(const std::vector<Lift>& lifts) {
  Lift best;
  std::int64_t candidates = 0;
  for (const Lift& lift : lifts) {
    if (lift.n == 0) continue;
    ++candidates;
    if (best.n == 0 || lift.value() > best.value()) best = lift;
  }
  best.candidates = std::max<std::int64_t>(candidates, 1);
  return best;
}

}  // namespace refine::metrics
