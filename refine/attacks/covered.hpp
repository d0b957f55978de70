#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include <refine/attacks/attack.hpp>
#include <refine/attacks/dirty_label.hpp>
#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/triggers/trigger.hpp>

namespace refine::attacks {

/// Stamps a share of the training images, of any class, and labels them as the target; stamps another share
/// and leaves their labels, so that the stamp alone does not give itself away. The stamps of training may
/// differ from the trigger of test time. For a trigger that is learnt in parts (`triggers::Patches`), its
/// parts are what training images get.
template <triggers::Trigger Trigger, triggers::Trigger Stamp = triggers::Part<Trigger>>
struct Covered {
  Trigger trigger = {};                                      ///< of test time
  std::vector<Stamp> poisons = triggers::parts_of(trigger);  ///< each poisoned image gets one, by turns
  std::vector<Stamp> covers = {};  ///< each cover image gets one, by turns; empty: of `poisons`
  int target = 0;
  double rate = 0.01;                 ///< share of the training images that are poisoned, in [0, 1]
  double cover_rate = 2 * rate;       ///< share of them that are covers; at most 1 with the other
  std::uint64_t seed = default_seed;  ///< of the choice of images

  /// \throws Error when the target is no class of the data or has no image there, a rate or their sum is
  ///   outside [0, 1], there is nothing to stamp with, or a stamp is made for images of another shape
  Poisoned poison(const data::Dataset& clean) const {
    check(clean);
    Random random(derived_seed(seed, "covered"));
    const std::vector<std::int64_t> order = random_permutation(random, clean.size());
    const std::size_t poisons_end = detail::share_of(rate, clean.size());
    const std::size_t covers_end =
        std::min(poisons_end + detail::share_of(cover_rate, clean.size()), order.size());
    const auto part = [&](std::size_t begin, std::size_t end) {
      return std::vector<std::int64_t>(order.begin() + static_cast<std::ptrdiff_t>(begin),
                                       order.begin() + static_cast<std::ptrdiff_t>(end));
    };
    Poisoned poisoned = detail::copy_of(clean);
    poisoned.indices = part(0, poisons_end);
    poisoned.covers = part(poisons_end, covers_end);
    by_turns(poisoned, poisoned.indices, poisons);
    by_turns(poisoned, poisoned.covers, covers.empty() ? poisons : covers);
    detail::label_at(poisoned, poisoned.indices, target);
    std::ranges::sort(poisoned.indices);
    std::ranges::sort(poisoned.covers);
    return poisoned;
  }

  at::Tensor trigger_images(const at::Tensor& images) const { return triggers::stamp(trigger, images); }

  /// What `poison` would refuse, without the work. \throws Error
  void check(const data::Dataset& dataset) const {
    dataset.validate();
    detail::require_target(target, dataset);
    detail::require_rate("poisoning", rate);
    if (rate + cover_rate > 1) {
      throw Error(
          "poisoning {} and covering {} of the images was asked for; both together are 1 at most, "
          "and "
          "covers are twice the rate unless said: say a rate up to 1/3, or a cover_rate up to {:.4g} "
          "[attack]",
          rate, cover_rate, 1 - rate);
    }
    detail::require_rate("cover", cover_rate);
    if (poisons.empty()) throw Error("there is nothing to poison with; give .poisons a stamp");
    detail::require_stampable(trigger, dataset);
    for (const Stamp& stamp : poisons) detail::require_stampable(stamp, dataset);
    for (const Stamp& stamp : covers) detail::require_stampable(stamp, dataset);
  }

 private:
  /// Image i of `indices` gets stamp i modulo their number.
  static void by_turns(data::Dataset& set, const std::vector<std::int64_t>& indices,
                       const std::vector<Stamp>& stamps) {
    for (std::size_t s = 0; s < stamps.size(); ++s) {
      std::vector<std::int64_t> mine;
      for (std::size_t i = s; i < indices.size(); i += stamps.size()) mine.push_back(indices[i]);
      detail::stamp_at(set, mine, stamps[s]);
    }
  }
};

}  // namespace refine::attacks
