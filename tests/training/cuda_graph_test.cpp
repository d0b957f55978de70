#include <ATen/ops/_upsample_bilinear2d_aa.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/upsample_bilinear2d.h>
#include <gtest/gtest.h>
#include <refine/backbones/any_backbone.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/normalized.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/nn/autocast.hpp>
#include <refine/nn/conv.hpp>
#include <refine/nn/cuda_graph.hpp>
#include <refine/nn/transfer.hpp>
#include <refine/transforms/any_transform.hpp>
#include <refine/transforms/transform.hpp>
#include <refine/transforms/unet.hpp>
#include <tests/training/task.hpp>

#include <cstddef>
#include <vector>

namespace refine {
namespace {

TEST(CudaGraphSafe, Policy_PassesThroughWrappers) {
  const backbones::ResNet18<task> network{.width = 2};
  EXPECT_TRUE(nn::is_replayable(network));
  EXPECT_TRUE(nn::is_replayable(freeze(backbones::Normalized{network, normalizations::cifar10})));
  backbones::AnyBackbone any(network);
  EXPECT_TRUE(nn::is_replayable(any));
  any.cuda_graph_safe = false;
  EXPECT_FALSE(nn::is_replayable(any));
  EXPECT_FALSE(nn::is_replayable(freeze(any)));
  EXPECT_FALSE(nn::is_replayable(backbones::AnyBackbone(freeze(any))));

  EXPECT_FALSE(nn::is_replayable(transforms::None<task.image>{}))
      << "a policy without the member is not safe";
  const transforms::UNet<task> transform{.levels = 2, .width = 2};
  EXPECT_TRUE(nn::is_replayable(transforms::AnyTransform(transform)));
  transforms::AnyTransform unsafe(transform);
  unsafe.cuda_graph_safe = false;
  EXPECT_FALSE(nn::is_replayable(unsafe.with_module(transform.module)));
}

TEST(CudaGraphRunner, Cpu_CallsTheFunction) {
  std::vector<double> sums;
  nn::CudaGraphRunner add(at::kCPU, true, [&](const at::Tensor& a, const at::Tensor& b) {
    sums.push_back((a + b).sum().item<double>());
  });
  for (int n = 1; n <= 6; ++n) add(at::ones({n}), at::ones({n}));
  EXPECT_EQ(sums, (std::vector<double>{2, 4, 6, 8, 10, 12}));
}

TEST(StreamPool, Cpu_WorksInOrder) {
  std::vector<std::size_t> done;
  nn::StreamPool(at::kCPU).each(11, [&](std::size_t i) { done.push_back(i); });
  EXPECT_EQ(done, (std::vector<std::size_t>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}));
}

TEST(ResizeBilinear, Autocast_KeepsTheType) {
  const at::Tensor x = at::rand({2, 8, 5, 3});
  const at::Tensor expected = at::upsample_bilinear2d(x, {10, 6}, true);
  const nn::Autocast autocast(at::kCPU, true);
  EXPECT_TRUE(nn::resize_bilinear(x, 2 * x.size(2), 2 * x.size(3), true).equal(expected));
  const at::Tensor low = nn::resize_bilinear(x.to(at::kBFloat16), 2 * x.size(2), 2 * x.size(3), true);
  EXPECT_EQ(low.scalar_type(), at::kBFloat16);
  EXPECT_TRUE(at::allclose(low.to(at::kFloat), expected, 0.01, 0.01));
}

TEST(ResizeAntialiased, TakesReducedTypesAlsoUnderAutocast) {
  for (const at::ScalarType type : {at::kBFloat16, at::kHalf}) {
    const at::Tensor x = at::rand({2, 3, 8, 8}).to(type);
    const at::Tensor expected = at::_upsample_bilinear2d_aa(x.to(at::kFloat), {3, 5}, false);
    EXPECT_TRUE(nn::resize_antialiased(x, 3, 5).equal(expected));
    const nn::Autocast autocast(at::kCPU, true);
    EXPECT_TRUE(nn::resize_antialiased(x, 3, 5).equal(expected));
  }
}

TEST(Resize, FiltersOnlyWhereImagesShrink) {
  const at::Tensor x = at::rand({2, 3, 8, 8}).contiguous(at::MemoryFormat::ChannelsLast);
  EXPECT_TRUE(nn::resize(x, {3, 8, 8}).is_same(x));
  const at::Tensor larger = nn::resize(x, {3, 9, 8}), smaller = nn::resize(x, {3, 9, 7});
  EXPECT_TRUE(larger.equal(at::upsample_bilinear2d(x, {9, 8}, false)));
  EXPECT_TRUE(smaller.equal(at::_upsample_bilinear2d_aa(x, {9, 7}, false)));
  EXPECT_TRUE(smaller.is_contiguous(at::MemoryFormat::ChannelsLast));
}

}  // namespace
}  // namespace refine
