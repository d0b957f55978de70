#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include <refine/core/error.hpp>
#include <refine/data/augmentation.hpp>
#include <refine/data/dataset.hpp>

namespace refine::data {

/// Checks an augmentation that a training set requests. Mixing is not allowed, because mixed images
/// have no label.
/// \throws Error if `augmentation` is invalid or mixes images
inline void check_requested_augmentation(const Augmentation& augmentation) {
  augmentation.validate();
  if (augmentation.mix > 0) {
    throw Error("training set: augmentation.mix is {}, but mixed images have no label; set it to 0",
                augmentation.mix);
  }
}

/// Images to learn from, with the augmentation that training must add to the recipe's own.
///
/// An attack returns its poisoned images as a training set. `select`, `first` and `sample` keep the
/// augmentation and the masks; conversion to `Dataset` drops them without a warning. So does
/// `poison ? attack.poison(clean) : clean`, whose type is `Dataset`: convert the other side with
/// `TrainingSet{clean}`. The attacks of this library do not compile for a `TrainingSet`, whose
/// augmentation they would drop.
struct TrainingSet : Dataset {
  Augmentation augmentation = {};   ///< applied after the recipe's, with separate draws
  at::Tensor no_augment_mask = {};  ///< bool, N: images that skip `augmentation`; undefined: none do
  at::Tensor no_flip_mask = {};     ///< bool, N: images that skip the recipe's flip; undefined: none do

  /// Like `Dataset::select`; the masks are selected too.
  TrainingSet select(const at::Tensor& indices) const {
    const auto part = [&](const at::Tensor& mask) {
      return mask.defined() ? mask.index_select(0, indices) : mask;
    };
    return {Dataset::select(indices), augmentation, part(no_augment_mask), part(no_flip_mask)};
  }

  /// Like `Dataset::first`; the masks are shortened too.
  TrainingSet first(std::int64_t n) const {
    const auto part = [&](const at::Tensor& mask) { return mask.defined() ? mask.narrow(0, 0, n) : mask; };
    return {Dataset::first(n), augmentation, part(no_augment_mask), part(no_flip_mask)};
  }

  /// Like `Dataset::sample`; the masks are selected too.
  TrainingSet sample(std::int64_t n, std::uint64_t seed) const { return select(sample_indices(n, seed)); }

  /// Checks the dataset, the augmentation and the masks.
  /// \throws Error if any is invalid, or a mask does not have one bool for each image
  void validate() const {
    Dataset::validate();
    check_requested_augmentation(augmentation);
    check_mask("no_augment_mask", no_augment_mask);
    check_mask("no_flip_mask", no_flip_mask);
  }

 private:
  void check_mask(const char* name, const at::Tensor& mask) const {
    if (!mask.defined() || (mask.scalar_type() == at::kBool && mask.dim() == 1 && mask.size(0) == size()))
      return;
    throw Error("training set: {} must be one bool for each of the {} images, or undefined", name, size());
  }
};

}  // namespace refine::data
