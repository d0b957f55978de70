#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include <refine/evaluation/classify.hpp>
#include <refine/evaluation/detail/check_task.hpp>
#include <refine/evaluation/detail/progress.hpp>
#include <refine/metrics/roc.hpp>
#include <refine/pipeline/pipeline.hpp>

namespace refine {

/// The alarm's score of each uint8 image N×C×H×W, in [0, 1], in batches. Infinity, which is above any
/// threshold, if the score is not a number.
/// \param advance called with the number of images after each batch
/// \throws Error when the images do not fit the defense
template <DefendedClassifier D, typename Advance>
std::vector<double> alarm_scores(const D& defense, const at::Tensor& images, Advance&& advance) {
  detail::require_images("images", defense.task().image, images);
  const at::Tensor scores = in_batches([&](const at::Tensor& x) { return defense.alarm(x).to(at::kDouble); },
                                       images, defense.device(), advance);
  if (!scores.defined()) return {};
  const at::Tensor flat = scores.contiguous();
  const auto* begin = flat.const_data_ptr<double>();
  std::vector<double> numbers(begin, begin + flat.numel());
  std::ranges::replace_if(
      numbers, [](double score) { return std::isnan(score); }, std::numeric_limits<double>::infinity());
  return numbers;
}

template <DefendedClassifier D>
std::vector<double> alarm_scores(const D& defense, const at::Tensor& images) {
  return alarm_scores(defense, images, [](std::int64_t) {});
}

namespace detail {

/// Runs the alarm at a threshold that was set before. \pre the images fit the defense
template <DefendedClassifier D, typename Advance>
metrics::AlarmFigures alarm_figures(const D& defense, double threshold, double wanted_rate,
                                    const at::Tensor& clean, const std::optional<at::Tensor>& triggered,
                                    Advance& advance) {
  metrics::AlarmFigures figures{.threshold = threshold, .wanted_rate = wanted_rate};
  const auto alarms = [&](const std::vector<double>& scores) {
    return metrics::Proportion{
        .hits = std::ranges::count_if(scores, [&](double score) { return score > threshold; }),
        .n = static_cast<std::int64_t>(scores.size())};
  };
  const std::vector<double> quiet = alarm_scores(defense, clean, advance);
  figures.false_alarms = alarms(quiet);
  if (triggered) {
    const std::vector<double> loud = alarm_scores(defense, *triggered, advance);
    figures.detections = alarms(loud);
    figures.auroc = metrics::auroc(loud, quiet);
  }
  return figures;
}

}  // namespace detail

/// Measures an alarm whose threshold was set before, as an exported file carries it.
/// \param wanted_rate of false alarms that it was set to; kept for the report
/// \param clean, triggered uint8 N×C×H×W; no labels
/// \param show progress on standard error
/// \throws Error when images do not fit the defense
template <DefendedClassifier D>
metrics::AlarmFigures measure_alarm(const D& defense, double threshold, double wanted_rate,
                                    const at::Tensor& clean,
                                    const std::optional<at::Tensor>& triggered = std::nullopt,
                                    bool show = false) {
  const ImageShape shape = defense.task().image;
  detail::require_images("clean images", shape, clean);
  if (triggered) detail::require_images("triggered images", shape, *triggered);
  detail::EvaluationProgress progress("alarm", clean.size(0) + (triggered ? triggered->size(0) : 0), show);
  auto figures = detail::alarm_figures(defense, threshold, wanted_rate, clean, triggered, progress);
  progress.finish();
  return figures;
}

/// Sets the alarm on clean images alone, as someone must who knows no attack, and measures it on others.
/// Whoever wants an honest rate of false alarms gives `clean` images that are not among `calibration`, nor
/// among those that the defense was fitted on.
/// \param calibration, clean, triggered uint8 N×C×H×W; no labels
/// \param false_alarm_rate in [0, 1): at most this share of the calibration images raises the alarm
/// \param show progress on standard error
/// \throws Error when images do not fit the defense, there is nothing to calibrate on, or the rate is no rate
template <DefendedClassifier D>
metrics::AlarmFigures evaluate_alarm(const D& defense, const at::Tensor& calibration, const at::Tensor& clean,
                                     const std::optional<at::Tensor>& triggered = std::nullopt,
                                     double false_alarm_rate = 0.05, bool show = false) {
  const ImageShape shape = defense.task().image;
  detail::require_images("calibration images", shape, calibration);
  detail::require_images("clean images", shape, clean);
  if (triggered) detail::require_images("triggered images", shape, *triggered);
  detail::EvaluationProgress progress(
      "alarm", calibration.size(0) + clean.size(0) + (triggered ? triggered->size(0) : 0), show);

  const double threshold =
      metrics::threshold_for(alarm_scores(defense, calibration, progress), false_alarm_rate);
  auto figures = detail::alarm_figures(defense, threshold, false_alarm_rate, clean, triggered, progress);
  progress.finish();
  return figures;
}

}  // namespace refine
