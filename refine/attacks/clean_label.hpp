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
#include <refine/attacks/detail/plan.hpp>
#include <refine/attacks/pgd.hpp>
#include <refine/core/random.hpp>
#include <refine/triggers/trigger.hpp>

namespace refine::attacks {

/// Stamps a share of the images of the target class and changes no label. The images are perturbed
/// first, so that their content is hard to learn and the trigger is easy.
///
/// \tparam Trigger what is stamped
template <triggers::Trigger Trigger>
struct CleanLabel {
  // Not {}: GCC 12 then warns that it may be used uninitialised.
  Trigger trigger = Trigger();              ///< stamped on poisoned and on test images
  int target = 0;                           ///< the class that the attacker wants
  double rate = 0.25;                       ///< share of the *target class's* training images, in [0, 1]
  std::uint64_t seed = default_seed;        ///< seed of the choice of images
  std::optional<Pgd> perturbation = Pgd{};  ///< needs a `.model`; `std::nullopt` is the ablation

  /// Returns the poisoned training set. The set given is not changed.
  ///
  /// \param clean the training set
  /// \throws Error if the data has no image of the target, `rate` is out of range, the trigger does
  ///   not fit the images, or the perturbation has no model
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
    chosen.resize(detail::count_of_share(rate, of_class));
    std::ranges::sort(chosen);

    Poisoned poisoned = detail::copy_for_poisoning(clean);
    if (perturbation && !chosen.empty()) {
      const at::Tensor indices = at::tensor(chosen);
      poisoned.images.index_copy_(
          0, indices,
          (*perturbation)(clean.images.index_select(0, indices), clean.labels.index_select(0, indices)));
    }
    detail::stamp_images(poisoned, chosen, trigger);
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
    if (perturbation) perturbation->check();
    detail::require_stampable(trigger, dataset);
  }
};

}  // namespace refine::attacks
