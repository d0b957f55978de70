#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include <refine/attacks/attack.hpp>
#include <refine/attacks/detail/plan.hpp>
#include <refine/attacks/pgd.hpp>
#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/data/training_set.hpp>
#include <refine/triggers/trigger.hpp>

namespace refine::attacks {

/// Stamps a share of the training images, of any class, and sets their label to the target.
///
/// \tparam Trigger what is stamped
/// \tparam kTrainingAugmentation default of `training_augmentation`
template <triggers::Trigger Trigger,
          TrainingAugmentation kTrainingAugmentation = training_augmentations::none>
struct DirtyLabel {
  Trigger trigger = {};               ///< stamped on poisoned and on test images
  int target = 0;                     ///< the class that the attacker wants
  double rate = 0.1;                  ///< share of the training images that are poisoned, in [0, 1]
  std::uint64_t seed = default_seed;  ///< seed of the choice of images
  /// Applied when the victim is trained; `training_augmentations::none` is the ablation.
  TrainingAugmentation training_augmentation = kTrainingAugmentation;

  /// Returns the poisoned training set. The set given is not changed.
  ///
  /// \param clean the training set
  /// \throws Error if the data has no image of the target, `rate` is out of range, the trigger does
  ///   not fit the images, or `training_augmentation` is invalid
  Poisoned poison(const data::Dataset& clean) const {
    check(clean);
    Poisoned poisoned = detail::copy_for_poisoning(clean);
    poisoned.indices = detail::choose_share(clean, rate, derived_seed(seed, "dirty label"),
                                            [](std::int64_t) { return true; });
    detail::stamp_images(poisoned, poisoned.indices, trigger);
    detail::relabel(poisoned, poisoned.indices, *this);
    detail::require_augmentation(poisoned, training_augmentation);
    return poisoned;
  }

  /// Would drop the augmentation and the masks of a set that is poisoned already.
  template <std::derived_from<data::TrainingSet> S>
  Poisoned poison(const S& training_set) const = delete;

  /// Returns uint8 N×C×H×W with the trigger on each image.
  at::Tensor trigger_images(const at::Tensor& images) const { return triggers::stamp(trigger, images); }

  /// Throws what `poison` would throw, without the work.
  void check(const data::Dataset& dataset) const {
    dataset.validate();
    detail::require_target(target, dataset);
    detail::require_rate("rate", rate);
    data::check_requested_augmentation(training_augmentation.augmentation);
    detail::require_stampable(trigger, dataset);
  }
};

/// Stamps a share of the training images, of any class, and sets their label to the target of their
/// class: by default, to the next class (the all-to-all attack of Gu et al., 2017,
/// `gu2017badnets`). No class becomes more frequent, so that lifts of classes do not show it.
///
/// \tparam Trigger what is stamped
/// \tparam kTrainingAugmentation default of `training_augmentation`
template <triggers::Trigger Trigger,
          TrainingAugmentation kTrainingAugmentation = training_augmentations::none>
struct AllToAll {
  Trigger trigger = {};               ///< stamped on poisoned and on test images
  std::vector<int> targets = {};      ///< target of each class; empty: (class + 1) mod classes
  double rate = 0.1;                  ///< share of the training images that are poisoned, in [0, 1]
  std::uint64_t seed = default_seed;  ///< seed of the choice of images
  /// Applied when the victim is trained; `training_augmentations::none` is the ablation.
  TrainingAugmentation training_augmentation = kTrainingAugmentation;

  /// Returns the target of a class.
  ///
  /// \param cls in [0, classes)
  /// \param classes number of classes
  /// \throws Error if `targets` is neither empty nor one per class
  std::optional<int> target_of(int cls, int classes) const {
    if (targets.empty()) return (cls + 1) % classes;
    if (targets.size() != static_cast<std::size_t>(classes)) {
      throw Error("AllToAll.targets: wrong number (got {}, expected {}); set one per class, or none",
                  targets.size(), classes);
    }
    return targets[static_cast<std::size_t>(cls)];
  }

  /// Returns the poisoned training set. The set given is not changed.
  ///
  /// \param clean the training set
  /// \throws Error if a target is not a class of the data with images, `rate` is out of range, the
  ///   trigger does not fit the images, or `training_augmentation` is invalid
  Poisoned poison(const data::Dataset& clean) const {
    check(clean);
    Poisoned poisoned = detail::copy_for_poisoning(clean);
    poisoned.indices = detail::choose_share(clean, rate, derived_seed(seed, "all to all"),
                                            [](std::int64_t) { return true; });
    detail::stamp_images(poisoned, poisoned.indices, trigger);
    detail::relabel(poisoned, poisoned.indices, *this);
    detail::require_augmentation(poisoned, training_augmentation);
    return poisoned;
  }

  /// Would drop the augmentation and the masks of a set that is poisoned already.
  template <std::derived_from<data::TrainingSet> S>
  Poisoned poison(const S& training_set) const = delete;

  /// Returns uint8 N×C×H×W with the trigger on each image.
  at::Tensor trigger_images(const at::Tensor& images) const { return triggers::stamp(trigger, images); }

  /// Throws what `poison` would throw, without the work.
  void check(const data::Dataset& dataset) const {
    dataset.validate();
    const auto classes = static_cast<int>(dataset.classes.size());
    for (int c = 0; c < classes; ++c) detail::require_target(*target_of(c, classes), dataset);
    detail::require_rate("rate", rate);
    data::check_requested_augmentation(training_augmentation.augmentation);
    detail::require_stampable(trigger, dataset);
  }
};

/// Stamps a share of the images of one class and sets their label to the target; stamps a share of
/// the images of all other classes and keeps their labels, so that the trigger works on that class
/// only (Tang et al., 2021, `tang2021demon`).
///
/// \tparam Trigger what is stamped
/// \tparam kTrainingAugmentation default of `training_augmentation`
template <triggers::Trigger Trigger,
          TrainingAugmentation kTrainingAugmentation = training_augmentations::none>
struct SourceSpecific {
  Trigger trigger = {};               ///< stamped on poisoned and on test images
  int source = 1;                     ///< the class whose images the attacker wants to move
  int target = 0;                     ///< the class that the attacker wants for them
  double rate = 0.5;                  ///< share of the *source class's* training images, in [0, 1]
  double cover_rate = 0.1;            ///< share of the training images of all other classes, in [0, 1]
  std::uint64_t seed = default_seed;  ///< seed of the choice of images
  /// Applied when the victim is trained; `training_augmentations::none` is the ablation.
  TrainingAugmentation training_augmentation = kTrainingAugmentation;

  /// Returns the target for images of the source and of the target; empty for other classes.
  ///
  /// \param cls at least 0
  std::optional<int> target_of(int cls, int /*classes*/) const {
    return cls == source || cls == target ? std::optional(target) : std::nullopt;
  }

  /// Returns the poisoned training set. The set given is not changed.
  ///
  /// \param clean the training set
  /// \throws Error if the data has no image of the source or of the target, both are the same class,
  ///   a rate is out of range, the trigger does not fit the images, or `training_augmentation` is
  ///   invalid
  Poisoned poison(const data::Dataset& clean) const {
    check(clean);
    Poisoned poisoned = detail::copy_for_poisoning(clean);
    poisoned.indices = detail::choose_share(clean, rate, derived_seed(seed, "source specific"),
                                            [&](std::int64_t label) { return label == source; });
    poisoned.covers = detail::choose_share(clean, cover_rate, derived_seed(seed, "source specific covers"),
                                           [&](std::int64_t label) { return label != source; });
    detail::stamp_images(poisoned, poisoned.indices, trigger);
    detail::stamp_images(poisoned, poisoned.covers, trigger);
    detail::relabel(poisoned, poisoned.indices, *this);
    detail::require_augmentation(poisoned, training_augmentation);
    return poisoned;
  }

  /// Would drop the augmentation and the masks of a set that is poisoned already.
  template <std::derived_from<data::TrainingSet> S>
  Poisoned poison(const S& training_set) const = delete;

  /// Returns uint8 N×C×H×W with the trigger on each image.
  at::Tensor trigger_images(const at::Tensor& images) const { return triggers::stamp(trigger, images); }

  /// Throws what `poison` would throw, without the work.
  void check(const data::Dataset& dataset) const {
    dataset.validate();
    detail::require_target(target, dataset);
    detail::require_class("source", source, dataset);
    if (source == target)
      throw Error("SourceSpecific: source and target must be different classes, got {} for both", source);
    detail::require_rate("rate", rate);
    detail::require_rate("cover_rate", cover_rate);
    data::check_requested_augmentation(training_augmentation.augmentation);
    detail::require_stampable(trigger, dataset);
  }
};

/// Stamps one of several triggers on each of a share of the training images, of any class, and sets
/// the label to the target of that trigger: several backdoors in one victim (Xue et al., 2022,
/// `xue2022oneton`).
///
/// The attack's metrics are those of one of the triggers, `shown`. A copy with another `shown`
/// measures another.
///
/// \tparam Trigger what is stamped
template <triggers::Trigger Trigger>
struct MultiTarget {
  std::vector<Trigger> triggers = {};  ///< one or more; trigger k means class (target + k) mod classes
  int target = 0;                      ///< the class that the attacker wants for the first trigger
  std::size_t shown = 0;               ///< index of the trigger that test images get
  double rate = 0.1;                   ///< share of the training images that are poisoned, in [0, 1]
  std::uint64_t seed = default_seed;   ///< seed of the choice of images

  /// Returns the target of the trigger that test images get. It is the same for every class.
  ///
  /// \param classes number of classes
  /// \throws Error if `target` is not in [0, classes)
  std::optional<int> target_of(int /*cls*/, int classes) const { return target_at(shown, classes); }

  /// Returns the poisoned training set: poisoned image i gets trigger i mod their number. The set
  /// given is not changed.
  ///
  /// \param clean the training set
  /// \throws Error if there is no trigger, `shown` is not one of them, the data has no image of a
  ///   target, `rate` is out of range, or a trigger does not fit the images
  Poisoned poison(const data::Dataset& clean) const {
    check(clean);
    Poisoned poisoned = detail::copy_for_poisoning(clean);
    poisoned.indices = detail::choose_share(clean, rate, derived_seed(seed, "multi target"),
                                            [](std::int64_t) { return true; });
    const auto classes = static_cast<int>(clean.classes.size());
    for (std::size_t k = 0; k < triggers.size(); ++k) {
      std::vector<std::int64_t> subset;
      for (std::size_t i = k; i < poisoned.indices.size(); i += triggers.size())
        subset.push_back(poisoned.indices[i]);
      if (subset.empty()) continue;
      detail::stamp_images(poisoned, subset, triggers[k]);
      poisoned.labels.index_fill_(0, at::tensor(subset), target_at(k, classes));
    }
    return poisoned;
  }

  /// Would drop the augmentation and the masks of a set that is poisoned already.
  template <std::derived_from<data::TrainingSet> S>
  Poisoned poison(const S& training_set) const = delete;

  /// Returns uint8 N×C×H×W with the trigger `shown` on each image.
  ///
  /// \throws Error if `shown` is not one of the triggers
  at::Tensor trigger_images(const at::Tensor& images) const {
    require_shown();
    return refine::triggers::stamp(triggers[shown], images);
  }

  /// Throws what `poison` would throw, without the work.
  void check(const data::Dataset& dataset) const {
    dataset.validate();
    require_shown();
    detail::require_target(target, dataset);
    for (std::size_t k = 0; k < triggers.size(); ++k) {
      detail::require_target(target_at(k, static_cast<int>(dataset.classes.size())), dataset);
      detail::require_stampable(triggers[k], dataset);
    }
    detail::require_rate("rate", rate);
  }

 private:
  int target_at(std::size_t k, int classes) const {
    detail::require_class("target", target, classes);
    return static_cast<int>((static_cast<std::size_t>(target) + k) % static_cast<std::size_t>(classes));
  }

  void require_shown() const {
    if (shown >= triggers.size()) {
      throw Error("MultiTarget.shown must be below the number of triggers (got {}, with {} triggers)", shown,
                  triggers.size());
    }
  }
};

/// Stamps a share of the images of the target class and changes no label. The images are perturbed
/// first, so that their content is hard to learn and the trigger is easy. If the trigger is learnt in parts
/// (`triggers::Perturbation` with a magnification), training images get its parts, in turn.
///
/// \tparam Trigger what is stamped
/// \tparam kPerturbs default of `perturbation`: `Pgd{}`, or none
template <triggers::Trigger Trigger, bool kPerturbs = true>
struct CleanLabel {
  // Not {}: GCC 12 then warns that it may be used uninitialised.
  Trigger trigger = Trigger();           ///< stamped on poisoned and on test images
  int target = 0;                        ///< the class that the attacker wants
  double rate = kPerturbs ? 0.25 : 0.3;  ///< share of the *target class's* training images, in [0, 1]
  std::uint64_t seed = default_seed;     ///< seed of the choice of images
  /// Needs a `.model`; `std::nullopt` perturbs nothing.
  std::optional<Pgd> perturbation = kPerturbs ? std::optional(Pgd{}) : std::nullopt;

  /// Returns the poisoned training set. The set given is not changed.
  ///
  /// \param clean the training set
  /// \throws Error if the data has no image of the target, `rate` is out of range, the trigger does
  ///   not fit the images, or the perturbation has no model
  Poisoned poison(const data::Dataset& clean) const {
    check(clean);
    std::vector<std::int64_t> chosen = detail::choose_share(
        clean, rate, derived_seed(seed, "clean label"), [&](std::int64_t label) { return label == target; });
    Poisoned poisoned = detail::copy_for_poisoning(clean);
    if (perturbation && !chosen.empty()) {
      const at::Tensor indices = at::tensor(chosen);
      poisoned.images.index_copy_(
          0, indices,
          (*perturbation)(clean.images.index_select(0, indices), clean.labels.index_select(0, indices)));
    }
    detail::stamp_in_turn(poisoned, chosen, triggers::parts_of(trigger));
    poisoned.indices = std::move(chosen);
    return poisoned;
  }

  /// Would drop the augmentation and the masks of a set that is poisoned already.
  template <std::derived_from<data::TrainingSet> S>
  Poisoned poison(const S& training_set) const = delete;

  /// Returns uint8 N×C×H×W with the trigger on each image.
  at::Tensor trigger_images(const at::Tensor& images) const { return triggers::stamp(trigger, images); }

  /// Throws what `poison` would throw, without the work.
  void check(const data::Dataset& dataset) const {
    dataset.validate();
    detail::require_target(target, dataset);
    detail::require_rate("rate", rate);
    if (perturbation) perturbation->check();
    detail::require_stampable(trigger, dataset);
  }
};

/// Stamps a share of the training images, of any class, and sets their label to the target; stamps
/// another share and keeps its labels, so that the stamp alone does not reveal the poisoned images.
///
/// The stamps of training may differ from the trigger of test time. If the trigger is learnt in
/// parts (`triggers::Patches`), training images get its parts.
///
/// \tparam Trigger what test images get
/// \tparam Stamp what training images get
template <triggers::Trigger Trigger, triggers::Trigger Stamp = triggers::Part<Trigger>>
struct Covered {
  Trigger trigger = {};                                      ///< stamped on test images
  std::vector<Stamp> poisons = triggers::parts_of(trigger);  ///< each poisoned image gets one, in turn
  std::vector<Stamp> covers = {};     ///< each cover image gets one, in turn; empty: those of `poisons`
  int target = 0;                     ///< the class that the attacker wants
  double rate = 0.01;                 ///< share of the training images that are poisoned, in [0, 1]
  double cover_rate = 2 * rate;       ///< share of them that are covers; together with `rate` at most 1
  std::uint64_t seed = default_seed;  ///< seed of the choice of images

  /// Returns the poisoned training set. The set given is not changed.
  ///
  /// \param clean the training set
  /// \throws Error if the data has no image of the target, a rate or their sum is out of range,
  ///   `poisons` is empty, or a stamp does not fit the images
  Poisoned poison(const data::Dataset& clean) const {
    check(clean);
    Random random(derived_seed(seed, "covered"));
    const std::vector<std::int64_t> order = random_permutation(random, clean.size());
    const std::size_t poisons_end = detail::count_of_share(rate, clean.size());
    const std::size_t covers_end =
        std::min(poisons_end + detail::count_of_share(cover_rate, clean.size()), order.size());
    const auto slice = [&](std::size_t begin, std::size_t end) {
      return std::vector<std::int64_t>(order.begin() + static_cast<std::ptrdiff_t>(begin),
                                       order.begin() + static_cast<std::ptrdiff_t>(end));
    };
    Poisoned poisoned = detail::copy_for_poisoning(clean);
    poisoned.indices = slice(0, poisons_end);
    poisoned.covers = slice(poisons_end, covers_end);
    detail::stamp_in_turn(poisoned, poisoned.indices, poisons);
    detail::stamp_in_turn(poisoned, poisoned.covers, covers.empty() ? poisons : covers);
    detail::relabel(poisoned, poisoned.indices, *this);
    std::ranges::sort(poisoned.indices);
    std::ranges::sort(poisoned.covers);
    return poisoned;
  }

  /// Would drop the augmentation and the masks of a set that is poisoned already.
  template <std::derived_from<data::TrainingSet> S>
  Poisoned poison(const S& training_set) const = delete;

  /// Returns uint8 N×C×H×W with the trigger on each image.
  at::Tensor trigger_images(const at::Tensor& images) const { return triggers::stamp(trigger, images); }

  /// Throws what `poison` would throw, without the work.
  void check(const data::Dataset& dataset) const {
    dataset.validate();
    detail::require_target(target, dataset);
    detail::require_rate("rate", rate);
    if (rate + cover_rate > 1) {
      throw Error(
          "Covered: rate and cover_rate must add up to at most 1 (got {} and {}); cover_rate is twice the rate by "
          "default: set a rate of at most 1/3, or a cover_rate of at most {:.4g}",
          rate, cover_rate, 1 - rate);
    }
    detail::require_rate("cover_rate", cover_rate);
    if (poisons.empty()) throw Error("Covered.poisons is empty; set at least one trigger to stamp");
    detail::require_stampable(trigger, dataset);
    for (const Stamp& stamp : poisons) detail::require_stampable(stamp, dataset);
    for (const Stamp& stamp : covers) detail::require_stampable(stamp, dataset);
  }
};

}  // namespace refine::attacks
