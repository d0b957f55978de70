// A backbone that was trained on BGR images, called with RGB images.

#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>

#include <refine/backbones/any_backbone.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/normalized.hpp>
#include <refine/backbones/resnet.hpp>

#include "tests/support/error_of.hpp"

namespace refine {
namespace {

static_assert(backbones::NormalizingBackbone<backbones::Bgr<backbones::ResNet18<>>>);

TEST(Bgr, Images_ReachTheNetworkWithReversedChannels) {
  const backbones::ResNet18<> network{.task = {{3, 16, 16}, 5}, .width = 4};
  network.module->eval();
  const at::Tensor x = at::rand({2, 3, 16, 16});
  const at::Tensor bgr = at::stack({x.select(1, 2), x.select(1, 1), x.select(1, 0)}, 1);
  EXPECT_TRUE(at::equal(backbones::Bgr{network}.forward(x), network.forward(bgr)));

  // Means and deviations are in the network's order.
  const Normalization by{{0.1, 0.2, 0.3}, {0.4, 0.5, 0.6}};
  const backbones::Bgr normalized{backbones::Normalized{network, by}};
  const at::Tensor mean = at::tensor({0.1, 0.2, 0.3}, at::kFloat).view({1, 3, 1, 1});
  const at::Tensor deviation = at::tensor({0.4, 0.5, 0.6}, at::kFloat).view({1, 3, 1, 1});
  const at::Tensor expected = network.forward((bgr - mean) / deviation);
  EXPECT_TRUE(at::allclose(normalized.forward(x), expected, 1e-5, 1e-6));
  EXPECT_TRUE(at::equal(normalized.forward_normalized(normalized.normalize(x)), normalized.forward(x)));
  const backbones::AnyBackbone any(normalized);
  EXPECT_TRUE(at::allclose(freeze(any).forward(x), expected, 1e-4, 1e-5));
  EXPECT_TRUE(any.named_constants().contains("channel_order"))
      << "a victim without Bgr must have other constants";
  EXPECT_TRUE(any.named_constants().contains("mean"));
}

TEST(Bgr, GreyNetwork_IsRefused) {
  testing::expect_words(testing::error_of([] {
                          backbones::Bgr{backbones::ResNet18<>{.task = {{1, 16, 16}, 5}, .width = 4}};
                        }),
                        {"3 channels", "1"});
}

}  // namespace
}  // namespace refine
