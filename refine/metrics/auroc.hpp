#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include <refine/core/error.hpp>
#include <refine/metrics/interval.hpp>

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

}  // namespace refine::metrics

#if !defined(REFINE_COMPILED)
#include <refine/metrics/auroc_definitions.hpp>
#endif
