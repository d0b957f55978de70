#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/stack.h>

#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>

#include <refine/attacks/attack.hpp>
#include <refine/backbones/backbone.hpp>
#include <refine/core/task.hpp>
#include <refine/data/dataset.hpp>
#include <refine/evaluation/classify.hpp>
#include <refine/evaluation/detail/progress.hpp>
#include <refine/evaluation/evaluate.hpp>
#include <refine/metrics/gated.hpp>
#include <refine/pipeline/pipeline.hpp>

namespace refine {

/// Returns the classes that the victim and the defense give to uint8 images, and the alarm's scores,
/// in one pass of both. All that is measured of a defense can be computed from them.
/// \param defense the defended model
/// \param images uint8 N×C×H×W of the defense's shape
/// \param advance called with the number of images after each batch
/// \param prepare uint8 images → uint8 images, applied to each batch
/// \throws Error if a model does not return logits N×classes
template <DefendedClassifier D, typename Advance, typename Prepare = std::identity>
metrics::PairedAnswers paired_answers(const D& defense, const at::Tensor& images, Advance&& advance,
                                      Prepare&& prepare = {}) {
  const int classes = Task(defense.task()).classes;
  const at::Tensor rows = map_batches(
      [&](const at::Tensor& x) {
        const at::Tensor victim = backbones::check_logits("undefended (the victim)", defense.undefended(x),
                                                          x.size(0), classes),
                         defended = backbones::check_logits("forward (the defense)", defense.forward(x),
                                                            x.size(0), classes);
        return at::stack({victim.argmax(1).to(at::kDouble), defended.argmax(1).to(at::kDouble),
                          alarm_score(victim, defended).to(at::kDouble)},
                         1);
      },
      images, defense.device(), advance, prepare);
  metrics::PairedAnswers answers;
  for (std::int64_t i = 0; rows.defined() && i < rows.size(0); ++i) {
    const double* row = rows.const_data_ptr<double>() + 3 * i;
    answers.victim.push_back(static_cast<std::int64_t>(row[0]));
    answers.defended.push_back(static_cast<std::int64_t>(row[1]));
    answers.scores.push_back(row[2]);
  }
  return answers;
}

/// Measures the gated answer (`Gated`) at a threshold of the alarm, and its curve over thresholds.
///
///     const metrics::GatedMetrics gated = evaluate_gated(defense, threshold, test, attack);
///     std::cout << gated.metrics.asr.value() << " at " << gated.alarms.value() << " false alarms\n";
///
/// \param defense the defended model, not gated; the gate is `alarm_score`, whatever `defense.alarm` is
/// \param threshold of the alarm, in [0, 1], calibrated on other images (`calibrate_alarm`)
/// \param test labelled images; all of them are used
/// \param attack stamps the images; its target, if known, defines the attack success rate
/// \param show_progress shows a progress bar on standard error
/// \throws Error if the data does not fit the defense or the attack
template <DefendedClassifier D, attacks::Attack A>
metrics::GatedMetrics evaluate_gated(const D& defense, double threshold, const data::Dataset& test,
                                     const A& attack, bool show_progress = false) {
  detail::check_data(defense, test);
  const auto triggered = detail::make_triggered(attack, test);
  detail::EvaluationProgress progress("gated", 2 * test.size(), show_progress);
  const metrics::GatedAnswers answers{
      .clean = paired_answers(defense, test.images, progress),
      .triggered = paired_answers(defense, test.images, progress, triggered.stamp),
      .truth = detail::to_vector(test.labels),
      .classes = static_cast<int>(test.classes.size()),
      .target = triggered.target};
  progress.finish();
  return metrics::gated_metrics(answers, threshold);
}

}  // namespace refine
