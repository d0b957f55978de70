#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include <refine/attacks/attack.hpp>
#include <refine/attacks/demand.hpp>
#include <refine/attacks/plan.hpp>
#include <refine/core/random.hpp>
#include <refine/core/seed.hpp>

namespace refine::attacks {

/// Stamps a share of the training images, of any class, and labels them as the target. What it asks of the
/// victim's training comes with the poisoned set.
template <triggers::TriggerPolicy Trigger, Demand kDemand = demands::none>
struct DirtyLabel {
  Trigger trigger = {};
  int target = 0;
  double rate = 0.1;                  ///< share of the training images, in [0, 1]
  std::uint64_t seed = default_seed;  ///< of the choice of images
  Demand demand = kDemand;            ///< `demands::none` for the ablation

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
    if (demand.of == Demand::Of::clean_images) poisoned.exempt = stamped();
    if (!demand.flip_stamped) poisoned.unflipped = stamped();
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
