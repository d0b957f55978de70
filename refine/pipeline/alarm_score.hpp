#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/softmax.h>

namespace refine {

/// How much two answers to the same image disagree: the total variation distance between their class
/// probabilities, 0 where they say the same and 1 where they share nothing. A trigger moves the undefended
/// answer and not the defended one, so a triggered image scores high.
/// \param undefended, defended logits N×classes under the same names \return float N, in [0, 1]
inline at::Tensor alarm_score(const at::Tensor& undefended, const at::Tensor& defended) {
  const at::Tensor shared = at::minimum(at::softmax(undefended, 1), at::softmax(defended, 1)).sum(1);
  return (1 - shared).clamp(0, 1);
}

}  // namespace refine
