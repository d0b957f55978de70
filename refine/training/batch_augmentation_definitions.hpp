#pragma once

// What batch_augmentation.hpp declares.

#include <refine/training/batch_augmentation.hpp>

#include <ATen/ops/where.h>

#include <cstdint>

#include <refine/core/compiled.hpp>
#include <refine/core/seed.hpp>

namespace refine::detail {

REFINE_DEFINITION BatchAugmentation::BatchAugmentation(const data::Augmentation& recipe,
                                                       const data::TrainingSet& set, at::Device device)
    : recipe_(recipe), asked_(set.augmentation) {
  if (set.exempt.defined() && asked_ != data::Augmentation{}) exempt_ = set.exempt.to(device);
  if (set.unflipped.defined() && recipe.flip) unflipped_ = set.unflipped.to(device);
}

REFINE_DEFINITION at::Tensor BatchAugmentation::operator()(const at::Tensor& images,
                                                           const at::Tensor& indices, std::uint64_t seed,
                                                           std::int64_t step) const {
  const auto where = [&](const at::Tensor& mask, const at::Tensor& yes, const at::Tensor& no) {
    return at::where(mask.index_select(0, indices).view({-1, 1, 1, 1}), yes, no);
  };
  at::Tensor changed = data::augment(images, recipe_, draws(seed, "augmentation", step));
  if (unflipped_.defined()) {
    data::Augmentation others = recipe_;
    others.flip = false;
    changed = where(unflipped_, data::augment(images, others, draws(seed, "augmentation", step)), changed);
  }
  if (asked_ == data::Augmentation{}) return changed;
  const at::Tensor asked = data::augment(changed, asked_, draws(seed, "asked augmentation", step));
  if (!exempt_.defined()) return asked;
  return where(exempt_, changed, asked);
}

REFINE_DEFINITION at::Tensor BatchAugmentation::rows(const at::Tensor& rows, std::uint64_t seed,
                                                     std::int64_t step) const {
  return data::mix_rows(rows, recipe_, draws(seed, "augmentation", step));
}

REFINE_DEFINITION std::uint64_t BatchAugmentation::draws(std::uint64_t seed, const char* purpose,
                                                         std::int64_t step) {
  return derived_seed(seed, purpose, static_cast<std::uint64_t>(step));
}

}  // namespace refine::detail
