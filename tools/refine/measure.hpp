#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <refine/data/dataset.hpp>
#include <refine/evaluation/alarm.hpp>
#include <refine/evaluation/evaluate.hpp>
#include <refine/evaluation/label_agreement.hpp>
#include <refine/evaluation/scan.hpp>
#include <refine/metrics/roc.hpp>
#include <refine/report/defense_report.hpp>
#include <refine/report/html.hpp>
#include <refine/report/json.hpp>
#include <refine/report/sample_sheet.hpp>
#include <refine/report/terminal.hpp>

#include "tools/refine/alarm_setting.hpp"

namespace refine::cli {

/// What there is to measure on. All images are uint8 N×C×H×W of the model's shape.
struct Evidence {
  at::Tensor clean = {};                     ///< not among those the defense was fitted on
  std::optional<data::Dataset> test = {};    ///< the same with labels, where there are labels
  std::optional<at::Tensor> triggered = {};  ///< the same with the trigger, where it is known
  std::optional<int> target = {};
  std::optional<AlarmSetting> alarm = {};  ///< where it was set
  std::int64_t scanned = 1000;             ///< images that the scan takes; 0: no scan
};

/// Sets the alarm on clean images alone.
template <DefendedClassifier D>
AlarmSetting set_alarm(const D& defense, const at::Tensor& clean, double rate) {
  return {metrics::threshold_for(alarm_scores(defense, clean), rate), rate};
}

/// The triggered images that the trigger is to change: where labels and target are known, those of other
/// classes.
inline at::Tensor others(const Evidence& evidence) {
  if (!evidence.test || !evidence.target) return *evidence.triggered;
  return evidence.triggered->index_select(0, evidence.test->labels.ne(*evidence.target).nonzero().squeeze(1));
}

/// Fills in what can be measured of a defense; titles and facts are the caller's.
template <DefendedClassifier D>
void measure(const D& defense, const Evidence& evidence, report::DefenseReport& page) {
  if (evidence.alarm) {
    page.alarm = measure_alarm(defense, evidence.alarm->threshold, evidence.alarm->rate, evidence.clean,
                               evidence.triggered ? std::optional(others(evidence)) : std::nullopt, true);
  }
  page.agreement = agreement(defense, evidence.clean, true);

  if (evidence.test) {
    page.class_names = evidence.test->classes;
    const Evaluation evaluation =
        evidence.triggered ? evaluate(defense, *evidence.test, *evidence.triggered, evidence.target, true)
                           : evaluate_clean(defense, *evidence.test, true);
    page.before = evaluation.before;
    page.after = evaluation.after;
  }
  if (evidence.test && evidence.triggered) {
    page.sheet = report::sample_sheet(defense, *evidence.test, *evidence.triggered, evidence.target);
  } else {
    page.sheet = report::sample_sheet(defense, evidence.clean, page.class_names);
  }
  if (evidence.scanned > 0 && !evidence.triggered) {
    const at::Tensor some = evidence.clean.slice(0, 0, evidence.scanned);
    page.scan = scan(defense, some, scan_catalogue(data::image_of(some)), true);
  }
}

}  // namespace refine::cli
