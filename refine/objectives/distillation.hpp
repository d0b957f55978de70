#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/kl_div.h>
#include <ATen/ops/log_softmax.h>

namespace refine::objectives {

/// Knowledge distillation (Hinton et al., 2015, `hinton2015distilling`): the Kullback–Leibler divergence, the
/// mean over N, from the teacher's softmax to that of the remapped logits, both at `temperature`, times its
/// square.
struct Distillation {
  double temperature = 1;  ///< above 0

  /// \param remapped logits N×classes, with gradient \param teacher the victim's own logits N×classes
  /// \return a scalar
  at::Tensor operator()(const at::Tensor& remapped, const at::Tensor& teacher) const {
    constexpr bool log_target = true;
    const at::Tensor divergence =
        at::kl_div(at::log_softmax(remapped / temperature, 1), at::log_softmax(teacher / temperature, 1),
                   at::Reduction::Sum, log_target);
    return divergence * (temperature * temperature / static_cast<double>(remapped.size(0)));
  }
};

}  // namespace refine::objectives
