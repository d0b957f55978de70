#pragma once

#include <refine/defend/plan.hpp>

#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/data/batches.hpp>
#include <refine/data/dataset.hpp>
#include <refine/defend/detail/any_observer.hpp>
#include <refine/defend/detail/prepared_defense.hpp>
#include <refine/defend/detail/seconds_since.hpp>
#include <refine/evaluation/detail/peak_memory.hpp>
#include <refine/metrics/quantile.hpp>
#include <refine/nn/autocast.hpp>
#include <refine/nn/device.hpp>
#include <refine/training/observers.hpp>

namespace refine::detail {

using Clock = std::chrono::steady_clock;

/// Observes a trial: the times of its steps, and when to end it.
struct TrialObserver {
  double max_seconds;
  bool is_cpu;
  Clock::time_point start = Clock::now(), last = start;
  std::vector<double> steps = {};  ///< after the first epoch, which warms up and asks the teacher; on a CPU
  std::vector<double> ends = {};   ///< of epochs, in seconds

  void on_step(const StepInfo& info) {
    const Clock::time_point now = Clock::now();
    if (info.epoch > 1) steps.push_back(std::chrono::duration<double>(now - last).count());
    last = now;
  }
  void on_epoch(const EpochInfo& info) { ends.push_back(info.seconds); }
  bool stop_requested() const { return is_cpu && !steps.empty() && seconds_since(start) > max_seconds; }
};

/// Returns the memory that a new process could have without swapping, in bytes; infinity if the system
/// does not report it.
inline double available_memory() {
  std::ifstream file("/proc/meminfo");
  std::string key, unit;
  for (double kilobytes = 0; file >> key >> kilobytes; std::getline(file, unit)) {
    if (key == "MemAvailable:") return 1024 * kilobytes;
  }
  return std::numeric_limits<double>::infinity();
}

inline std::string duration_text(double seconds) {
  if (seconds < 10) return fmt::format("{:.2g} s", seconds);
  if (seconds < 100) return fmt::format("{:.0f} s", seconds);
  if (seconds < 5400) return fmt::format("{:.0f} min", seconds / 60);
  return fmt::format("{:.1f} h", seconds / 3600);
}

/// Returns the number of steps of an epoch, as `fit` divides its images.
inline std::int64_t steps_of_epoch(std::int64_t images, std::int64_t batch) {
  const at::Tensor blank = at::zeros({1, 1, 1, 1}, at::kByte).expand({images, 1, 1, 1});  // of no memory
  return (blank | data::views::batches(batch, data::LastBatch::join_single)).size();
}

/// Returns the plan for a recipe, from the same times.
inline TrainingPlan with_recipe(TrainingPlan plan, const Recipe& recipe) {
  plan.epochs = recipe.optimization.epochs;
  plan.asks_at_each_step = recipe.teacher == TeacherInput::augmented;
  return plan;
}

/// Times steps of the recipe, and writes the result to `plan`.
inline void run_trial(const PreparedDefense& prepared, const at::Tensor& images, Recipe recipe,
                      const PlanOptions& options, TrainingPlan& plan) {
  const at::Device device = default_device();
  const std::int64_t batch = recipe.optimization.batch_size,
                     wanted = batch * (device.is_cpu() ? 3 : 16);  // a GPU records its first steps
  const at::Tensor some = images.narrow(0, 0, std::min(images.size(0), wanted));
  const std::int64_t steps = std::max<std::int64_t>(some.size(0) / batch, 1);
  recipe.optimization.epochs = device.is_cpu() ? 2 : 3;
  const double free_before = static_cast<double>(nn::free_memory(device));
  TrialObserver observer{.max_seconds = options.max_seconds, .is_cpu = device.is_cpu()};
  try {
    AllObservers<TrialObserver> all(observer);
    AnyObserver& any = all;  // as in `defend`, so that the loop is compiled once
    History history;
    prepared.train(some, recipe, any, history);
  } catch (const Stopped&) {  // long enough
  } catch (const Error&) {    // few images can be predicted as one class
    if (observer.steps.empty()) throw;
  }
  plan.step_seconds = metrics::median(observer.steps);
  if (device.is_cpu()) {
    plan.peak_memory = peak_memory();
  } else {
    if (observer.ends.size() == 3)  // a step does not wait for the device, an epoch does
      plan.step_seconds = (observer.ends[2] - observer.ends[1]) / static_cast<double>(steps);
    plan.peak_memory = free_before - static_cast<double>(nn::free_memory(device));
  }

  const at::Tensor asked = data::to_float(some.narrow(0, 0, std::min(some.size(0), batch)), device)
                               .contiguous(at::MemoryFormat::ChannelsLast);
  const bool bfloat16 =
      computes_in_bfloat16(recipe.optimization.precision, device, some, /*needs_gradient=*/false,
                           [&](const at::Tensor& x) { return prepared.defense.undefended(x); });
  const c10::NoGradGuard no_grad;
  const nn::Autocast autocast(device, bfloat16);
  const Clock::time_point start = Clock::now();
  if (prepared.encode) prepared.encode(asked).sum().item<float>();
  prepared.defense.undefended(asked).sum().item<float>();  // waits for the device
  plan.teacher_seconds = seconds_since(start);
  if (recipe.teacher == TeacherInput::augmented)
    plan.step_seconds = std::max(plan.step_seconds - plan.teacher_seconds, plan.step_seconds / 10);
}

}  // namespace refine::detail

namespace refine {

REFINE_INLINE std::string TrainingPlan::describe() const {
  std::string text = fmt::format("{} epoch{} of {}{}, about {}", epochs, epochs == 1 ? "" : "s",
                                 detail::duration_text(seconds() / std::max(epochs, 1)),
                                 epochs == 1 ? "" : " each", detail::duration_text(seconds()));
  if (peak_memory > 0) text += fmt::format("; memory {:.1f} GB", peak_memory / 1e9);
  return text;
}

REFINE_INLINE TrainingPlan plan_training(const LoadedClassifier& victim, const at::Tensor& images,
                                         std::int64_t fitted, const PlanOptions& options) {
  const ImageShape shape = victim.task().image;
  const detail::SizedDefense sized = detail::size_defense(options.transform, options.student, victim);
  const auto recipe_of = [&](std::optional<int> epochs) {
    if (options.recipe) return *options.recipe;
    TrainingOptions training = options.training;
    if (epochs) training.epochs = epochs;
    return sized.recipe(training, fitted, shape, options.seed);
  };
  Recipe recipe = recipe_of(std::nullopt);
  TrainingPlan plan;
  detail::run_trial(detail::prepare_defense(victim, sized, options.seed), images, recipe, options, plan);
  const std::int64_t batch = recipe.optimization.batch_size;
  plan.steps = detail::steps_of_epoch(fitted, batch);

  const TrainingOptions& training = options.training;
  const bool is_sized = is_timed(training) && !options.recipe;
  const double minutes = training.minutes.value_or(training.max_minutes.value_or(0));
  const int usual_epochs = recipe.optimization.epochs;
  const TrainingPlan usual = detail::with_recipe(plan, recipe);
  if (is_sized) {
    constexpr int max_epochs = 1000;
    const double budget = 60 * minutes;
    int epochs = training.minutes ? max_epochs : usual_epochs;
    for (; epochs > 1; --epochs) {
      if (plan.seconds_of(epochs, false) > budget) continue;  // the recipe of fewer is not slower
      recipe = recipe_of(epochs);
      if (plan.seconds_of(epochs, recipe.teacher == TeacherInput::augmented) <= budget) break;
    }
    recipe = recipe_of(epochs);
  }
  plan = detail::with_recipe(plan, recipe);

  constexpr std::int64_t few_seen = 10'000;
  if (is_sized && plan.seconds() > 1.1 * 60 * minutes) {
    detail::warn(options.notify,
                 fmt::format("{:g} minutes are too short for this victim: one epoch of {} images takes {}",
                             minutes, fitted, detail::duration_text(plan.seconds())));
  } else if (is_sized && training.minutes && plan.epochs * fitted < few_seen) {
    detail::warn(
        options.notify,
        fmt::format("{:g} minutes are short for this victim: training sees {} images in all; expect a low "
                    "agreement, or give it more time",
                    minutes, plan.epochs * fitted));
  }
  if (is_sized && !training.minutes && plan.epochs < usual_epochs) {
    detail::warn(
        options.notify,
        fmt::format("training ends after {:g} minutes: {} epochs instead of the usual {} for {} images, "
                    "which take about {} and give a higher agreement; --epoch {} trains them",
                    minutes, plan.epochs, usual_epochs, fitted, detail::duration_text(usual.seconds()),
                    usual_epochs));
  }
  if (default_device().is_cpu() && detail::available_memory() < plan.peak_memory / 4) {
    detail::warn(
        options.notify,
        fmt::format("memory is short: the training takes {:.1f} GB, and {:.1f} GB are left; --batch_size {} "
                    "or --width takes less",
                    plan.peak_memory / 1e9, detail::available_memory() / 1e9,
                    std::max<std::int64_t>(batch / 2, 2)));
  }
  return plan;
}

}  // namespace refine
