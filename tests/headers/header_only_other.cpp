#include <ATen/ops/conv2d.h>

#include <refine/artifacts/served.hpp>
#include <refine/attacks/by_name.hpp>
#include <refine/backbones/any_network.hpp>
#include <refine/backbones/scripted.hpp>
#include <refine/formats/formats.hpp>
#include <refine/refine.hpp>
#include <refine/report/report.hpp>
#include <refine/training/network_recipes.hpp>
#include <refine/winograd/convolution.hpp>

at::Tensor convolved_elsewhere(const at::Tensor& x, const at::Tensor& weight) {
  return refine::winograd::takes(x, weight) ? refine::winograd::convolution(x, weight, {})
                                            : at::conv2d(x, weight, {}, 1, 1);
}
