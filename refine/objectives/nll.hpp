#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/cross_entropy_loss.h>

namespace refine::objectives {

/// Negative log-likelihood, the mean over N, of the class that the teacher names.
struct Nll {
  /// \param remapped logits N×classes, with gradient \param teacher the victim's own logits N×classes
  /// \return a scalar
  at::Tensor operator()(const at::Tensor& remapped, const at::Tensor& teacher) const {
    return at::cross_entropy_loss(remapped, teacher.argmax(1));
  }
};

}  // namespace refine::objectives
