#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include <refine/attacks/attack.hpp>
#include <refine/attacks/dirty_label.hpp>
#include <refine/attacks/pgd.hpp>
#include <refine/core/random.hpp>

namespace refine::attacks {

/// Stamps a share of the target class's own images and changes no label. They are perturbed before, so that
/// what they show is hard to learn and the trigger is not.
template <triggers::Trigger Trigger>
struct CleanLabel {
  Trigger trigger = Trigger();  // of {}, GCC 12 says that it may be used uninitialised
  int target = 0;
  double rate = 0.25;                       ///< share of the *target class's* training images, in [0, 1]
  std::uint64_t seed = default_seed;        ///< of the choice of images
  std::optional<Pgd> perturbation = Pgd{};  ///< needs a `.model`; `std::nullopt` for the ablation

  /// \throws Error when the target is no class of the data or has no image there, the rate is outside [0, 1],
  ///   the trigger is made for images of another shape, or the perturbation has no model
  Poisoned poison(const data::Dataset& clean) const {
    check(clean);
    std::vector<std::int64_t> candidates;
    const at::Tensor labels = clean.labels.contiguous();
    const auto* label = labels.const_data_ptr<std::int64_t>();
    for (std::int64_t i = 0; i < clean.size(); ++i) {
      if (label[i] == target) candidates.push_back(i);
    }
    const auto of_class = static_cast<std::int64_t>(candidates.size());
    Random random(derived_seed(seed, "clean label"));
    std::vector<std::int64_t> chosen;
    for (const auto i : random_permutation(random, of_class))
      chosen.push_back(candidates[static_cast<std::size_t>(i)]);
    chosen.resize(detail::share_of(rate, of_class));
    std::ranges::sort(chosen);

    Poisoned poisoned = detail::copy_of(clean);
    if (perturbation && !chosen.empty()) {
      const at::Tensor at = at::tensor(chosen);
      poisoned.images.index_copy_(
          0, at, (*perturbation)(clean.images.index_select(0, at), clean.labels.index_select(0, at)));
    }
    detail::stamp_at(poisoned, chosen, trigger);
    poisoned.indices = std::move(chosen);
    return poisoned;
  }

  at::Tensor trigger_images(const at::Tensor& images) const { return triggers::stamp(trigger, images); }

  /// What `poison` would refuse, without the work. \throws Error
  void check(const data::Dataset& dataset) const {
    dataset.validate();
    detail::require_target(target, dataset);
    detail::require_rate("poisoning", rate);
    if (perturbation) perturbation->check();
    detail::require_stampable(trigger, dataset);
  }
};

}  // namespace refine::attacks
