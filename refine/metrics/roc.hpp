#pragma once

#include <unsupported/Eigen/SpecialFunctions>

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

/// One score per image: the higher, the more suspicious.
using Scores = std::span<const double>;

/// The area under the ROC curve of a score: the share of pairs of a triggered and a clean image in
/// which the triggered image has the higher score, ties counted as one half (Mann and Whitney).
///
/// 0.5 is chance; 1 is a score that separates the two without a mistake. If there are no pairs,
/// value and interval are NaN.
struct Auroc {
  double wins = 0;  ///< pairs in which the triggered image has the higher score, plus half the ties
  std::int64_t triggered = 0;  ///< number of triggered images
  std::int64_t clean = 0;      ///< number of clean images

  /// Returns the area, in [0, 1].
  double value() const {
    if (triggered == 0 || clean == 0) return std::numeric_limits<double>::quiet_NaN();
    return wins / (static_cast<double>(triggered) * static_cast<double>(clean));
  }

  /// Returns the standard error of Hanley and McNeil (`hanley1982meaning`).
  ///
  /// \param area the true area, in [0, 1]
  double standard_error(double area) const {
    const double t = static_cast<double>(triggered), c = static_cast<double>(clean);
    const double spread = 1 + (t - 1) * (1 - area) / (2 - area) + (c - 1) * area / (1 + area);
    return std::sqrt(std::max(0.0, area * (1 - area) * spread / (t * c)));
  }

  /// Returns the areas that the observed one does not reject: |value() − area| ≤ z ·
  /// standard_error(area). As Wilson's interval does, it keeps its width if the observed area is 1
  /// (`newcombe2006confidence`).
  ///
  /// \param z normal quantile of the confidence level
  Interval interval(double z = z95) const {
    const double observed = value();
    if (std::isnan(observed)) return {observed, observed};
    const auto end = [&](double rejected) {
      double accepted = observed;
      for (int i = 0; i < 60; ++i) {  // bisects down to the precision of double
        const double middle = (accepted + rejected) / 2;
        (std::abs(observed - middle) > z * standard_error(middle) ? rejected : accepted) = middle;
      }
      return rejected;
    };
    return {observed == 0 ? 0.0 : end(0), observed == 1 ? 1.0 : end(1)};
  }

  /// True if all counts are equal.
  friend bool operator==(const Auroc&, const Auroc&) = default;
};

namespace detail {

/// Throws if a score is NaN. `what` names the scores' images.
inline void require_numbers(std::string_view what, Scores scores) {
  for (std::size_t i = 0; i < scores.size(); ++i) {
    if (std::isnan(scores[i])) throw Error("scores of the {}: score {} is NaN; check that image", what, i);
  }
}

}  // namespace detail

/// Compares the scores of triggered and of clean images.
///
/// \param triggered scores of triggered images
/// \param clean scores of clean images
/// \throws Error if a score is NaN
inline Auroc auroc(Scores triggered, Scores clean) {
  detail::require_numbers("triggered images", triggered);
  detail::require_numbers("clean images", clean);
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

namespace detail {

/// Checks the arguments of a threshold.
inline void check_calibration(Scores clean, double false_alarm_rate) {
  if (!(false_alarm_rate >= 0 && false_alarm_rate < 1)) {
    throw Error("alarm: a false-alarm rate of {} is out of range (expected at least 0 and below 1)",
                false_alarm_rate);
  }
  if (clean.empty()) throw Error("alarm: no clean images to calibrate the threshold on; give at least one");
  require_numbers("clean images", clean);
}

/// Returns the largest whole number k for which k / n is at most a share. Not floor(share · n): in binary, 0.29 · 100
/// is slightly less than 29.
/// \param share in [0, 1]
/// \param n above 0
inline double whole_part(double share, double n) {
  const double next =
      std::floor(share * n) + 1;  // one more than k, if the product is not rounded over a whole number
  for (const double count : {next, next - 1}) {
    if (count / n <= share) return count;
  }
  return next - 2;
}

/// Returns the score that `above` scores are above, or equal to.
/// \param above a whole number, less than the number of scores
inline double score_below(Scores scores, double above) {
  std::vector<double> sorted(scores.begin(), scores.end());
  const auto place = sorted.begin() + static_cast<std::ptrdiff_t>(above);
  std::ranges::nth_element(sorted, place, std::greater<>());
  return *place;
}

}  // namespace detail

/// Returns the smallest threshold that at most `false_alarm_rate` of the scores exceed. A score
/// above the threshold, but not equal to it, is an alarm.
///
/// \param clean scores of clean images, at least one
/// \param false_alarm_rate in [0, 1)
/// \throws Error if there are no scores, the rate is out of range, or a score is NaN
inline double threshold_for(Scores clean, double false_alarm_rate) {
  detail::check_calibration(clean, false_alarm_rate);
  return detail::score_below(clean, detail::whole_part(false_alarm_rate, static_cast<double>(clean.size())));
}

/// Returns the smallest of the scores that the score of a further clean image exceeds with a probability of at most
/// `false_alarm_rate` (split conformal prediction, `angelopoulos2023conformal`): among n + 1 images, each rank of the
/// further one is equally likely. It is a little above `threshold_for`, which keeps the rate on the given images only.
/// With fewer than 1/rate − 1 images no score keeps the rate, and the largest one is returned.
///
/// \param clean scores of clean images, drawn as those to come, at least one
/// \param false_alarm_rate in [0, 1)
/// \throws Error as `threshold_for`
inline double calibrate_threshold(Scores clean, double false_alarm_rate) {
  detail::check_calibration(clean, false_alarm_rate);
  const double above = detail::whole_part(false_alarm_rate, static_cast<double>(clean.size()) + 1);
  return detail::score_below(clean, std::max(above - 1, 0.0));
}

/// Returns the share of the scores that exceed a threshold.
inline Proportion share_above(Scores scores, double threshold) {
  return {.hits = std::ranges::count_if(scores, [&](double score) { return score > threshold; }),
          .n = static_cast<std::int64_t>(scores.size())};
}

/// Returns the share of triggered images that are detected at a given rate of false alarms: the true
/// positive rate, read off the ROC curve of the given scores.
///
/// \param triggered scores of triggered images
/// \param clean scores of clean images, at least one; at most `false_positive_rate` of them exceed
///   the threshold that is applied to `triggered`
/// \param false_positive_rate in [0, 1)
/// \throws Error if there are no clean images, the rate is out of range, or a score is NaN
inline Proportion detected_at(Scores triggered, Scores clean, double false_positive_rate) {
  detail::require_numbers("triggered images", triggered);
  return share_above(triggered, threshold_for(clean, false_positive_rate));
}

namespace detail {

/// Returns the place of the score that `calibrate_threshold` returns, counted from the largest, 1.
/// \param n the number of scores, at least one
inline double rank_of_threshold(double wanted_rate, double n) {
  return std::clamp(whole_part(std::clamp(wanted_rate, 0.0, 1.0), n + 1), 1.0, n);
}

/// Returns the 95 % interval of the rate at which further images exceed the threshold that `calibrate_threshold`
/// finds on n images. NaN if n is below 1 or the rate is NaN.
inline Interval rate_of_calibrations(double wanted_rate, std::int64_t n) {
  if (n < 1 || std::isnan(wanted_rate))
    return {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::quiet_NaN()};
  const double images = static_cast<double>(n);
  const double rank = rank_of_threshold(wanted_rate, images);
  const auto quantile = [&](double share) {
    double low = 0, high = 1;
    for (int i = 0; i < 60; ++i) {  // bisects down to the precision of double
      const double middle = (low + high) / 2;
      (Eigen::numext::betainc(rank, images + 1 - rank, middle) < share ? low : high) = middle;
    }
    return low;
  };
  return {quantile(0.025), quantile(0.975)};
}

}  // namespace detail

/// True if the interval of the rate that a calibration promises (`AlarmMetrics::promised_rate`) holds for its threshold:
/// exactly as many of its scores exceed it as `calibrate_threshold` lets. Fewer do where scores are equal, and more where
/// the threshold was lowered since scores are infinite.
/// \param clean the scores that the threshold was calibrated on, at least one
inline bool keeps_promise(Scores clean, double threshold, double wanted_rate) {
  const auto rank = detail::rank_of_threshold(wanted_rate, static_cast<double>(clean.size()));
  return static_cast<double>(share_above(clean, threshold).hits) == rank - 1;
}

/// The metrics of an alarm. Its threshold was calibrated on some clean images; the metrics are
/// those of others.
struct AlarmMetrics {
  double threshold = 0;    ///< a score above it is an alarm
  double wanted_rate = 0;  ///< rate of false alarms that the threshold was calibrated for
  /// Number of images that the threshold was calibrated on, and of groups of near-duplicates among them;
  /// 0: not known.
  std::int64_t calibration_images = 0, calibration_groups = 0;
  Proportion false_alarms = {};                         ///< clean images with an alarm
  std::optional<Proportion> detections = std::nullopt;  ///< triggered images with an alarm
  /// Triggered against clean images; independent of the threshold.
  std::optional<Auroc> auroc = std::nullopt;
  /// Triggered images that are detected if at most 1 % of the clean images are, from `detected_at`.
  std::optional<Proportion> detected_at_1 = std::nullopt;
  std::optional<Proportion> detected_at_5 = std::nullopt;  ///< likewise for 5 %

  /// Returns the 95 % interval of the rate of false alarms that the calibration promises on other images, for
  /// as many images as there are groups, since near-duplicates count once. NaN if the groups are not known.
  ///
  /// The share of all images above the k-th largest score of n, which `calibrate_threshold` returns, is
  /// distributed as Beta(k, n + 1 − k), whatever the distribution of the scores, unless scores are equal
  /// (`keeps_promise`; `angelopoulos2023conformal`). The interval leaves out 2.5 % of it at each end.
  Interval promised_rate() const { return detail::rate_of_calibrations(wanted_rate, calibration_groups); }

  /// Returns the rate of false alarms to expect on other images, the mean of that distribution: `wanted_rate` or a
  /// little less, but more with fewer than 1/rate − 1 groups. NaN if the groups are not known.
  double expected_rate() const {
    if (calibration_groups < 1 || std::isnan(wanted_rate)) return std::numeric_limits<double>::quiet_NaN();
    const auto groups = static_cast<double>(calibration_groups);
    return detail::rank_of_threshold(wanted_rate, groups) / (groups + 1);
  }

  /// True if all fields are equal.
  friend bool operator==(const AlarmMetrics&, const AlarmMetrics&) = default;
};

/// Returns the metrics of an alarm from the scores of the images that it is measured on.
///
/// \param clean scores of clean images
/// \param triggered scores of triggered images, if there are any
/// \param threshold a score above it is an alarm
/// \param wanted_rate the rate of false alarms that the threshold was calibrated for
/// \throws Error if a score is NaN
inline AlarmMetrics alarm_metrics(Scores clean, std::optional<Scores> triggered, double threshold,
                                  double wanted_rate) {
  detail::require_numbers("clean images", clean);
  AlarmMetrics metrics{.threshold = threshold, .wanted_rate = wanted_rate};
  metrics.false_alarms = share_above(clean, threshold);
  if (!triggered) return metrics;
  metrics.detections = share_above(*triggered, threshold);
  metrics.auroc = auroc(*triggered, clean);
  if (!clean.empty()) {
    metrics.detected_at_1 = detected_at(*triggered, clean, 0.01);
    metrics.detected_at_5 = detected_at(*triggered, clean, 0.05);
  }
  return metrics;
}

}  // namespace refine::metrics
