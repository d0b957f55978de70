#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <refine/baselines/preprocessing.hpp>
#include <refine/core/task.hpp>
#include <refine/nn/torch_random.hpp>
#include <vector>
#include "tests/support/error_of.hpp"

namespace refine::baselines {
namespace {

using refine::testing::error_of;
using refine::testing::expect_words;

static_assert(transforms::Transform<ShrinkPad<tasks::cifar10.image>>);
static_assert(transforms::Transform<Jpeg<>>);

at::Tensor random_images(at::IntArrayRef sizes) {
  nn::ScopedTorchSeed random(at::kCPU);
  random.seed(0);
  return at::rand(sizes);
}

TEST(ShrinkPad, WhiteImage_BecomesASmallerWhiteSquareOnBlack) {
  const at::Tensor padded = ShrinkPad<>{}.forward(at::ones({2, 3, 32, 30}));
  EXPECT_LT((padded.round() - padded).abs().max().item<float>(), 1e-6);
  for (const int i : {0, 1}) {
    EXPECT_EQ(padded[i][0].round().sum().item<float>(), 28 * 26);
    EXPECT_EQ(padded[i][2].round().amax(0).sum().item<float>(), 26) << "not a rectangle";
  }
}

TEST(ShrinkPad, SameImage_GetsTheSamePlaceInAnyBatch) {
  const at::Tensor images = random_images({8, 3, 16, 16});
  const at::Tensor all = ShrinkPad<>{}.forward(images);
  EXPECT_TRUE(all.narrow(0, 5, 1).equal(ShrinkPad<>{}.forward(images.narrow(0, 5, 1))));
  EXPECT_FALSE((all.equal(ShrinkPad<>{.seed = 1}.forward(images))));
  EXPECT_TRUE((ShrinkPad<>{.pixels = 0}.forward(images).equal(images)));
  expect_words(error_of([&] { ShrinkPad<>{.pixels = 16}.forward(images); }), {"got 16", "16x16"});
}

TEST(Blur, AnyImage_IsTheWeightedMeanOfItsNeighbours) {
  const at::Tensor images = random_images({1, 2, 5, 6});
  const at::Tensor blurred = Blur<>{.sigma = 0.8}.forward(images);
  for (int c = 0; c < 2; ++c) {
    for (int y = 0; y < 5; ++y) {
      for (int x = 0; x < 6; ++x) {
        double sum = 0, weights = 0;
        for (int dy = -3; dy <= 3; ++dy) {
          for (int dx = -3; dx <= 3; ++dx) {
            const double weight = std::exp(-(dx * dx + dy * dy) / (2 * 0.8 * 0.8));
            weights += weight;
            sum += weight * images[0][c][std::clamp(y + dy, 0, 4)][std::clamp(x + dx, 0, 5)].item<double>();
          }
        }
        EXPECT_NEAR(blurred[0][c][y][x].item<double>(), sum / weights, 1e-5);
      }
    }
  }
  expect_words(error_of([&] { Blur<>{.sigma = 0}.forward(images); }), {"sigma", "got 0"});
}

TEST(Rescale, OneRow_IsTheResultWorkedByHand) {
  const at::Tensor images = at::tensor({0.0f, 1.0f, 0.5f, 0.25f}).view({1, 1, 1, 4});
  // Down: a triangle of two pixels a side, cut off at the edges. Up: a quarter and three quarters.
  const double first = (0.75 * 0 + 0.75 * 1 + 0.25 * 0.5) / 1.75,
               second = (0.25 * 1 + 0.75 * 0.5 + 0.75 * 0.25) / 1.75;
  const double expected[] = {first, 0.75 * first + 0.25 * second, 0.25 * first + 0.75 * second, second};
  const at::Tensor scaled = Rescale<>{}.forward(images);
  for (int x = 0; x < 4; ++x) EXPECT_NEAR(scaled[0][0][0][x].item<double>(), expected[x], 1e-6);
  EXPECT_LT((Rescale<>{.factor = 1}.forward(images) - images).abs().max().item<float>(), 1e-6);
  expect_words(error_of([&] { Rescale<>{.factor = 2}.forward(images); }), {"factor", "got 2"});
}

/// One 8×8 block through the transform, from its definition, and through the table of luminance at
/// quality 50, which is the standard's.
std::vector<double> decoded_block(const at::Tensor& block) {
  const int table[] = {16, 11, 10, 16, 24,  40,  51,  61,  12, 12, 14, 19, 26,  58,  60,  55,
                       14, 13, 16, 24, 40,  57,  69,  56,  14, 17, 22, 29, 51,  87,  80,  62,
                       18, 22, 37, 56, 68,  109, 103, 77,  24, 35, 55, 64, 81,  104, 113, 92,
                       49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99};
  const auto c = [](int k) { return k == 0 ? 1 / std::numbers::sqrt2 : 1.0; };
  const auto cosine = [](int x, int k) { return std::cos((2 * x + 1) * k * std::numbers::pi / 16); };
  std::vector<double> coefficients(64), pixels(64);
  for (int v = 0; v < 8; ++v) {
    for (int u = 0; u < 8; ++u) {
      double sum = 0;
      for (int y = 0; y < 8; ++y) {
        for (int x = 0; x < 8; ++x)
          sum += (255 * block[y][x].item<double>() - 128) * cosine(x, u) * cosine(y, v);
      }
      coefficients[v * 8 + u] = std::round(c(u) * c(v) / 4 * sum / table[v * 8 + u]) * table[v * 8 + u];
    }
  }
  for (int y = 0; y < 8; ++y) {
    for (int x = 0; x < 8; ++x) {
      double sum = 0;
      for (int v = 0; v < 8; ++v) {
        for (int u = 0; u < 8; ++u)
          sum += c(u) * c(v) / 4 * coefficients[v * 8 + u] * cosine(x, u) * cosine(y, v);
      }
      pixels[y * 8 + x] = std::clamp((sum + 128) / 255, 0.0, 1.0);
    }
  }
  return pixels;
}

TEST(Jpeg, GreyImage_IsTheTransformFromItsDefinition) {
  const at::Tensor images = random_images({1, 1, 8, 16});
  const at::Tensor coded = Jpeg<>{.quality = 50}.forward(images);
  for (const int left : {0, 8}) {
    const auto expected = decoded_block(images[0][0].slice(1, left, left + 8));
    for (int i = 0; i < 64; ++i)
      EXPECT_NEAR(coded[0][0][i / 8][left + i % 8].item<double>(), expected[i], 1e-4) << i;
  }
}

TEST(Jpeg, GreyPixelsOfAColourImage_AreThoseOfAGreyImage) {
  const at::Tensor grey = random_images({1, 1, 11, 13});  // not a multiple of 8
  const at::Tensor colour = Jpeg<>{}.forward(at::cat({grey, grey, grey}, 1));
  EXPECT_LT((colour - Jpeg<>{}.forward(grey)).abs().max().item<float>(), 1e-4);
}

TEST(Jpeg, Quality_BoundsTheChange) {
  const at::Tensor images = random_images({2, 3, 32, 32});
  const auto change = [&](int quality) {
    return (Jpeg<>{.quality = quality}.forward(images) - images).abs().mean().item<double>();
  };
  EXPECT_LT(change(100), 0.006);  // a step of 1 of 255 for every coefficient
  EXPECT_LT(change(100), change(75));
  EXPECT_LT(change(75), change(10));
  expect_words(error_of([&] { Jpeg<>{.quality = 0}.forward(images); }), {"quality", "got 0"});
}

}  // namespace
}  // namespace refine::baselines
