#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <refine/data/dataset.hpp>
#include <refine/evaluation/alarm.hpp>
#include <refine/evaluation/classify.hpp>
#include <refine/evaluation/detail/check_task.hpp>
#include <refine/evaluation/detail/progress.hpp>
#include <refine/evaluation/evaluate.hpp>
#include <refine/evaluation/gated.hpp>
#include <refine/evaluation/scan.hpp>
#include <refine/metrics/gated.hpp>
#include <refine/metrics/roc.hpp>
#include <refine/metrics/target.hpp>
#include <refine/report/defense_report.hpp>
#include <refine/report/sample_sheet.hpp>

namespace refine {

/// The threshold of the alarm, and how it was chosen.
struct AlarmSetting {
  double threshold = 1;  ///< scores above it raise the alarm
  double rate = 0.05;    ///< share of clean images that may raise it
  /// Number of images that it was calibrated on, and of groups of near-duplicates among them; 0: not known, or the
  /// calibration promises no rate (`metrics::keeps_promise`).
  std::int64_t images = 0, groups = 0;
};

/// What a defense is measured on. All images are uint8 N×C×H×W of the classifier's shape, and none
/// of them was used to fit the defense.
struct Evidence {
  at::Tensor clean = {};                             ///< clean images
  std::optional<data::Dataset> test = std::nullopt;  ///< the same images with labels
  /// The same images with the trigger. Without `test`, the victim's answers to the clean images stand for the classes.
  std::optional<at::Tensor> triggered = std::nullopt;
  metrics::Target target = {};                       ///< class that the attacker wants, if it is known
  std::optional<AlarmSetting> alarm = std::nullopt;  ///< nothing: alarm and gated answer are not measured
  /// Images that the scan takes, evenly spread over `clean`, if there is no `triggered`; 0: no scan.
  std::int64_t scanned = 1000;
  bool show = false;  ///< show progress on standard error
};

/// Calibrates the alarm on clean images only.
/// \param defense the defended classifier
/// \param clean uint8 N×C×H×W, not among those that the defense was fitted on
/// \param rate share of further clean images that may raise the alarm, in [0, 1)
/// \param groups of near-duplicates among the images (`data::NearDuplicates`); 0: they are all different
template <DefendedClassifier D>
AlarmSetting calibrate_alarm(const D& defense, const at::Tensor& clean, double rate,
                             std::int64_t groups = 0) {
  const std::vector<double> scores = alarm_scores(defense, clean);
  const double threshold = detail::calibrate_alarm_threshold(scores, rate);
  return {.threshold = threshold,
          .rate = rate,
          .images = clean.size(0),
          .groups = !metrics::keeps_promise(scores, threshold, rate) ? 0
                    : groups > 0                                     ? groups
                                                                     : clean.size(0)};
}

namespace detail {

/// Returns the alarm scores of the triggered images that the attack moves: where labels and target are
/// known, those of classes whose target is another class.
inline std::vector<double> scores_of_moved_classes(const metrics::GatedAnswers& answers) {
  if (answers.truth.empty() || !answers.target) return answers.triggered->scores;
  std::vector<double> scores;
  for (std::size_t i = 0; i < answers.truth.size(); ++i) {
    if (answers.target.moves(static_cast<int>(answers.truth[i])))
      scores.push_back(answers.triggered->scores[i]);
  }
  return scores;
}

/// Returns the classes that the victim gives to `least` images or more, and the defense to none.
inline std::vector<int> lost_classes(const std::vector<std::int64_t>& victim,
                                     const std::vector<std::int64_t>& defended, std::int64_t least) {
  std::map<std::int64_t, std::int64_t> counts;
  for (const std::int64_t cls : victim) ++counts[cls];
  for (const std::int64_t cls : defended) counts.erase(cls);
  std::vector<int> lost;
  for (const auto& [cls, count] : counts) {
    if (count >= least) lost.push_back(static_cast<int>(cls));
  }
  return lost;
}

/// Asks victim and defense about all images of the evidence, once.
/// \throws Error if the images do not fit the defense
template <DefendedClassifier D>
metrics::GatedAnswers ask_both(const D& defense, const Evidence& evidence) {
  data::check_images("clean images", defense.task().image, evidence.clean);
  if (evidence.triggered) check_triggered("triggered images", *evidence.triggered, evidence.clean);
  metrics::GatedAnswers answers{.classes = defense.task().classes, .target = evidence.target};
  if (evidence.test) {
    check_data(defense, *evidence.test);
    answers.classes = static_cast<int>(evidence.test->classes.size());
    if (evidence.triggered) check_triggered(*evidence.triggered, *evidence.test);
    answers.truth = to_vector(evidence.test->labels);
  }
  evidence.target.require_valid(answers.classes);
  EvaluationProgress progress("evaluation",
                              evidence.clean.size(0) + (evidence.triggered ? evidence.triggered->size(0) : 0),
                              evidence.show);
  answers.clean = paired_answers(defense, evidence.clean, progress);
  if (evidence.triggered) answers.triggered = paired_answers(defense, *evidence.triggered, progress);
  progress.finish();
  if (evidence.triggered && !evidence.test) answers.truth = answers.clean.victim;
  return answers;
}

/// True if the alarm of a defense is the disagreement of its answers (`alarm_score`), on some of the images: not so of
/// `baselines::Strip`, for example.
template <DefendedClassifier D>
bool alarm_is_disagreement(const D& defense, const at::Tensor& images) {
  const at::Tensor some = data::evenly_spread(images, 16);
  const std::vector<double> scores = alarm_scores(defense, some),
                            disagreement = paired_answers(defense, some, [](std::int64_t) {}).scores;
  return std::ranges::equal(scores, disagreement, [](double a, double b) {
    return a == b || std::abs(a - b) <= 0.01;  // both may be infinite; a program rounds in another way
  });
}

/// Removes what says nothing if the victim's answers stood for the labels.
inline void forget_labels(report::DefenseReport& report) {
  metrics::forget_labels(report.before);
  metrics::forget_labels(report.after);
  if (!report.gated) return;
  metrics::forget_labels(report.gated->metrics);
  for (metrics::GatedPoint& point : report.gated->curve) point.ba = {};
}

}  // namespace detail

/// Measures a defense as far as the evidence allows: agreement with the victim, the alarm, accuracy
/// and attack figures of the defended and of the gated answer, the scan for common triggers if no
/// triggered images are given, and sample images. Fills in these parts of `report`; title, facts and
/// the answer that is served are the caller's. A detector whose alarm is another score than the
/// disagreement of its answers has no gated answer.
/// \param defense the defended classifier, not gated
/// \throws Error if the images do not fit the defense
template <DefendedClassifier D>
void measure_defense(const D& defense, const Evidence& evidence, report::DefenseReport& report) {
  metrics::GatedAnswers answers = detail::ask_both(defense, evidence);
  const bool has_gate = evidence.alarm && detail::alarm_is_disagreement(defense, evidence.clean);
  if (evidence.alarm && !has_gate) {
    answers.clean.scores = alarm_scores(defense, evidence.clean);
    if (answers.triggered) answers.triggered->scores = alarm_scores(defense, *evidence.triggered);
  }
  if (evidence.alarm) {
    std::vector<double> triggered;
    if (answers.triggered) triggered = detail::scores_of_moved_classes(answers);
    report.alarm = metrics::alarm_metrics(
        answers.clean.scores, answers.triggered ? std::optional<metrics::Scores>(triggered) : std::nullopt,
        evidence.alarm->threshold, evidence.alarm->rate);
    report.alarm->calibration_images = evidence.alarm->images;
    report.alarm->calibration_groups = evidence.alarm->groups;
    if (has_gate) report.gated = metrics::gated_metrics(answers, evidence.alarm->threshold);
  }
  report.agreement = metrics::share_equal(answers.clean.victim, answers.clean.defended);
  report.lost_classes =
      detail::lost_classes(answers.clean.victim, answers.clean.defended, report::lost_class_images);
  std::optional<data::Dataset> test = evidence.test;
  if (evidence.triggered && !test) {
    std::vector<std::string> names = report.class_names;
    for (int c = static_cast<int>(names.size()); c < answers.classes; ++c)
      names.push_back("class " + std::to_string(c));
    test = data::Dataset{
        .images = evidence.clean, .labels = at::tensor(answers.truth), .classes = std::move(names)};
  }
  if (test) {
    report.class_names = test->classes;
    report.before = metrics::victim_metrics(answers);
    report.after = metrics::defended_metrics(answers);
  }
  if (!evidence.test) detail::forget_labels(report);
  if (test && evidence.triggered) {
    report.sheet = report::sample_sheet(defense, *test, *evidence.triggered, evidence.target);
  } else {
    report.sheet = report::sample_sheet(defense, evidence.clean, report.class_names);
  }
  if (evidence.scanned > 0 && !evidence.triggered) {
    const at::Tensor some = data::evenly_spread(evidence.clean, evidence.scanned);
    report.scan = scan(defense, some, scan_catalogue(data::image_shape_of(some)), evidence.show,
                       has_gate ? std::optional(evidence.alarm->threshold) : std::nullopt);
  }
}

}  // namespace refine
