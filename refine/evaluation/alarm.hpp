#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include <refine/backbones/backbone.hpp>
#include <refine/core/error.hpp>
#include <refine/core/task.hpp>
#include <refine/data/dataset.hpp>
#include <refine/evaluation/classify.hpp>
#include <refine/evaluation/detail/progress.hpp>
#include <refine/metrics/proportion.hpp>
#include <refine/metrics/roc.hpp>
#include <refine/nn/module.hpp>
#include <refine/pipeline/pipeline.hpp>

namespace refine {

/// Returns the alarm score of each image, see `alarm_score`: high where victim and defense
/// disagree. A score that is not a number becomes infinity, which exceeds any threshold.
/// \param defense the defended model
/// \param images uint8 N×C×H×W
/// \param advance called with the number of images after each batch
/// \return N scores in [0, 1], or infinity
/// \throws Error if the images do not fit the defense
template <DefendedClassifier D, typename Advance>
std::vector<double> alarm_scores(const D& defense, const at::Tensor& images, Advance&& advance) {
  data::check_images("images", defense.task().image, images);
  const at::Tensor scores = map_batches(
      [&](const at::Tensor& x) {
        const at::Tensor batch = defense.alarm(x);
        if (!batch.defined() || batch.dim() != 1 || batch.size(0) != x.size(0))
          throw Error("alarm must return a score for each image (got {}, expected {})", nn::sizes_text(batch),
                      x.size(0));
        return batch.to(at::kDouble);
      },
      images, defense.device(), advance);
  if (!scores.defined()) return {};
  const at::Tensor flat = scores.contiguous();
  const auto* begin = flat.const_data_ptr<double>();
  std::vector<double> numbers(begin, begin + flat.numel());
  std::ranges::replace_if(
      numbers, [](double score) { return std::isnan(score); }, std::numeric_limits<double>::infinity());
  return numbers;
}

/// Returns the alarm score of each image.
/// \param defense the defended model
/// \param images uint8 N×C×H×W
/// \return N scores in [0, 1], or infinity
/// \throws Error if the images do not fit the defense
template <DefendedClassifier D>
std::vector<double> alarm_scores(const D& defense, const at::Tensor& images) {
  return alarm_scores(defense, images, [](std::int64_t) {});
}

namespace detail {

/// Returns the threshold that `metrics::calibrate_threshold` finds for scores of the alarm, at most 1, so that an infinite
/// score always raises it.
inline double calibrate_alarm_threshold(metrics::Scores clean, double false_alarm_rate) {
  return std::min(metrics::calibrate_threshold(clean, false_alarm_rate), 1.0);
}

/// Measures the alarm at a given threshold. The images must fit the defense.
template <DefendedClassifier D, typename Advance>
metrics::AlarmMetrics measure_alarm_at(const D& defense, double threshold, double wanted_rate,
                                       const at::Tensor& clean, const std::optional<at::Tensor>& triggered,
                                       Advance& advance) {
  const std::vector<double> clean_scores = alarm_scores(defense, clean, advance);
  std::vector<double> triggered_scores;
  if (triggered) triggered_scores = alarm_scores(defense, *triggered, advance);
  return metrics::alarm_metrics(clean_scores,
                                triggered ? std::optional<metrics::Scores>(triggered_scores) : std::nullopt,
                                threshold, wanted_rate);
}

}  // namespace detail

/// Measures an alarm whose threshold is given, as in an exported file.
/// \param defense the defended model
/// \param threshold an image with a higher score raises the alarm
/// \param wanted_rate the rate of false alarms that the threshold was calibrated for; copied into
///   the result
/// \param clean uint8 N×C×H×W
/// \param triggered uint8 M×C×H×W, if there are any
/// \param show_progress shows a progress bar on standard error
/// \return false alarms and, with triggered images, detections, AUROC, and the detections at 1 % and
///   5 % of false alarms
/// \throws Error if images do not fit the defense
template <DefendedClassifier D>
metrics::AlarmMetrics measure_alarm(const D& defense, double threshold, double wanted_rate,
                                    const at::Tensor& clean,
                                    const std::optional<at::Tensor>& triggered = std::nullopt,
                                    bool show_progress = false) {
  const ImageShape shape = defense.task().image;
  data::check_images("clean images", shape, clean);
  if (triggered) data::check_images("triggered images", shape, *triggered);
  detail::EvaluationProgress progress("alarm", clean.size(0) + (triggered ? triggered->size(0) : 0),
                                      show_progress);
  auto figures = detail::measure_alarm_at(defense, threshold, wanted_rate, clean, triggered, progress);
  progress.finish();
  return figures;
}

/// Calibrates the alarm's threshold on clean images only, without knowledge of the attack, and
/// measures it on other images. The rate of false alarms is honest only if `clean` shares no image
/// with `calibration` nor with the images that the defense was fitted on.
/// \param defense the defended model
/// \param calibration uint8 N×C×H×W, one or more, clean
/// \param clean uint8 M×C×H×W
/// \param triggered uint8 K×C×H×W, if there are any
/// \param false_alarm_rate in [0, 1): the share of further clean images that may raise the alarm
/// \param show_progress shows a progress bar on standard error
/// \return the threshold, false alarms and, with triggered images, detections, AUROC, and the
///   detections at 1 % and 5 % of false alarms
/// \throws Error if images do not fit the defense, `calibration` is empty, or the rate is out of
///   range
template <DefendedClassifier D>
metrics::AlarmMetrics evaluate_alarm(const D& defense, const at::Tensor& calibration, const at::Tensor& clean,
                                     const std::optional<at::Tensor>& triggered = std::nullopt,
                                     double false_alarm_rate = 0.05, bool show_progress = false) {
  const ImageShape shape = defense.task().image;
  data::check_images("calibration images", shape, calibration);
  data::check_images("clean images", shape, clean);
  if (triggered) data::check_images("triggered images", shape, *triggered);
  detail::EvaluationProgress progress(
      "alarm", calibration.size(0) + clean.size(0) + (triggered ? triggered->size(0) : 0), show_progress);

  const double threshold =
      detail::calibrate_alarm_threshold(alarm_scores(defense, calibration, progress), false_alarm_rate);
  auto figures = detail::measure_alarm_at(defense, threshold, false_alarm_rate, clean, triggered, progress);
  progress.finish();
  return figures;
}

/// Returns the share of images that the defended model classifies as the victim does. On clean
/// images this bounds what the defense costs, without labels: no more accuracy is lost than
/// agreement is missing from 1.
///
///     const metrics::Proportion agreement = label_agreement(defense, clean_images);
///     std::cout << 100 * (1 - agreement.value()) << " points of accuracy at most\n";
///
/// \param defense the defended model, with the victim inside
/// \param images uint8 N×C×H×W
/// \param show_progress shows a progress bar on standard error
/// \return the number of images with equal answers, out of N
/// \throws Error if the images do not fit the defense
template <DefendedClassifier D>
metrics::Proportion label_agreement(const D& defense, const at::Tensor& images, bool show_progress = false) {
  data::check_images("images", defense.task().image, images);
  detail::EvaluationProgress progress("agreement", images.size(0), show_progress);
  const int classes = Task(defense.task()).classes;
  const at::Tensor same = map_batches(
      [&](const at::Tensor& x) {
        const auto answer = [&](const char* function, const at::Tensor& logits) {
          return backbones::check_logits(function, logits, x.size(0), classes).argmax(1);
        };
        return answer("undefended (the victim)", defense.undefended(x))
            .eq(answer("forward (the defense)", defense.forward(x)));
      },
      images, defense.device(), progress);
  progress.finish();
  return {.hits = same.defined() ? same.sum().template item<std::int64_t>() : 0, .n = images.size(0)};
}

}  // namespace refine
