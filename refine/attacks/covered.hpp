#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <refine/attacks/attack.hpp>
#include <refine/attacks/detail/plan.hpp>
#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/triggers/trigger.hpp>

namespace refine::attacks {

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
    stamp_in_turn(poisoned, poisoned.indices, poisons);
    stamp_in_turn(poisoned, poisoned.covers, covers.empty() ? poisons : covers);
    detail::relabel(poisoned, poisoned.indices, target);
    std::ranges::sort(poisoned.indices);
    std::ranges::sort(poisoned.covers);
    return poisoned;
  }

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

 private:
  /// Stamps image i of `indices` with stamp i modulo their number.
  static void stamp_in_turn(data::Dataset& set, const std::vector<std::int64_t>& indices,
                            const std::vector<Stamp>& stamps) {
    for (std::size_t s = 0; s < stamps.size(); ++s) {
      std::vector<std::int64_t> subset;
      for (std::size_t i = s; i < indices.size(); i += stamps.size()) subset.push_back(indices[i]);
      detail::stamp_images(set, subset, stamps[s]);
    }
  }
};

}  // namespace refine::attacks
