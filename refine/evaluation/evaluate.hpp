#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <refine/attacks/attack.hpp>
#include <refine/backbones/backbone.hpp>
#include <refine/data/dataset.hpp>
#include <refine/evaluation/classify.hpp>
#include <refine/evaluation/detail/check_task.hpp>
#include <refine/evaluation/detail/progress.hpp>
#include <refine/metrics/attack_metrics.hpp>
#include <refine/metrics/confusion.hpp>
#include <refine/nn/device.hpp>
#include <refine/pipeline/pipeline.hpp>

namespace refine {

/// A defense measured: the victim's figures without it and with it, on the same images.
/// `std::cout << evaluation` prints them as a table (`refine/report/terminal.hpp`).
struct Evaluation {
  std::vector<std::string> classes;
  metrics::AttackMetrics before = {}, after = {};

  double der() const { return metrics::defense_effectiveness(before, after); }
};

namespace detail {

/// The triggered images of a test set, of which a batch at a time is at hand.
template <typename Stamp>
struct Triggered {
  const at::Tensor& images;  ///< uint8 N×C×H×W, before `stamp`
  Stamp stamp;               ///< uint8 images → uint8 images
  std::optional<int> target;
};

/// \throws Error when the attack does not fit the data: it is asked of one image, before any work
template <attacks::Attack A>
auto triggered_by(const A& attack, const data::Dataset& test) {
  require_target(attack.target, test);
  const data::Dataset one = test.first(std::min<std::int64_t>(test.size(), 1));
  require_triggered(attack.trigger_images(one.images), one);
  const auto stamp = [&](const at::Tensor& images) { return attack.trigger_images(images); };
  return Triggered<decltype(stamp)>{test.images, stamp, attack.target};
}

/// Runs `answer` over clean and triggered images.
template <typename Answer, typename Stamp>
metrics::AttackMetrics measure(Answer&& answer, const data::Dataset& test, const Triggered<Stamp>& triggered,
                               at::Device device, auto&& advance) {
  return metrics::attack_metrics(
      {.truth = to_vector(test.labels),
       .clean = classify(answer, test.images, device, advance),
       .triggered = classify(answer, triggered.images, device, advance, triggered.stamp),
       .classes = static_cast<int>(test.classes.size()),
       .target = triggered.target});
}

/// Runs `answer` over clean images alone: the accuracy, and no figure of an attack.
template <typename Answer>
metrics::AttackMetrics measure_clean(Answer&& answer, const data::Dataset& test, at::Device device,
                                     auto&& advance) {
  metrics::AttackMetrics result{.classes = static_cast<int>(test.classes.size())};
  result.clean = metrics::confusion_matrix(to_vector(test.labels),
                                           classify(answer, test.images, device, advance), result.classes);
  result.ba = {.hits = result.clean.trace(), .n = result.clean.sum()};
  return result;
}

template <DefendedClassifier D>
void require_measurable(const D& defense, const data::Dataset& test) {
  test.validate();
  check_task("pipeline", defense.task(), test.task());
}

template <DefendedClassifier D, typename Stamp>
Evaluation compare(const D& defense, const data::Dataset& test, const Triggered<Stamp>& triggered,
                   bool show) {
  EvaluationProgress progress("evaluation", 4 * test.size(), show);
  Evaluation result{.classes = test.classes};
  result.before = measure([&](const at::Tensor& x) { return defense.undefended(x); }, test, triggered,
                          defense.device(), progress);
  result.after = measure([&](const at::Tensor& x) { return defense.forward(x); }, test, triggered,
                         defense.device(), progress);
  progress.finish();
  return result;
}

}  // namespace detail

/// Measures a backbone alone, on all of `test`, clean and triggered. Images are stamped a batch at a time, so
/// each by itself.
/// \throws Error when the data does not fit the backbone or the attack
template <backbones::Backbone B, attacks::Attack A>
requires(!DefendedClassifier<B>) metrics::AttackMetrics
    evaluate(const B& victim, const data::Dataset& test, const A& attack) {
  test.validate();
  detail::check_task("backbone", victim.task, test.task());
  const auto triggered = detail::triggered_by(attack, test);
  victim.module->eval();
  // A victim that was loaded may be on another device than `default_device()`.
  return detail::measure([&](const at::Tensor& x) { return victim.forward(x); }, test, triggered,
                         nn::device_of(*victim.module).value_or(default_device()), [](std::int64_t) {});
}

/// Measures a classifier without and with its defense, on all of `test`, clean and triggered, where the
/// triggered images are at hand and not the attack that made them.
/// \param triggered uint8 N×C×H×W, the images of `test` with the trigger, in the same order
/// \param target the class that the attacker wants, if it is known
/// \param show progress on standard error
/// \throws Error when the data does not fit the defense, or the triggered images the data
template <DefendedClassifier D>
Evaluation evaluate(const D& defense, const data::Dataset& test, const at::Tensor& triggered,
                    std::optional<int> target, bool show = false) {
  detail::require_measurable(defense, test);
  detail::require_target(target, test);
  detail::require_triggered(triggered, test);
  const detail::Triggered<std::identity> as_they_are{triggered, {}, target};
  return detail::compare(defense, test, as_they_are, show);
}

/// Measures a classifier without and with its defense, on all of `test`, clean and triggered. Images are
/// stamped a batch at a time, so each by itself.
/// \param show progress on standard error
/// \throws Error when the data does not fit the defense or the attack
template <DefendedClassifier D, attacks::Attack A>
Evaluation evaluate(const D& defense, const data::Dataset& test, const A& attack, bool show = false) {
  detail::require_measurable(defense, test);
  return detail::compare(defense, test, detail::triggered_by(attack, test), show);
}

/// Measures the accuracy without and with the defense, on all of `test`, where no trigger is known. The
/// figures of the attack are of no images.
/// \param show progress on standard error
/// \throws Error when the data does not fit the defense
template <DefendedClassifier D>
Evaluation evaluate_clean(const D& defense, const data::Dataset& test, bool show = false) {
  detail::require_measurable(defense, test);
  detail::EvaluationProgress progress("evaluation", 2 * test.size(), show);
  Evaluation result{.classes = test.classes};
  result.before = detail::measure_clean([&](const at::Tensor& x) { return defense.undefended(x); }, test,
                                        defense.device(), progress);
  result.after = detail::measure_clean([&](const at::Tensor& x) { return defense.forward(x); }, test,
                                       defense.device(), progress);
  progress.finish();
  return result;
}

}  // namespace refine
