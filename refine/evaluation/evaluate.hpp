#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include <refine/attacks/attack.hpp>
#include <refine/core/progress_meter.hpp>
#include <refine/data/dataset.hpp>
#include <refine/evaluation/classify.hpp>
#include <refine/evaluation/result.hpp>
#include <refine/metrics/figures.hpp>
#include <refine/metrics/predictions.hpp>
#include <refine/nn/device.hpp>
#include <refine/pipeline/pipeline.hpp>

namespace refine {

namespace detail {

inline void require_fit(std::string_view what, const Task& wanted, const Task& data) {
  if (compatible(wanted, data)) return;
  Message why;
  require_agreement(why << "refine: the " << what << " takes " << wanted.image << " images of "
                        << wanted.classes << " classes, the data has " << data.image << " and "
                        << data.classes << "; evaluate it on data of its task [evaluate]");
}

/// Refused before any work, not after it.
inline void require_target(std::optional<int> target, const data::Dataset& test) {
  const auto classes = static_cast<int>(test.classes.size());
  if (target && (*target < 0 || *target >= classes)) {
    throw Error("refine: target class {} is none of the data's {}; say 0 to {} [evaluate]", *target, classes,
                classes - 1);
  }
}

/// Runs `answer` over clean and triggered images.
template <typename Answer>
metrics::Figures measure(Answer&& answer, const data::Dataset& test, const at::Tensor& triggered,
                         std::optional<int> target, at::Device device, const auto& advance) {
  return metrics::figures({.truth = to_vector(test.labels),
                           .clean = classify(answer, test.images, device, advance),
                           .triggered = classify(answer, triggered, device, advance),
                           .classes = static_cast<int>(test.classes.size()),
                           .target = target});
}

}  // namespace detail

/// Measures a backbone alone, on all of `test`, clean and triggered.
/// \throws Error when the data does not fit the backbone or the attack
template <backbones::Backbone B, attacks::Attack A>
metrics::Figures evaluate(const B& victim, const data::Dataset& test, const A& attack) {
  test.validate();
  detail::require_fit("backbone", victim.task, test.task());
  detail::require_target(attack.target, test);
  victim.module->eval();
  const auto parameters =
      victim.module->parameters();  // a victim that was loaded may stand elsewhere than the rest
  return detail::measure([&](const at::Tensor& x) { return victim.forward(x); }, test,
                         attack.trigger_images(test.images), attack.target,
                         parameters.empty() ? default_device() : parameters.front().device(),
                         [](std::int64_t) {});
}

/// Measures a pipeline, without and with its defense, on all of `test`, clean and triggered.
/// \param show progress on standard error
/// \throws Error when the data does not fit the pipeline or the attack
template <typename T, typename B, typename R, attacks::Attack A>
Evaluation evaluate(const Pipeline<T, B, R>& defense, const data::Dataset& test, const A& attack,
                    bool show = false) {
  test.validate();
  detail::require_fit("pipeline", defense.task(), test.task());
  detail::require_target(attack.target, test);
  const at::Tensor triggered = attack.trigger_images(test.images);
  std::optional<ProgressMeter> meter;
  if (show) meter.emplace("evaluation", 4 * test.size(), "img");
  std::int64_t done = 0;
  const auto advance = [&](std::int64_t images) {
    done += images;
    if (meter) meter->update(done);
  };
  Evaluation result{.classes = test.classes};
  result.before = detail::measure([&](const at::Tensor& x) { return defense.undefended(x); }, test, triggered,
                                  attack.target, defense.device(), advance);
  result.after = detail::measure([&](const at::Tensor& x) { return defense.forward(x); }, test, triggered,
                                 attack.target, defense.device(), advance);
  if (meter) meter->finish();
  return result;
}

}  // namespace refine
