#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include <refine/attacks/attack.hpp>
#include <refine/core/check.hpp>
#include <refine/core/error.hpp>
#include <refine/data/copy_on_write.hpp>
#include <refine/data/dataset.hpp>
#include <refine/triggers/trigger.hpp>

/// \namespace refine::attacks::detail
/// What the poisoning plans share.
namespace refine::attacks::detail {

/// Throws unless the data has the target class, with at least one image.
inline void require_target(int target, const data::Dataset& dataset) {
  const auto classes = static_cast<int>(dataset.classes.size());
  if (target < 0 || target >= classes) {
    throw Error("target must be a class of the data, 0 to {}, got {}", classes - 1, target);
  }
  if (!dataset.labels.eq(target).any().item<bool>()) {
    throw Error("target: none of the {} training images is of class {}; choose a class that has images",
                dataset.size(), target);
  }
}

/// Throws unless the rate is in [0, 1]; `field` names it.
inline void require_rate(std::string_view field, double rate) {
  if (!(rate >= 0 && rate <= 1)) throw Error("{} must be in [0, 1], got {}", field, rate);
}

/// Throws if the trigger is made for images of another shape, or refuses the first image.
template <triggers::Trigger Trigger>
void require_stampable(const Trigger& trigger, const data::Dataset& dataset) {
  require_agreement(triggers::check_shape(trigger.image, dataset.image_shape()));
  if (dataset.size() > 0) triggers::stamp(trigger, dataset.images.narrow(0, 0, 1));
}

/// Returns rate·n, rounded.
inline std::size_t count_of_share(double rate, std::int64_t n) {
  return static_cast<std::size_t>(std::llround(rate * static_cast<double>(n)));
}

/// Returns a copy whose pixels and labels a plan may change.
inline Poisoned copy_for_poisoning(const data::Dataset& clean) {
  Poisoned copy{{clean}};
  copy.images = data::copy_on_write(clean.images);
  copy.labels = clean.labels.clone();
  return copy;
}

/// Stamps the trigger on the images at `indices`, in chunks, so that few images are in memory
/// twice.
template <triggers::Trigger Trigger>
void stamp_images(data::Dataset& set, const std::vector<std::int64_t>& indices, const Trigger& trigger) {
  if (indices.empty()) return;
  for (const at::Tensor& chunk : at::tensor(indices).split(1024))
    set.images.index_copy_(0, chunk, triggers::stamp(trigger, set.images.index_select(0, chunk)));
}

/// Sets the labels at `indices` to the target.
inline void relabel(data::Dataset& set, const std::vector<std::int64_t>& indices, int target) {
  if (!indices.empty()) set.labels.index_fill_(0, at::tensor(indices), target);
}

}  // namespace refine::attacks::detail
