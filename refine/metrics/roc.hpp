#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/metrics/proportion.hpp>

namespace refine::metrics {

/// One score an image: the higher, the more suspicious.
using Scores = std::span<const double>;

/// The area under the ROC curve of a score: the share of the pairs of a triggered and a clean image in which
/// the triggered one scores higher, ties counted half (Mann and Whitney). 0.5 is chance, 1 a score that tells
/// them apart without a mistake. Of no pairs, it has no value: NaN, and an interval of NaN.
struct Auroc {
  double wins = 0;  ///< pairs in which the triggered image scores higher, and half of those with equal scores
  std::int64_t triggered = 0;  ///< images
  std::int64_t clean = 0;      ///< images

  /// In [0, 1].
  double value() const;

  /// The standard error of Hanley and McNeil (hanley1982meaning), were `area` the true one.
  double standard_error(double area) const;

  /// The areas that the observed one does not reject: |value − area| ≤ z · standard_error(area), which, as
  /// Wilson's interval does, keeps its width at an observed 1 (newcombe2006confidence).
  Interval interval(double z = z95) const;

  friend bool operator==(const Auroc&, const Auroc&) = default;
};

namespace detail {

void require_numbers(std::string_view what, Scores scores);

}  // namespace detail

/// \throws Error when a score is not a number
Auroc auroc(Scores triggered, Scores clean);

/// The smallest threshold that at most `false_alarm_rate` of the scores lie above; a score above it, and not
/// on it, is an alarm.
/// \param clean scores of clean images, one at least \param false_alarm_rate in [0, 1)
/// \throws Error when a parameter is not so, or a score is not a number
double threshold_for(Scores clean, double false_alarm_rate);

/// An alarm measured: its threshold was set on some clean images, its figures are of other ones.
struct AlarmFigures {
  double threshold = 0;          ///< a score above it is an alarm
  double wanted_rate = 0;        ///< of false alarms, on the images that the threshold was set on
  Proportion false_alarms = {};  ///< clean images with an alarm
  std::optional<Proportion> detections = std::nullopt;  ///< triggered images with an alarm
  std::optional<Auroc> auroc = std::nullopt;            ///< triggered against clean, whatever the threshold

  friend bool operator==(const AlarmFigures&, const AlarmFigures&) = default;
};

inline double Auroc::value() const {
  if (triggered == 0 || clean == 0) return std::numeric_limits<double>::quiet_NaN();
  return wins / (static_cast<double>(triggered) * static_cast<double>(clean));
}

inline double Auroc::standard_error(double area) const {
  const double t = static_cast<double>(triggered), c = static_cast<double>(clean);
  const double spread = 1 + (t - 1) * (1 - area) / (2 - area) + (c - 1) * area / (1 + area);
  return std::sqrt(std::max(0.0, area * (1 - area) * spread / (t * c)));
}

inline Interval Auroc::interval(double z) const {
  const double seen = value();
  if (std::isnan(seen)) return {seen, seen};
  const auto end = [&](double far) {
    double near = seen;
    for (int i = 0; i < 60; ++i) {  // halving until nothing is left of the distance
      const double middle = (near + far) / 2;
      (std::abs(seen - middle) > z * standard_error(middle) ? far : near) = middle;
    }
    return far;
  };
  return {seen == 0 ? 0.0 : end(0), seen == 1 ? 1.0 : end(1)};
}

}  // namespace refine::metrics

namespace refine::metrics::detail {

inline void require_numbers(std::string_view what, Scores scores) {
  for (std::size_t i = 0; i < scores.size(); ++i) {
    if (!std::isnan(scores[i])) continue;
    throw Error("cannot compare the scores of {}: number {} is not a number; check that image", what, i);
  }
}

}  // namespace refine::metrics::detail

namespace refine::metrics {

inline Auroc auroc(Scores triggered, Scores clean) {
  detail::require_numbers("the triggered images", triggered);
  detail::require_numbers("the clean images", clean);
  std::vector<double> sorted(clean.begin(), clean.end());
  std::ranges::sort(sorted);
  std::int64_t halves = 0;
  for (const double score : triggered) {
    const auto equal = std::ranges::equal_range(sorted, score);
    halves += (equal.begin() - sorted.begin()) + (equal.end() - sorted.begin());
  }
  return {.wins = static_cast<double>(halves) / 2,
          .triggered = static_cast<std::int64_t>(triggered.size()),
          .clean = static_cast<std::int64_t>(clean.size())};
}

inline double threshold_for(Scores clean, double false_alarm_rate) {
  if (!(false_alarm_rate >= 0 && false_alarm_rate < 1)) {
    throw Error("cannot set the alarm: a false-alarm rate of {} was asked for; say 0 or more, below 1",
                false_alarm_rate);
  }
  if (clean.empty()) throw Error("cannot set the alarm: there are no clean images to set it on; give some");
  detail::require_numbers("the clean images", clean);
  // Not floor(rate · n): 0.29 · 100 is a little less than 29.
  std::size_t allowed = 0;
  const auto n = static_cast<double>(clean.size());
  while (static_cast<double>(allowed + 1) / n <= false_alarm_rate) ++allowed;
  std::vector<double> scores(clean.begin(), clean.end());
  const auto place = scores.begin() + static_cast<std::ptrdiff_t>(allowed);
  std::ranges::nth_element(scores, place, std::greater<>());
  return *place;
}

}  // namespace refine::metrics
