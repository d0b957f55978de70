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
/// training set asks, the images apart that it exempts. What is off costs nothing.
class BatchAugmentation {
 public:
  BatchAugmentation(const data::Augmentation& recipe) : recipe_(recipe) {}

  BatchAugmentation(const data::Augmentation& recipe, const data::TrainingSet& set, at::Device device)
      : recipe_(recipe), asked_(set.augmentation) {
    if (set.exempt.defined() && asked_ != data::Augmentation{}) exempt_ = set.exempt.to(device);
  }

  /// \param images float N×C×H×W in [0, 1], \param indices int64, which of the set they are, on their device
  at::Tensor operator()(const at::Tensor& images, const at::Tensor& indices, std::uint64_t seed,
                        std::int64_t step) const {
    const auto draws = [&](const char* purpose) {
      return derived_seed(seed, purpose, static_cast<std::uint64_t>(step));
    };
    const at::Tensor changed = data::augment(images, recipe_, draws("augmentation"));
    if (asked_ == data::Augmentation{}) return changed;
    const at::Tensor asked = data::augment(changed, asked_, draws("asked augmentation"));
    if (!exempt_.defined()) return asked;
    return at::where(exempt_.index_select(0, indices).view({-1, 1, 1, 1}), changed, asked);
  }

 private:
  data::Augmentation recipe_, asked_ = {};
  at::Tensor exempt_;
};

}  // namespace refine::detail
