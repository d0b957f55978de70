#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <refine/attacks/attack.hpp>
#include <refine/backbones/backbone.hpp>
#include <refine/core/error.hpp>
#include <refine/data/dataset.hpp>
#include <refine/distributed/communicator.hpp>
#include <refine/evaluation/classify.hpp>
#include <refine/evaluation/detail/check_task.hpp>
#include <refine/evaluation/detail/progress.hpp>
#include <refine/metrics/attack_metrics.hpp>
#include <refine/metrics/confusion.hpp>
#include <refine/metrics/target.hpp>
#include <refine/nn/device.hpp>
#include <refine/pipeline/pipeline.hpp>

namespace refine {

/// The metrics of a victim without and with its defense, on the same images. A stream prints them
/// as a table; include `refine/report/render.hpp`.
struct Evaluation {
  std::vector<std::string> classes;    ///< the class names of the data
  metrics::AttackMetrics before = {};  ///< of the victim alone
  metrics::AttackMetrics after = {};   ///< of the victim behind the defense

  /// Returns the defense effectiveness rating, see `metrics::defense_effectiveness`.
  double der() const { return metrics::defense_effectiveness(before, after); }
};

namespace detail {

/// The triggered images of a test set. They are made a batch at a time.
template <typename Stamp>
struct TriggeredImages {
  const at::Tensor& images;  ///< uint8 N×C×H×W, before `stamp`
  Stamp stamp;               ///< uint8 images → uint8 images
  metrics::Target target;
};

/// Returns the images that an attack stamps.
/// \throws Error if the attack does not fit the data, which is tried on two images
template <attacks::Attack A>
auto make_triggered(const A& attack, const data::Dataset& test) {
  const metrics::Target target = attacks::target_map(attack, static_cast<int>(test.classes.size()));
  target.require_valid(static_cast<int>(test.classes.size()));
  const auto stamp = [&attack](const at::Tensor& images) {
    // A batch is a view of the caller's images, which an attack that writes to its argument must not reach.
    at::Tensor triggered = attack.trigger_images(images.clone());
    check_triggered("triggered images (attack.trigger_images)", triggered, images);
    return triggered;
  };
  stamp(test.images.narrow(0, 0, std::min<std::int64_t>(test.size(), 2)));
  return TriggeredImages<decltype(stamp)>{test.images, stamp, target};
}

/// Classifies images as `classify` does.
/// \param function what is asked, for messages
/// \param classes of the data
/// \throws Error if the logits are not N×classes, or the largest one of an image is not finite
template <typename Answer, typename Prepare = std::identity>
std::vector<std::int64_t> classify_finite(std::string_view function, Answer&& answer, int classes,
                                          const at::Tensor& images, at::Device device, auto&& advance,
                                          Prepare&& prepare = {}) {
  constexpr std::int64_t unknown = -1;
  const at::Tensor rows = map_batches(
      [&](const at::Tensor& x) {
        const at::Tensor logits = backbones::check_logits(function, answer(x), x.size(0), classes);
        // NaN is larger than any number. A class that is ruled out by a logit of -infinity is an answer.
        return logits.argmax(1).masked_fill(logits.amax(1).isfinite().logical_not(), unknown);
      },
      images, device, advance, prepare);
  std::vector<std::int64_t> predictions = rows.defined() ? to_vector(rows) : std::vector<std::int64_t>{};
  if (const auto count = std::ranges::count(predictions, unknown); count > 0) {
    throw Error(
        "{}: the logits of {} of {} images are not finite (NaN or infinity); look for the "
        "cause in the weights or in what is computed from the images",
        function, count, predictions.size());
  }
  return predictions;
}

/// Classifies clean and triggered images.
/// \param function what is asked, for messages
template <typename Answer, typename Stamp>
metrics::AttackMetrics measure(std::string_view function, Answer&& answer, const data::Dataset& test,
                               const TriggeredImages<Stamp>& triggered, at::Device device, auto&& advance) {
  const int classes = static_cast<int>(test.classes.size());
  return metrics::attack_metrics(
      {.truth = to_vector(test.labels),
       .clean = classify_finite(function, answer, classes, test.images, device, advance),
       .triggered =
           classify_finite(function, answer, classes, triggered.images, device, advance, triggered.stamp),
       .classes = classes,
       .target = triggered.target});
}

/// Classifies clean images only. The metrics of the attack stay empty.
/// \param function what is asked, for messages
template <typename Answer>
metrics::AttackMetrics measure_clean(std::string_view function, Answer&& answer, const data::Dataset& test,
                                     at::Device device, auto&& advance) {
  metrics::AttackMetrics result{.classes = static_cast<int>(test.classes.size())};
  result.clean = metrics::confusion_matrix(
      to_vector(test.labels), classify_finite(function, answer, result.classes, test.images, device, advance),
      result.classes);
  metrics::detail::set_shares(result);
  return result;
}

template <DefendedClassifier D>
void check_data(const D& defense, const data::Dataset& test) {
  test.validate();
  check_task("pipeline", defense.task(), test.task());
}

template <DefendedClassifier D, typename Stamp>
Evaluation compare(const D& defense, const data::Dataset& test, const TriggeredImages<Stamp>& triggered,
                   bool show_progress) {
  EvaluationProgress progress("evaluation", 4 * test.size(), show_progress);
  Evaluation result{.classes = test.classes};
  result.before = measure(
      "undefended (the victim)", [&](const at::Tensor& x) { return defense.undefended(x); }, test, triggered,
      defense.device(), progress);
  result.after = measure(
      "forward (the defense)", [&](const at::Tensor& x) { return defense.forward(x); }, test, triggered,
      defense.device(), progress);
  progress.finish();
  return result;
}

}  // namespace detail

/// Measures a classifier alone, on clean and triggered images. Images are stamped a batch at a
/// time, so the trigger of an image must not depend on other images.
/// \param victim the classifier; put into evaluation mode
/// \param test labelled images; all of them are used
/// \param attack stamps the images; its target, if known, defines the attack success rate
/// \return accuracy, attack success rate, robust accuracy and lifts
/// \throws Error if the data does not fit the classifier or the attack, or the logits of an image are not finite
template <backbones::Backbone B, attacks::Attack A>
requires(!DefendedClassifier<B>) metrics::AttackMetrics
    evaluate(const B& victim, const data::Dataset& test, const A& attack) {
  test.validate();
  backbones::check_members(victim);
  detail::check_task("backbone", victim.task, test.task());
  const auto triggered = detail::make_triggered(attack, test);
  victim.module->eval();
  // A victim that was loaded may be on another device than `default_device()`.
  return detail::measure(
      "forward (the victim)", [&](const at::Tensor& x) { return victim.forward(x); }, test, triggered,
      nn::device_of(*victim.module).value_or(default_device()), [](std::int64_t) {});
}

/// Measures a classifier without and with its defense, on clean images and on triggered images that
/// exist already.
/// \param defense the defended model
/// \param test labelled images; all of them are used
/// \param triggered uint8 N×C×H×W: the images of `test` with the trigger, in the same order
/// \param target the class that the attacker wants, if it is known: `int`, `std::optional<int>`, or
///   a class for each class
/// \param show_progress shows a progress bar on standard error
/// \return the metrics before and after
/// \throws Error if the data does not fit the defense, the triggered images do not fit the data, or the logits of
///   an image are not finite
template <DefendedClassifier D>
Evaluation evaluate(const D& defense, const data::Dataset& test, const at::Tensor& triggered,
                    const metrics::Target& target, bool show_progress = false) {
  detail::check_data(defense, test);
  target.require_valid(static_cast<int>(test.classes.size()));
  detail::check_triggered(triggered, test);
  const detail::TriggeredImages<std::identity> unchanged{triggered, {}, target};
  return detail::compare(defense, test, unchanged, show_progress);
}

/// Measures a classifier without and with its defense, on clean and triggered images. Images are
/// stamped a batch at a time, so the trigger of an image must not depend on other images.
///
///     const Evaluation result = evaluate(defense, test, attacks::BadNets<task>{.target = 0});
///     std::cout << result.before.asr.value() << " -> " << result.after.asr.value() << '\n';
///
/// \param defense the defended model
/// \param test labelled images; all of them are used
/// \param attack stamps the images; its target, if known, defines the attack success rate
/// \param show_progress shows a progress bar on standard error
/// \return the metrics before and after
/// \throws Error if the data does not fit the defense or the attack, or the logits of an image are not finite
template <DefendedClassifier D, attacks::Attack A>
Evaluation evaluate(const D& defense, const data::Dataset& test, const A& attack,
                    bool show_progress = false) {
  detail::check_data(defense, test);
  return detail::compare(defense, test, detail::make_triggered(attack, test), show_progress);
}

/// Does the same with several ranks: each computes some of the batches, and all get the metrics, which are
/// those of one process.
/// \param ranks such as `distributed::C10d`
template <DefendedClassifier D, attacks::Attack A, distributed::Communicator Ranks>
Evaluation evaluate(const D& defense, const data::Dataset& test, const A& attack, Ranks& ranks,
                    bool show_progress = false) {
  const distributed::ScopedRanks scope(ranks);
  return evaluate(defense, test, attack, show_progress && ranks.rank() == 0);
}

/// Measures the accuracy without and with the defense, on clean images. The metrics of an attack
/// stay empty.
/// \param defense the defended model
/// \param test labelled images; all of them are used
/// \param show_progress shows a progress bar on standard error
/// \return the metrics before and after
/// \throws Error if the data does not fit the defense, or the logits of an image are not finite
template <DefendedClassifier D>
Evaluation evaluate_clean(const D& defense, const data::Dataset& test, bool show_progress = false) {
  detail::check_data(defense, test);
  detail::EvaluationProgress progress("evaluation", 2 * test.size(), show_progress);
  Evaluation result{.classes = test.classes};
  result.before = detail::measure_clean(
      "undefended (the victim)", [&](const at::Tensor& x) { return defense.undefended(x); }, test,
      defense.device(), progress);
  result.after = detail::measure_clean(
      "forward (the defense)", [&](const at::Tensor& x) { return defense.forward(x); }, test,
      defense.device(), progress);
  progress.finish();
  return result;
}

}  // namespace refine
