#include <ATen/ops/conv2d.h>

#include <refine/refine.hpp>

at::Tensor convolved_elsewhere(const at::Tensor& x, const at::Tensor& weight) {
  return refine::winograd::takes(x, weight) ? refine::winograd::convolution(x, weight, {})
                                            : at::conv2d(x, weight, {}, 1, 1);
}
