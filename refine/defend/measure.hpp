#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include <refine/data/dataset.hpp>
#include <refine/evaluation/alarm.hpp>
#include <refine/evaluation/classify.hpp>
#include <refine/evaluation/evaluate.hpp>
#include <refine/evaluation/scan.hpp>
#include <refine/metrics/roc.hpp>
#include <refine/metrics/target.hpp>
#include <refine/report/defense_report.hpp>
#include <refine/report/sample_sheet.hpp>

namespace refine {

/// The threshold of the alarm, and how it was chosen.
struct AlarmSetting {
  double threshold = 1;  ///< scores above it raise the alarm
  double rate = 0.05;    ///< share of clean images that may raise it
};

/// What a defense is measured on. All images are uint8 N×C×H×W of the classifier's shape, and none
/// of them was used to fit the defense.
struct Evidence {
  at::Tensor clean = {};                               ///< clean images
  std::optional<data::Dataset> test = std::nullopt;    ///< the same images with labels
  std::optional<at::Tensor> triggered = std::nullopt;  ///< the same images with the trigger
  metrics::Target target = {};                         ///< class that the attacker wants, if it is known
  std::optional<AlarmSetting> alarm = std::nullopt;    ///< nothing: the alarm is not measured
  std::int64_t scanned = 1000;  ///< images that the scan takes, if there is no `triggered`; 0: no scan
  bool show = false;            ///< show progress on standard error
};

/// Calibrates the alarm on clean images only.
/// \param defense the defended classifier
/// \param clean uint8 N×C×H×W, not among those that the defense was fitted on
/// \param rate share of clean images that may raise the alarm, in [0, 1)
template <DefendedClassifier D>
AlarmSetting calibrate_alarm(const D& defense, const at::Tensor& clean, double rate) {
  return {metrics::threshold_for(alarm_scores(defense, clean), rate), rate};
}

namespace detail {

/// Returns the triggered images that the attack moves: where labels and target are known, those of
/// classes whose target is another class.
inline at::Tensor triggered_of_moved_classes(const Evidence& evidence) {
  if (!evidence.test || !evidence.target) return *evidence.triggered;
  const std::vector<std::int64_t> labels = to_vector(evidence.test->labels);
  std::vector<std::int64_t> moved;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    if (evidence.target.moves(static_cast<int>(labels[i]))) moved.push_back(static_cast<std::int64_t>(i));
  }
  return evidence.triggered->index_select(0, at::tensor(moved, at::kLong));
}

}  // namespace detail

/// Measures a defense as far as the evidence allows: agreement with the victim, the alarm, accuracy
/// and attack figures, the scan for common triggers if no triggered images are given, and sample
/// images. Fills in these parts of `report`; title and facts are the caller's.
/// \throws Error if the images do not fit the defense
template <DefendedClassifier D>
void measure_defense(const D& defense, const Evidence& evidence, report::DefenseReport& report) {
  if (evidence.alarm) {
    report.alarm = measure_alarm(
        defense, evidence.alarm->threshold, evidence.alarm->rate, evidence.clean,
        evidence.triggered ? std::optional(detail::triggered_of_moved_classes(evidence)) : std::nullopt,
        evidence.show);
  }
  report.agreement = label_agreement(defense, evidence.clean, evidence.show);

  if (evidence.test) {
    report.class_names = evidence.test->classes;
    const Evaluation evaluation = evidence.triggered ? evaluate(defense, *evidence.test, *evidence.triggered,
                                                                evidence.target, evidence.show)
                                                     : evaluate_clean(defense, *evidence.test, evidence.show);
    report.before = evaluation.before;
    report.after = evaluation.after;
  }
  if (evidence.test && evidence.triggered) {
    report.sheet = report::sample_sheet(defense, *evidence.test, *evidence.triggered, evidence.target);
  } else {
    report.sheet = report::sample_sheet(defense, evidence.clean, report.class_names);
  }
  if (evidence.scanned > 0 && !evidence.triggered) {
    const at::Tensor some = evidence.clean.slice(0, 0, evidence.scanned);
    report.scan = scan(defense, some, scan_catalogue(data::image_shape_of(some)), evidence.show);
  }
}

}  // namespace refine
