#pragma once

#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include <refine/attacks/attack.hpp>
#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/core/seed.hpp>
#include <refine/triggers/stamp.hpp>

namespace refine::attacks {

/// Stamps a share of the training images, of any class, and labels them as the target.
template <triggers::TriggerPolicy Trigger>
struct DirtyLabel {
  Trigger trigger = {};
  int target = 0;
  double rate = 0.1;                  ///< share of the training images, in [0, 1]
  std::uint64_t seed = default_seed;  ///< of the choice of images

  /// \throws Error when the target is no class of the data, the rate is outside [0, 1], or the trigger is
  ///   made for images of another shape.
  Poisoned poison(const data::Dataset& clean) const {
    check(clean);
    const auto wanted = static_cast<std::size_t>(std::llround(rate * static_cast<double>(clean.size())));
    Random random(derived_seed(seed, "dirty label"));
    std::vector<std::int64_t> chosen = random_permutation(random, clean.size());
    chosen.resize(wanted);
    std::ranges::sort(chosen);

    Poisoned poisoned{clean, std::move(chosen)};
    poisoned.images = clean.images.clone();
    poisoned.labels = clean.labels.clone();
    if (!poisoned.indices.empty()) {
      const at::Tensor at = at::tensor(poisoned.indices);
      poisoned.images.index_copy_(0, at, trigger_images(clean.images.index_select(0, at)));
      poisoned.labels.index_fill_(0, at, target);
    }
    return poisoned;
  }

  at::Tensor trigger_images(const at::Tensor& images) const { return triggers::stamp(trigger, images); }

  /// What `poison` would refuse, without the work. \throws Error
  void check(const data::Dataset& dataset) const {
    dataset.validate();
    const auto classes = static_cast<int>(dataset.classes.size());
    if (target < 0 || target >= classes) {
      throw Error("refine: target class {} is none of the data's {}; say 0 to {} [attack]", target, classes,
                  classes - 1);
    }
    if (!(rate >= 0 && rate <= 1)) {
      throw Error("refine: a poisoning rate of {} was asked for; a rate is 0 to 1 [attack]", rate);
    }
    require_agreement(triggers::misfit(trigger.image, dataset.image()));
  }
};

}  // namespace refine::attacks
