#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/binary_cross_entropy.h>
#include <ATen/ops/one_hot.h>
#include <ATen/ops/softmax.h>

namespace refine::objectives {

/// The published loss (Chen et al., 2025, `chen2025refine`): binary cross-entropy, the mean over N·classes, between
/// the softmax of the remapped logits and the one-hot form of the class that the teacher names.
struct Bce {
  /// \param remapped logits N×classes, with gradient \param teacher the victim's own logits N×classes
  /// \return a scalar
  at::Tensor operator()(const at::Tensor& remapped, const at::Tensor& teacher) const {
    const at::Tensor truth = at::one_hot(teacher.argmax(1), teacher.size(1)).to(remapped.scalar_type());
    return at::binary_cross_entropy(at::softmax(remapped, 1), truth);
  }
};

}  // namespace refine::objectives
