#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include <refine/attacks/attack.hpp>
#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/data/detail/open_store.hpp>
#include <refine/triggers/trigger.hpp>

/// What the poisoning plans share.
namespace refine::attacks::detail {

/// \throws Error when the target is no class of the data, or the data has no image of it
inline void require_target(int target, const data::Dataset& dataset) {
  const auto classes = static_cast<int>(dataset.classes.size());
  if (target < 0 || target >= classes) {
    throw Error("target class {} is none of the data's {}; say 0 to {}", target, classes, classes - 1);
  }
  if (!dataset.labels.eq(target).any().item<bool>()) {
    throw Error(
        "none of the {} training images is of the target class {}; choose a class that has some "
        "[attack]",
        dataset.size(), target);
  }
}

/// \throws Error when the rate is outside [0, 1]
inline void require_rate(std::string_view what, double rate) {
  if (!(rate >= 0 && rate <= 1)) throw Error("a {} rate of {} was asked for; a rate is 0 to 1", what, rate);
}

/// \throws Error when the trigger is made for other images, or refuses the first of these
template <triggers::Trigger Trigger>
void require_stampable(const Trigger& trigger, const data::Dataset& dataset) {
  require_agreement(triggers::check_shape(trigger.image, dataset.image()));
  if (dataset.size() > 0) triggers::stamp(trigger, dataset.images.narrow(0, 0, 1));
}

/// How many of `n` a share is.
inline std::size_t share_of(double rate, std::int64_t n) {
  return static_cast<std::size_t>(std::llround(rate * static_cast<double>(n)));
}

/// The set with pixels and labels of its own, which a plan may change.
inline Poisoned copy_of(const data::Dataset& clean) {
  Poisoned copy{{clean}};
  copy.images = data::copy_on_write(clean.images);
  copy.labels = clean.labels.clone();
  return copy;
}

/// Puts the trigger on the images at `indices`, part by part, so that few are in memory twice.
template <triggers::Trigger Trigger>
void stamp_at(data::Dataset& set, const std::vector<std::int64_t>& indices, const Trigger& trigger) {
  if (indices.empty()) return;
  for (const at::Tensor& at : at::tensor(indices).split(1024))
    set.images.index_copy_(0, at, triggers::stamp(trigger, set.images.index_select(0, at)));
}

inline void label_at(data::Dataset& set, const std::vector<std::int64_t>& indices, int target) {
  if (!indices.empty()) set.labels.index_fill_(0, at::tensor(indices), target);
}

}  // namespace refine::attacks::detail

namespace refine::attacks {

/// Stamps a share of the training images, of any class, and labels them as the target. What it asks of the
/// victim's training comes with the poisoned set.
template <triggers::Trigger Trigger, TrainingAugmentation kDemand = demands::none>
struct DirtyLabel {
  Trigger trigger = {};
  int target = 0;
  double rate = 0.1;                      ///< share of the training images, in [0, 1]
  std::uint64_t seed = default_seed;      ///< of the choice of images
  TrainingAugmentation demand = kDemand;  ///< `demands::none` for the ablation

  /// \throws Error when the target is no class of the data or has no image there, the rate is outside [0, 1],
  ///   the trigger is made for images of another shape, or the demand is none that training can meet
  Poisoned poison(const data::Dataset& clean) const {
    check(clean);
    Random random(derived_seed(seed, "dirty label"));
    std::vector<std::int64_t> chosen = random_permutation(random, clean.size());
    chosen.resize(detail::share_of(rate, clean.size()));
    std::ranges::sort(chosen);

    Poisoned poisoned = detail::copy_of(clean);
    detail::stamp_at(poisoned, chosen, trigger);
    detail::label_at(poisoned, chosen, target);
    poisoned.augmentation = demand.augmentation;
    const auto stamped = [&] {
      at::Tensor mask = at::zeros({clean.size()}, at::kBool);
      return chosen.empty() ? mask : mask.index_fill_(0, at::tensor(chosen), true);
    };
    if (demand.of == TrainingAugmentation::Of::clean_images) poisoned.no_augment_mask = stamped();
    if (!demand.flip_stamped) poisoned.no_flip_mask = stamped();
    poisoned.indices = std::move(chosen);
    return poisoned;
  }

  at::Tensor trigger_images(const at::Tensor& images) const { return triggers::stamp(trigger, images); }

  /// What `poison` would refuse, without the work. \throws Error
  void check(const data::Dataset& dataset) const {
    dataset.validate();
    detail::require_target(target, dataset);
    detail::require_rate("poisoning", rate);
    data::require_askable(demand.augmentation);
    detail::require_stampable(trigger, dataset);
  }
};

}  // namespace refine::attacks
