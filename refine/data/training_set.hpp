#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include <refine/core/error.hpp>
#include <refine/data/augmentation.hpp>
#include <refine/data/dataset.hpp>

namespace refine::data {

/// \throws Error when no training set can ask for this augmentation
inline void require_askable(const Augmentation& augmentation) {
  augmentation.validate();
  if (augmentation.mix > 0) {
    throw Error("bad training set: its augmentation's mix is {}; mixed images have no label, set 0",
                augmentation.mix);
  }
}

/// Images to learn from, and the augmentation that their maker requires in addition to the recipe's. A part of
/// them (`select`, `first`, `sample`) requires the same; converted to a `Dataset`, they require nothing.
struct TrainingSet : Dataset {
  Augmentation augmentation = {};   ///< comes after the recipe's own, by draws of its own
  at::Tensor no_augment_mask = {};  ///< bool, N: the images that it leaves alone; undefined: none
  at::Tensor no_flip_mask = {};     ///< bool, N: those that the recipe's flip leaves alone; undefined: none

  /// As those of `Dataset`; each image keeps its entry in the masks.
  TrainingSet select(const at::Tensor& indices) const {
    const auto part = [&](const at::Tensor& mask) {
      return mask.defined() ? mask.index_select(0, indices) : mask;
    };
    return {Dataset::select(indices), augmentation, part(no_augment_mask), part(no_flip_mask)};
  }

  TrainingSet first(std::int64_t n) const {
    const auto part = [&](const at::Tensor& mask) { return mask.defined() ? mask.narrow(0, 0, n) : mask; };
    return {Dataset::first(n), augmentation, part(no_augment_mask), part(no_flip_mask)};
  }

  TrainingSet sample(std::int64_t n, std::uint64_t seed) const { return select(drawn(n, seed)); }

  /// \throws Error when the fields do not fit together
  void validate() const {
    Dataset::validate();
    require_askable(augmentation);
    require_mask("exempt", no_augment_mask);
    require_mask("unflipped", no_flip_mask);
  }

 private:
  void require_mask(const char* name, const at::Tensor& mask) const {
    if (!mask.defined() || (mask.scalar_type() == at::kBool && mask.dim() == 1 && mask.size(0) == size()))
      return;
    throw Error("bad training set: {} is not one bool an image; give {} of them, or none", name, size());
  }
};

}  // namespace refine::data
