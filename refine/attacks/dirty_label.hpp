#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include <refine/attacks/attack.hpp>
#include <refine/attacks/detail/plan.hpp>
#include <refine/core/random.hpp>
#include <refine/data/image_store.hpp>
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
    Random random(derived_seed(seed, "dirty label"));
    std::vector<std::int64_t> chosen = random_permutation(random, clean.size());
    chosen.resize(detail::count_of_share(rate, clean.size()));
    std::ranges::sort(chosen);

    Poisoned poisoned = detail::copy_for_poisoning(clean);
    detail::stamp_images(poisoned, chosen, trigger);
    detail::relabel(poisoned, chosen, target);
    poisoned.augmentation = training_augmentation.augmentation;
    const auto poisoned_mask = [&] {
      at::Tensor mask = at::zeros({clean.size()}, at::kBool);
      return chosen.empty() ? mask : mask.index_fill_(0, at::tensor(chosen), true);
    };
    if (training_augmentation.scope == TrainingAugmentation::Scope::clean_images)
      poisoned.no_augment_mask = poisoned_mask();
    if (!training_augmentation.flip_poisoned) poisoned.no_flip_mask = poisoned_mask();
    poisoned.indices = std::move(chosen);
    return poisoned;
  }

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

}  // namespace refine::attacks
