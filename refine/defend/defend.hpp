#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include <refine/core/random.hpp>
#include <refine/data/resize.hpp>
#include <refine/defend/detail/any_observer.hpp>
#include <refine/defend/load_classifier.hpp>
#include <refine/defend/measure.hpp>
#include <refine/defend/notice.hpp>
#include <refine/defend/plan.hpp>
#include <refine/defend/probe.hpp>
#include <refine/defend/results.hpp>
#include <refine/defend/sizing.hpp>
#include <refine/defend/trained_defense.hpp>
#include <refine/metrics/gated.hpp>
#include <refine/pipeline/gated.hpp>
#include <refine/report/defense_report.hpp>
#include <refine/training/observers.hpp>
#include <refine/training/recipe.hpp>

/// \file
/// The product as functions: load a classifier that is not trusted, defend it with clean images,
/// save one file.
///
///     const LoadedClassifier victim = load_classifier("untrusted.pt");
///     const FolderImages clean = read_folder_images("clean/", victim.task().image);
///     defend(victim, clean.images).save("defended.pt");

namespace refine {

/// Fewer clean images than this cost noticeably more accuracy (docs/lab/clean_images.md).
inline constexpr std::int64_t enough_clean_images = 5'000;

/// How `defend` works. All fields have a default.
struct DefendOptions {
  TrainingOptions training = {};                ///< recipe, by default sized for the images and the machine
  std::optional<Recipe> recipe = std::nullopt;  ///< replaces `training`, and is used unchanged
  /// Which transform, by default a U-Net; `size_transform` chooses what is left open.
  TransformOptions transform = {};
  /// Distil this student instead, which then answers in the victim's place; nothing: a transform is trained.
  std::optional<StudentOptions> student = std::nullopt;
  /// Other pictures, of anything, that nobody tampered with: uint8 N×C×H×W as the images, or undefined. The
  /// defense also learns from the victim's answers to them, at half of their resolution
  /// (docs/lab/clean_images.md). None is held back, and no figure counts them.
  at::Tensor extra = {};
  std::uint64_t seed = default_seed;  ///< of held-back images, weights, permutation and training order
  double false_alarm_rate = 0.05;     ///< share of clean images that may raise the alarm, in [0, 1)
  Answer answer = Answer::defended;   ///< what the exported file serves; it has both answers
  bool scan = true;                   ///< try common triggers, if `evidence` has no triggered images
  bool probe = true;                  ///< probe the victim on 16 images before training
  std::optional<ProbeSummary> probed =
      std::nullopt;  ///< an earlier probe, which is reported instead of a new one
  std::optional<TrainingPlan> plan =
      std::nullopt;  ///< an earlier plan, whose epochs are used if `training` has a time only
  std::optional<Evidence> evidence = std::nullopt;  ///< what is measured on, instead of held-back images
  data::ResizeMode resize =
      data::ResizeMode::crop;  ///< how the images were resized; stored for those who serve
  std::string title = {};      ///< of the report; empty: the victim's name
  std::string dataset = {};    ///< for the report: where the images come from
  std::string attack = {};     ///< for the report: the attack, if it is known
  bool show = false;           ///< show the progress of measuring on standard error
  /// Receives warnings: few images, low agreement; and notes: what the training is expected to take.
  Notify notify = {};
};

/// A defended classifier, measured.
struct Defended {
  TrainedDefense defense;             ///< float N×C×H×W in [0, 1] → defended logits, by `forward`
  Recipe recipe;                      ///< that was used
  AlarmSetting alarm;                 ///< calibrated on held-back images
  report::DefenseReport report;       ///< `std::cout << report` prints it (report/render.hpp)
  std::string victim;                 ///< name of the victim's file
  std::int64_t fitted_images = 0;     ///< number of clean images that it was trained on
  std::int64_t extra_images = 0;      ///< number of other pictures beside them
  std::uint64_t seed = default_seed;  ///< of the defense
  TransformOptions transform = {};    ///< that was used, with the sizes that were chosen; not of a student
  std::optional<StudentOptions> student = std::nullopt;  ///< likewise, of a student
  data::ResizeMode resize = data::ResizeMode::crop;      ///< how the images were resized
  Answer answer = Answer::defended;                      ///< what the serving file's `forward` returns

  /// Returns the classifier that gives the victim's answer where the alarm is silent.
  Gated<TrainedDefense> gated() const { return {defense, alarm.threshold}; }

  /// Writes the serving file, and weights and report beside it. Folders are created; each file is
  /// whole or absent.
  /// \throws Error if a file cannot be written
  DefendedFiles save(const std::filesystem::path& serving) const;
};

namespace detail {

Defended defend(const LoadedClassifier& victim, at::Tensor images, const DefendOptions& options,
                AnyObserver& observer);

}  // namespace detail

/// Plans the training of `defend` with the same arguments (`plan_training`).
/// \throws Error as `plan_training`, or if the images are too few
TrainingPlan plan_defense(const LoadedClassifier& victim, const at::Tensor& images,
                          const DefendOptions& options = {});

/// Defends a classifier with clean, unlabelled images (Chen et al., 2025, `chen2025refine`).
///
/// Probes the victim, holds back a tenth of the images to calibrate the alarm and a tenth to
/// measure on (at most 1,000 each), sizes the recipe, fits the transform on the others, calibrates
/// the alarm, and measures. Images that nearly repeat each other are held back together. Images are
/// mirrored in training unless the victim gives mirrored images other classes (`mirror_agreement`).
///
///     const Defended defended = defend(victim, images, {.training = {.epochs = 12}}, ProgressBar{});
///     defended.save("defended.pt");
///
/// Where clean images are few, other pictures may help (`DefendOptions::extra`); images and pictures are
/// then copied:
///
///     defend(victim, images, {.extra = read_folder_images("pictures/", victim.task().image).images});
///
/// With `DefendOptions::student`, all of this is done with a student in the place of transform, victim and
/// permutation (`baselines::distill`). It serves without the victim's weights in the defended answer, and
/// the victim stays in the file for the alarm and the gated answer:
///
///     const Defended distilled = defend(victim, images, {.student = StudentOptions{.width = 16}});
///
/// The same seed gives bitwise the same weights on the CPU, with the same number of threads.
///
/// \param images uint8 N×C×H×W of the victim's shape, 4 or more. During the call, the tensor
///   is written to: its last images take the places of those that are held back, as all of them may be
///   more than fits into memory twice. Afterwards it is as before.
/// \param victim the classifier, as `load_classifier` returns it
/// \param options how it is defended
/// \param observers of the training, such as `ProgressBar`, `JsonLines` and `Checkpoint`. With a communicator
///   (`distributed::C10d`), training and measurements are divided among ranks, and all get the result; let
///   rank 0 save it. A time limit is converted to epochs as for one process.
/// \return the defense with its alarm, and its report; `save` writes the files
/// \throws Error if the victim cannot be defended, the images or other pictures do not fit it,
///   the images are too few, or training diverges
/// \throws Stopped if an observer requests it
template <typename... Observers>
Defended defend(const LoadedClassifier& victim, const at::Tensor& images, const DefendOptions& options = {},
                Observers&&... observers) {
  detail::AllObservers<Observers...> all(observers...);
  return detail::defend(victim, images, options, all);
}

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/defend/impl/defend.ipp>
#endif
