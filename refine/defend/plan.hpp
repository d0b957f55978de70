#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>

#include <refine/core/random.hpp>
#include <refine/defend/load_classifier.hpp>
#include <refine/defend/notice.hpp>
#include <refine/defend/sizing.hpp>
#include <refine/training/recipe.hpp>

namespace refine {

/// What a training is expected to take, from a few steps that were timed.
struct TrainingPlan {
  int epochs = 0;              ///< of the training
  std::int64_t steps = 0;      ///< of an epoch
  double step_seconds = 0;     ///< of a step, without the victim as a teacher
  double teacher_seconds = 0;  ///< of the victim's answers to a batch, and of its features by an encoder
  /// Steps for which the victim answers: all of them, or those of the first epoch.
  bool asks_at_each_step = false;
  double peak_memory = 0;  ///< bytes: of the process on a CPU, of the device on a GPU; 0: not known

  /// Returns the expected duration of the training in seconds.
  double seconds() const { return seconds_of(epochs, asks_at_each_step); }

  /// Returns the expected duration of a training of some epochs.
  double seconds_of(int number_of_epochs, bool asks) const {
    const double per_epoch = static_cast<double>(steps);
    return per_epoch * (number_of_epochs * step_seconds + (asks ? number_of_epochs : 1) * teacher_seconds);
  }

  /// Returns one line: "12 epochs of 41 s each, about 8 min; memory 2.3 GB".
  std::string describe() const;
};

/// How a training is planned.
struct PlanOptions {
  TrainingOptions training = {};  ///< with `minutes` or `max_minutes`, the epochs are sized for it
  std::optional<Recipe> recipe = std::nullopt;  ///< replaces `training`
  TransformOptions transform = {};              ///< which transform is trained, see `size_transform`
  /// Which student is distilled instead, see `size_student`; nothing: a transform is trained.
  std::optional<StudentOptions> student = std::nullopt;
  std::uint64_t seed = default_seed;  ///< of its weights
  /// Without CUDA, the trial ends after the step of its second epoch that exceeds this.
  double max_seconds = 15;
  Notify notify = {};  ///< receives warnings: time or memory are short
};

/// Times a few steps of the training of a defense, on networks that are then discarded, and plans
/// the training. The real training is not affected: with the same number of epochs, it gives the same
/// weights with and without a plan.
///
/// With `TrainingOptions::minutes` and without `epochs`, `TrainingPlan::epochs` is the largest number,
/// up to 1,000, that is expected to fit, and at least 1. With `max_minutes`, the recipe's number is
/// the limit.
///
///     const TrainingPlan plan = plan_training(victim, images, 40'000, {.training = {.minutes = 10}});
///     defend(victim, images, {.training = {.epochs = plan.epochs}});
///
/// \param victim the classifier
/// \param images uint8 N×C×H×W of the victim's shape, two or more; the first ones are used
/// \param fitted number of images that the transform will be fitted on
/// \param options how it is trained
/// \throws Error as `fit`
TrainingPlan plan_training(const LoadedClassifier& victim, const at::Tensor& images, std::int64_t fitted,
                           const PlanOptions& options = {});

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/defend/impl/plan.ipp>
#endif
