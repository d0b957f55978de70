#include <ATen/ops/conv2d.h>

#include <refine/attacks/by_name.hpp>
#include <refine/backbones/zoo.hpp>
#include <refine/export/exported_classifier.hpp>
#include <refine/formats/formats.hpp>
#include <refine/programs/exported_program.hpp>
#include <refine/programs/torchscript.hpp>
#include <refine/refine.hpp>
#include <refine/report/report.hpp>
#include <refine/training/recipe.hpp>
#include <refine/winograd/convolution.hpp>

at::Tensor convolve_in_other_file(const at::Tensor& x, const at::Tensor& weight) {
  return refine::winograd::takes(x, weight) ? refine::winograd::convolution(x, weight, {})
                                            : at::conv2d(x, weight, {}, 1, 1);
}
