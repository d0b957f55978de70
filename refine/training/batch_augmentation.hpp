#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>

#include <refine/data/augmentation.hpp>
#include <refine/data/training_set.hpp>

namespace refine::detail {

/// How the images of a batch are changed before the network sees them: as the recipe says, then as the
/// training set asks, the images apart that it exempts. Those that may not be flipped get the recipe's other
/// changes by the same draws. What is off costs nothing.
class BatchAugmentation {
 public:
  explicit BatchAugmentation(const data::Augmentation& recipe) : recipe_(recipe) {}

  BatchAugmentation(const data::Augmentation& recipe, const data::TrainingSet& set, at::Device device);

  /// \param images float N×C×H×W in [0, 1], \param indices int64, which of the set they are, on their device
  at::Tensor operator()(const at::Tensor& images, const at::Tensor& indices, std::uint64_t seed,
                        std::int64_t step) const;

  /// Rows that belong to the same batch, float N×K: mixed as the recipe mixes its images (a training set
  /// asks for no mixing).
  at::Tensor rows(const at::Tensor& rows, std::uint64_t seed, std::int64_t step) const;

 private:
  static std::uint64_t draws(std::uint64_t seed, const char* purpose, std::int64_t step);

  data::Augmentation recipe_, asked_ = {};
  at::Tensor exempt_, unflipped_;
};

}  // namespace refine::detail

#if !defined(REFINE_COMPILED)
#include <refine/training/batch_augmentation_definitions.hpp>
#endif
