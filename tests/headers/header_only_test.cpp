// The header-only library: this file and header_only_other.cpp are compiled without
// REFINE_COMPILED_LIB. Both contain all definitions, so that linking fails if one is not inline.

#include <ATen/ops/allclose.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/rand.h>
#include <gtest/gtest.h>

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

#if defined(REFINE_COMPILED_LIB)
#error "compile this test without REFINE_COMPILED_LIB"
#endif

at::Tensor convolve_in_other_file(const at::Tensor& x, const at::Tensor& weight);

namespace refine {
namespace {

TEST(HeaderOnly, TwoFilesOfAProgram_CompileAndLink) {
  const at::Tensor x = at::rand({2, 16, 8, 8}), weight = at::rand({16, 16, 3, 3});
  const at::Tensor result = convolve_in_other_file(x, weight);
  EXPECT_TRUE(at::allclose(result, at::conv2d(x, weight, {}, 1, 1), 1e-3, 1e-3));
  if (winograd::takes(x, weight)) {
    EXPECT_TRUE(result.equal(winograd::convolution(x, weight, {})));
  }
}

}  // namespace
}  // namespace refine
