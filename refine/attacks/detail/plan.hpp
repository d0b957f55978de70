#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include <refine/attacks/attack.hpp>
#include <refine/core/check.hpp>
#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/data/dataset.hpp>
#include <refine/data/image_folder.hpp>
#include <refine/triggers/trigger.hpp>

/// \namespace refine::attacks::detail
/// What the poisoning plans share.
namespace refine::attacks::detail {

/// Throws unless a class is in [0, classes); `field` names it.
inline void require_class(std::string_view field, int cls, int classes) {
  if (cls < 0 || cls >= classes) {
    throw Error("{} must be a class of the data, 0 to {}, got {}", field, classes - 1, cls);
  }
}

/// Throws unless the data has this class, with at least one image; `field` names it.
inline void require_class(std::string_view field, int cls, const data::Dataset& dataset) {
  require_class(field, cls, static_cast<int>(dataset.classes.size()));
  if (!dataset.labels.eq(cls).any().item<bool>()) {
    throw Error("{}: none of the {} training images is of class {}; choose a class that has images", field,
                dataset.size(), cls);
  }
}

/// Throws unless the data has the target class, with at least one image.
inline void require_target(int target, const data::Dataset& dataset) {
  require_class("target", target, dataset);
}

/// Throws unless the rate is in [0, 1]; `field` names it.
inline void require_rate(std::string_view field, double rate) {
  if (!(rate >= 0 && rate <= 1)) throw Error("{} must be in [0, 1], got {}", field, rate);
}

/// Throws if the trigger is made for images of another shape, or `stamp` refuses it on the first two images: on one
/// alone, a trigger that returns one image for all would pass.
template <triggers::Trigger Trigger>
void require_stampable(const Trigger& trigger, const data::Dataset& dataset) {
  require_agreement(triggers::check_shape(trigger.image, dataset.image_shape()));
  if (dataset.size() > 0)
    triggers::stamp(trigger, dataset.images.narrow(0, 0, std::min<std::int64_t>(dataset.size(), 2)));
}

/// Returns rate·n, rounded.
inline std::size_t count_of_share(double rate, std::int64_t n) {
  return static_cast<std::size_t>(std::llround(rate * static_cast<double>(n)));
}

/// Returns the positions of a random share of the images whose label is wanted, ascending.
///
/// \param set the training set
/// \param rate share of the wanted images, in [0, 1]
/// \param seed of the choice
/// \param wanted takes a label (`std::int64_t`)
template <typename Wanted>
std::vector<std::int64_t> choose_share(const data::Dataset& set, double rate, std::uint64_t seed,
                                       Wanted&& wanted) {
  const at::Tensor labels = set.labels.contiguous();
  const auto* label = labels.const_data_ptr<std::int64_t>();
  std::vector<std::int64_t> candidates;
  for (std::int64_t i = 0; i < set.size(); ++i) {
    if (wanted(label[i])) candidates.push_back(i);
  }
  const auto count = static_cast<std::int64_t>(candidates.size());
  Random random(seed);
  std::vector<std::int64_t> chosen;
  for (const auto i : random_permutation(random, count))
    chosen.push_back(candidates[static_cast<std::size_t>(i)]);
  chosen.resize(count_of_share(rate, count));
  std::ranges::sort(chosen);
  return chosen;
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

/// Stamps image i of `indices` with stamp i modulo their number.
template <triggers::Trigger Stamp>
void stamp_in_turn(data::Dataset& set, const std::vector<std::int64_t>& indices,
                   const std::vector<Stamp>& stamps) {
  for (std::size_t s = 0; s < stamps.size(); ++s) {
    std::vector<std::int64_t> subset;
    for (std::size_t i = s; i < indices.size(); i += stamps.size()) subset.push_back(indices[i]);
    stamp_images(set, subset, stamps[s]);
  }
}

/// Sets the labels at `indices` to the targets of their classes.
/// \param attack has a target for each of these classes (`target_of`)
template <typename A>
void relabel(data::Dataset& set, const std::vector<std::int64_t>& indices, const A& attack) {
  auto labels = set.labels.accessor<std::int64_t, 1>();
  const auto classes = static_cast<int>(set.classes.size());
  for (const std::int64_t i : indices)
    labels[i] = *attacks::target_of(attack, static_cast<int>(labels[i]), classes);
}

/// Stores the training augmentation that an attack requires. `poisoned.indices` must be set.
inline void require_augmentation(Poisoned& poisoned, const TrainingAugmentation& required) {
  poisoned.augmentation = required.augmentation;
  const auto poisoned_mask = [&] {
    at::Tensor mask = at::zeros({poisoned.size()}, at::kBool);
    return poisoned.indices.empty() ? mask : mask.index_fill_(0, at::tensor(poisoned.indices), true);
  };
  if (required.scope == TrainingAugmentation::Scope::clean_images) poisoned.no_augment_mask = poisoned_mask();
  if (!required.flip_poisoned) poisoned.no_flip_mask = poisoned_mask();
}

}  // namespace refine::attacks::detail
