#include <refine/evaluation/bench.hpp>

#include <ATen/ops/bmm.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/conv_transpose2d.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include <refine/backbones/freeze.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/evaluation/detail/inference_meters.hpp>
#include <refine/nn/conv.hpp>
#include <refine/remaps/remaps.hpp>
#include <refine/transforms/unet.hpp>

#include "tests/support/error_of.hpp"

namespace refine {
namespace {

using refine::detail::multiply_adds_of;
using testing::error_of;
using testing::expect_words;

TEST(MultiplyAdds, Operators_AreCountedByHand) {
  const auto x = at::rand({2, 4, 10, 12});
  EXPECT_EQ(multiply_adds_of([&] {
              at::conv2d(x, at::rand({8, 4, 3, 3}), {}, 1, 1);
            }),
            2 * (10 * 12) * 8 * (4 * 3 * 3));
  EXPECT_EQ(multiply_adds_of([&] {
              at::conv2d(x, at::rand({8, 2, 3, 3}), {}, 2, 1, 1, 2);
            }),
            2 * (5 * 6) * 8 * (2 * 3 * 3));
  // Each number of the images is multiplied with the 5 kernels of its channel.
  EXPECT_EQ(multiply_adds_of([&] {
              at::conv_transpose2d(x, at::rand({4, 5, 2, 2}), {}, 2);
            }),
            2 * 4 * (10 * 12) * 5 * (2 * 2));
  EXPECT_EQ(multiply_adds_of([&] {
              at::linear(at::rand({6, 7}), at::rand({9, 7}), at::rand({9}));
            }),
            6 * 7 * 9);
  EXPECT_EQ(multiply_adds_of([&] { at::matmul(at::rand({3, 6, 7}), at::rand({7, 9})); }), 3 * 6 * 7 * 9);
  EXPECT_EQ(multiply_adds_of([&] { at::bmm(at::rand({3, 6, 7}), at::rand({3, 7, 9})); }), 3 * 6 * 7 * 9);
  // Two images of 3 heads: scores of 5 queries and 6 keys of 8 numbers, and as many sums of values.
  EXPECT_EQ(multiply_adds_of([&] {
              at::scaled_dot_product_attention(at::rand({2, 3, 5, 8}), at::rand({2, 3, 6, 8}),
                                               at::rand({2, 3, 6, 8}));
            }),
            2 * 3 * 5 * 6 * (8 + 8));
  EXPECT_EQ(multiply_adds_of([&] { (x + x).relu().sum(); }), 0);
}

TEST(MultiplyAdds, WinogradsConvolutions_CountAsTheyAreDefined) {
  const c10::NoGradGuard no_grad;
  const auto x = at::rand({2, 16, 32, 32}).contiguous(at::MemoryFormat::ChannelsLast);
  const auto count = multiply_adds_of([&] { nn::convolve(x, at::rand({16, 16, 3, 3}), {}); });
  EXPECT_EQ(count, 2 * (32 * 32) * 16 * (16 * 3 * 3));
  EXPECT_TRUE(nn::detail::winograd_allowed()) << "as before";
}

TEST(MultiplyAdds, ResNet18_HasThoseOfItsPaper) {
  const auto network =
      freeze(backbones::ResNet18<>{.task = {{3, 224, 224}, 1000}, .variant = backbones::Variant::imagenet});
  const c10::NoGradGuard no_grad;
  // 1.8 × 10^9 (he2016resnet, table 1).
  EXPECT_EQ(multiply_adds_of([&] { network.forward(at::zeros({1, 3, 224, 224})); }), 1'814'073'344);
}

TEST(PeakTensorMemory, Tensors_CountWhileTheyLive) {
  const auto bytes = refine::detail::peak_tensor_memory(at::kCPU, [] {
    at::Tensor a = at::empty({1000}, at::kByte);
    a.reset();
    const at::Tensor b = at::empty({3000}, at::kByte), c = at::empty({500}, at::kByte);
  });
  EXPECT_EQ(bytes, 3500);
}

TEST(Bench, Answers_TakeTurns) {
  std::string asked;
  const auto answer = [&](const char* name, int milliseconds) {
    return BenchAnswer{name, [&asked, name, milliseconds](const at::Tensor& images) {
                         asked += name;
                         std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
                         return at::zeros({images.size(0), 2});
                       }};
  };
  const auto costs =
      bench({answer("a", 2), answer("b", 6)}, {1, 2, 2}, at::kCPU, {.batch_size = 3, .seconds = 0.12});
  ASSERT_EQ(costs.size(), 2u);
  ASSERT_EQ(costs[0].batches.size(), 2u);
  EXPECT_EQ(costs[1].answer, "b");
  EXPECT_EQ(costs[0].batches[0].images, 1);
  EXPECT_EQ(costs[1].batches[1].images, 3);
  EXPECT_NE(asked.find("ababababab"), std::string::npos) << asked;
  for (const BatchCost& cost : costs[1].batches) {
    EXPECT_GE(cost.seconds.n, 5u);
    EXPECT_GE(cost.seconds.low, 0.006);
    EXPECT_LE(cost.seconds.low, cost.seconds.median);
    EXPECT_GT(cost.ratio.median, 1.2);  // 3 on an idle machine
  }
  EXPECT_DOUBLE_EQ(costs[0].batches[1].ratio.median, 1);
  EXPECT_DOUBLE_EQ(costs[0].batches[1].images_per_second() * costs[0].batches[1].seconds.median, 3);
  EXPECT_EQ(costs[0].batches[1].memory, (3 * 4 + 3 * 2) * 4) << "images and logits in float32";
}

TEST(Bench, Pipeline_CostsTransformAndVictim) {
  constexpr Task task = {{3, 16, 16}, 4};
  const auto victim = freeze(backbones::ResNet18<task>{.width = 4});
  const Pipeline defense{transforms::UNet<task>{.levels = 1, .width = 4}, victim,
                         remaps::Derangement<task>{}};
  const BenchOptions quick{.batch_size = 1, .seconds = 0.01};
  const auto costs = bench(defense, 0.5, quick);
  ASSERT_EQ(costs.size(), 3u);
  EXPECT_EQ(costs[0].multiply_adds, bench(victim, quick).multiply_adds);
  EXPECT_GT(costs[1].multiply_adds, costs[0].multiply_adds);
  EXPECT_EQ(costs[2].multiply_adds, costs[0].multiply_adds + costs[1].multiply_adds)
      << "the gated answer has both";
  EXPECT_EQ(costs[2].batches.size(), 1u);
  EXPECT_EQ(bench(defense, std::nullopt, quick).size(), 2u);
}

TEST(Bench, BadOptionsAndFailingAnswers_AreRefused) {
  const BenchAnswer small{"victim", [](const at::Tensor& images) {
                            TORCH_CHECK(images.size(0) < 3, "too many");
                            return images.flatten(1);
                          }};
  expect_words(error_of([&] {
                 bench({small}, {1, 2, 2}, at::kCPU, {.batch_size = 3, .seconds = 0.01});
               }),
               {"victim", "batch of 3 images", "too many", "batch_size"});
  expect_words(error_of([&] {
                 bench({small}, {1, 2, 2}, at::kCPU, {.batch_size = 0});
               }),
               {"batch_size", "got 0"});
  expect_words(error_of([&] { bench({small}, {1, 2, 2}, at::kCPU, {.seconds = 0}); }), {"seconds", "got 0"});
  expect_words(error_of([&] { bench({small}, {1, dynamic, 2}, at::kCPU); }), {"image shape"});
}

}  // namespace
}  // namespace refine
