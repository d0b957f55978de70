#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/where.h>
#include <c10/core/Device.h>

#include <cstdint>

#include <refine/core/seed.hpp>
#include <refine/data/augmentation.hpp>
#include <refine/data/training_set.hpp>

namespace refine::detail {

/// How the images of a batch are changed before the network sees them: as the recipe says, then as the
/// training set asks, the images apart that it exempts. Those that may not be flipped get the recipe's other
/// changes by the same draws. What is off costs nothing.
class BatchAugmentation {
 public:
  explicit BatchAugmentation(const data::Augmentation& recipe) : recipe_(recipe) {}

  BatchAugmentation(const data::Augmentation& recipe, const data::TrainingSet& set, at::Device device)
      : recipe_(recipe), asked_(set.augmentation) {
    if (set.exempt.defined() && asked_ != data::Augmentation{}) exempt_ = set.exempt.to(device);
    if (set.unflipped.defined() && recipe.flip) unflipped_ = set.unflipped.to(device);
  }

  /// \param images float N×C×H×W in [0, 1], \param indices int64, which of the set they are, on their device
  at::Tensor operator()(const at::Tensor& images, const at::Tensor& indices, std::uint64_t seed,
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

  /// Rows that belong to the same batch, float N×K: mixed as the recipe mixes its images (a training set
  /// asks for no mixing).
  at::Tensor rows(const at::Tensor& rows, std::uint64_t seed, std::int64_t step) const {
    return data::mix_rows(rows, recipe_, draws(seed, "augmentation", step));
  }

 private:
  static std::uint64_t draws(std::uint64_t seed, const char* purpose, std::int64_t step) {
    return derived_seed(seed, purpose, static_cast<std::uint64_t>(step));
  }

  data::Augmentation recipe_, asked_ = {};
  at::Tensor exempt_, unflipped_;
};

}  // namespace refine::detail
