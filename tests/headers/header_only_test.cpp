// The library as headers alone: this file and header_only_other.cpp are compiled without REFINE_COMPILED_LIB, and
// both have all definitions; one that is not inline would be there twice.

#include <ATen/ops/allclose.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/rand.h>
#include <gtest/gtest.h>

#include <refine/attacks/by_name.hpp>
#include <refine/backbones/zoo.hpp>
#include <refine/export/exported_classifier.hpp>
#include <refine/formats/formats.hpp>
#include <refine/programs/torchscript.hpp>
#include <refine/refine.hpp>
#include <refine/report/report.hpp>
#include <refine/training/recipe.hpp>
#include <refine/winograd/convolution.hpp>

#if defined(REFINE_COMPILED_LIB)
#error "this is to be compiled from the headers alone"
#endif

at::Tensor convolved_elsewhere(const at::Tensor& x, const at::Tensor& weight);

namespace refine {
namespace {

TEST(HeaderOnly, CompilesInTwoFilesOfAProgram) {
  const at::Tensor x = at::rand({2, 16, 8, 8}), weight = at::rand({16, 16, 3, 3});
  const at::Tensor elsewhere = convolved_elsewhere(x, weight);
  EXPECT_TRUE(at::allclose(elsewhere, at::conv2d(x, weight, {}, 1, 1), 1e-3, 1e-3));
  if (winograd::takes(x, weight)) {
    EXPECT_TRUE(elsewhere.equal(winograd::convolution(x, weight, {})));
  }
}

}  // namespace
}  // namespace refine
