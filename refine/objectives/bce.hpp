#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/binary_cross_entropy.h>
#include <ATen/ops/one_hot.h>
#include <ATen/ops/softmax.h>

namespace refine::objectives {

/// The published loss (Chen et al., 2025, `chen2025refine`): binary cross-entropy, the mean over N·classes,
/// between the softmax of the remapped logits and the one-hot form of the class that the teacher names.
struct Bce {
  /// \param remapped logits N×classes, with gradient \param teacher the victim's own logits N×classes
  /// \return a scalar
  at::Tensor operator()(const at::Tensor& remapped, const at::Tensor& teacher) const {
    const at::Tensor truth = at::one_hot(teacher.argmax(1), teacher.size(1)).to(remapped.scalar_type());
    const at::Tensor probability = at::softmax(remapped, 1);
    // LibTorch's op aborts on NaN, on a GPU for good. A loss of NaN can be reported.
    return at::binary_cross_entropy(probability.nan_to_num(0), truth) + 0 * probability.sum();
  }
};

}  // namespace refine::objectives
