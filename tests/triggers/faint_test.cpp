// Sinusoid, Frequency, Quantize and BlendPieces.

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>
#include <tests/triggers/cifar.hpp>

#include <cmath>
#include <cstdint>
#include <numbers>
#include <refine/core/task.hpp>
#include <refine/nn/torch_random.hpp>
#include <refine/triggers/triggers.hpp>
#include <vector>
#include "tests/support/error_of.hpp"

namespace refine::triggers {
namespace {

using refine::testing::error_of;
using refine::testing::expect_words;

TEST(Sinusoid, EachColumn_IsThePublishedFormula) {
  const at::Tensor images = at::full({2, 3, 4, 32}, 0.5);
  const at::Tensor stamped = Sinusoid<>{.amplitude = 0.1, .periods = 6}.apply(images);
  for (int x = 0; x < 32; ++x) {
    const double expected = 0.5 + 0.1 * std::sin(2 * std::numbers::pi * x * 6 / 32);
    EXPECT_NEAR(stamped[1][2][3][x].item<double>(), expected, 1e-5) << x;
    EXPECT_EQ(stamped[0][0][0][x].item<float>(), stamped[1][2][3][x].item<float>());
  }
  EXPECT_TRUE(images.equal(at::full({2, 3, 4, 32}, 0.5))) << "the argument was changed";
  EXPECT_EQ((Sinusoid<>{.amplitude = 1}.apply(images).min().item<float>()), 0) << "not clamped";
}

TEST(Sinusoid, BadFields_AreRefused) {
  const at::Tensor images = at::zeros({1, 3, 32, 32});
  expect_words(error_of([&] { Sinusoid<>{.amplitude = 2}.apply(images); }), {"amplitude", "got 2"});
  expect_words(error_of([&] { Sinusoid<>{.periods = 0}.apply(images); }), {"periods", "got 0"});
  expect_words(error_of([&] { Sinusoid<tasks::cifar10.image>{}.apply(at::zeros({1, 3, 8, 8})); }), {"3x8x8"});
}

TEST(Perturbation, Values_AreAddedAndClamped) {
  const at::Tensor images = at::full({2, 1, 1, 3}, 0.5),
                   values = at::tensor({0.25, -0.75, 0.75}).view({1, 1, 3});
  const at::Tensor stamped = Perturbation<>{.values = values}.apply(images);
  EXPECT_TRUE(stamped.equal(at::tensor({0.75F, 0.0F, 1.0F}).view({1, 1, 1, 3}).expand({2, 1, 1, 3})));
  for (const at::Tensor& bad : {at::Tensor(), values[0], values.to(at::kByte)})
    expect_words(error_of([&] { Perturbation<>{.values = bad}.apply(images); }), {"Perturbation.values"});
}

/// The discrete cosine transform of a block, or its inverse, from the definition: with four nested
/// loops.
std::vector<double> transform(const std::vector<double>& block, int n, bool inverse) {
  std::vector<double> result(block.size());
  const auto basis = [n](int k, int x) {
    return std::sqrt((k == 0 ? 1.0 : 2.0) / n) * std::cos(std::numbers::pi * (2 * x + 1) * k / (2.0 * n));
  };
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < n; ++j) {
      for (int k = 0; k < n; ++k) {
        for (int l = 0; l < n; ++l) {
          const double weight = inverse ? basis(k, i) * basis(l, j) : basis(i, k) * basis(j, l);
          result[i * n + j] += block[k * n + l] * weight;
        }
      }
    }
  }
  return result;
}

/// Changes coefficients of one block of one plane, as the paper describes it.
void change_block(at::Tensor plane, int top, int left, int n, const std::vector<Coefficient>& where,
                  double by) {
  std::vector<double> block;
  for (int y = 0; y < n; ++y) {
    for (int x = 0; x < n; ++x) block.push_back(plane[top + y][left + x].item<double>());
  }
  std::vector<double> coefficients = transform(block, n, /*inverse=*/false);
  for (const auto& [row, column] : where) coefficients[row * n + column] += by;
  block = transform(coefficients, n, /*inverse=*/true);
  for (int y = 0; y < n; ++y) {
    for (int x = 0; x < n; ++x) plane[top + y][left + x] = block[y * n + x];
  }
}

TEST(Frequency, ColourImage_IsTheTransformOfItsChroma) {
  nn::ScopedTorchSeed random(at::kCPU);
  random.seed(0);
  const at::Tensor image = at::rand({3, 8, 16}, at::kDouble) * 0.4 + 0.3;
  const std::vector<Coefficient> where = {{3, 3}, {7, 7}, {0, 2}};
  const Frequency<> trigger{.image = {3, 8, 16}, .window = 8, .magnitude = 0.1, .coefficients = where};

  // RGB to YCbCr, the transform of Cb and of Cr, and back.
  const at::Tensor red = image[0], green = image[1], blue = image[2];
  const at::Tensor y = 0.299 * red + 0.587 * green + 0.114 * blue;
  at::Tensor cb = (blue - y) * (0.5 / 0.886), cr = (red - y) * (0.5 / 0.701);
  for (const at::Tensor& plane : {cb, cr}) {
    for (const int left : {0, 8}) change_block(plane, 0, left, 8, where, 0.1);
  }
  const at::Tensor r = y + cr * (0.701 / 0.5), b = y + cb * (0.886 / 0.5);
  const at::Tensor expected = at::stack({r, (y - 0.299 * r - 0.114 * b) / 0.587, b});
  EXPECT_LT((trigger.apply(image.unsqueeze(0))[0] - expected).abs().max().item<double>(), 1e-9);
}

TEST(Frequency, GreyImage_IsTheTransformOfItsOnlyChannel) {
  nn::ScopedTorchSeed random(at::kCPU);
  random.seed(0);
  const at::Tensor image = at::rand({1, 4, 4}, at::kDouble) * 0.4 + 0.3;
  at::Tensor expected = image.clone();
  change_block(expected[0], 0, 0, 4, {{1, 1}, {3, 3}}, 0.1);
  const Frequency<> trigger{.image = {1, 4, 4}, .magnitude = 0.1};
  EXPECT_LT((trigger.apply(image.unsqueeze(0))[0] - expected).abs().max().item<double>(), 1e-9);
}

TEST(Frequency, DefaultWindow_DividesTheImage) {
  EXPECT_EQ((Frequency<cifar>{}.window), 32);
  EXPECT_EQ((Frequency<>{.image = {1, 28, 28}}.window), 28);
  EXPECT_EQ((Frequency<>{.image = {3, 224, 224}}.window), 32);
  EXPECT_EQ((Frequency<>{.image = {3, 100, 300}}.window), 25);
}

TEST(Frequency, BadFields_AreRefused) {
  const at::Tensor images = at::zeros({1, 3, 32, 32});
  expect_words(error_of([&] { Frequency<cifar>{.window = 7}.apply(images); }), {"window", "got 7", "32x32"});
  expect_words(error_of([&] { Frequency<cifar>{.coefficients = {{32, 0}}}.apply(images); }), {"got 32, 0"});
  expect_words(error_of([&] { Frequency<cifar>{.magnitude = 40}.apply(images); }), {"magnitude", "got 40"});
  expect_words(error_of([] { Frequency<>{}; }), {"?x?x?", "set .image"});
}

TEST(Quantize, Dithering_IsThatOfFloydAndSteinberg) {
  // Worked by hand: 0.4 → 0, so its right neighbour becomes 0.6 + 7/16·0.4 = 0.775 → 1, and so on.
  const at::Tensor images = at::tensor({0.4f, 0.6f, 0.3f, 0.5f, 0.5f, 0.5f}).view({1, 1, 2, 3});
  const at::Tensor expected = at::tensor({0.0f, 1.0f, 0.0f, 1.0f, 0.0f, 1.0f}).view({1, 1, 2, 3});
  EXPECT_TRUE((Quantize<>{.levels = 2}.apply(images).equal(expected)));
  const at::Tensor rounded = at::tensor({0.0f, 1.0f, 0.0f, 0.0f, 0.0f, 0.0f}).view({1, 1, 2, 3});
  EXPECT_TRUE((Quantize<>{.levels = 2, .dither = false}.apply(images).equal(rounded)));
}

TEST(Quantize, AnyImage_HasFewLevelsAndTheSameMean) {
  nn::ScopedTorchSeed random(at::kCPU);
  random.seed(0);
  const at::Tensor images = at::rand({2, 3, 64, 64});
  const at::Tensor quantized = Quantize<>{.levels = 4}.apply(images);
  EXPECT_LT(((quantized * 3).round() / 3 - quantized).abs().max().item<float>(), 1e-6);
  EXPECT_LT((quantized.mean({2, 3}) - images.mean({2, 3})).abs().max().item<float>(), 0.01);
  EXPECT_TRUE((Quantize<>{.levels = 4}.apply(images.narrow(0, 1, 1)).equal(quantized.narrow(0, 1, 1))));
  expect_words(error_of([&] { Quantize<>{.levels = 1}.apply(images); }), {"levels", "got 1"});
}

TEST(BlendPieces, TestImage_HasTheWholePicture) {
  nn::ScopedTorchSeed random(at::kCPU);
  random.seed(0);
  const at::Tensor images = at::rand({2, 3, 32, 32});
  const at::Tensor expected = Blend<cifar>{.opacity = 0.2}.apply(images);
  EXPECT_LT((BlendPieces<cifar>{}.apply(images) - expected).abs().max().item<float>(), 1e-6);
}

TEST(BlendPieces, TrainingImage_HasHalfOfThePieces) {
  static_assert(TriggerInParts<BlendPieces<cifar>>);
  const BlendPieces<cifar> trigger{.choices = 5};
  const auto parts = trigger.parts();
  ASSERT_EQ(parts.size(), 5u);
  for (const auto& part : parts) {
    EXPECT_EQ(part.opacity, 0.15);
    EXPECT_TRUE(part.picture.equal(trigger.pattern));
    const at::Tensor pieces = part.mask.reshape({4, 8, 4, 8}).permute({0, 2, 1, 3}).reshape({16, 64});
    EXPECT_EQ(pieces.sum(1).eq(64).sum().item<std::int64_t>(), 8);
    EXPECT_EQ(pieces.sum(1).eq(0).sum().item<std::int64_t>(), 8);
  }
  EXPECT_FALSE(parts[0].mask.equal(parts[1].mask));
  EXPECT_TRUE(parts[3].mask.equal(trigger.parts()[3].mask)) << "another run, other pieces";
}

TEST(BlendPieces, PiecesThatDoNotDivideTheImage_CoverIt) {
  const BlendPieces<> trigger{.image = {1, 10, 14}, .pieces = 3, .share = 1, .choices = 1};
  EXPECT_TRUE(trigger.parts()[0].mask.eq(1).all().item<bool>());
}

TEST(BlendPieces, BadFields_AreRefused) {
  expect_words(error_of([&] { BlendPieces<cifar>{.pieces = 33}.parts(); }), {"pieces", "got 33", "32x32"});
  expect_words(error_of([&] { BlendPieces<cifar>{.share = 0}.parts(); }), {"share", "got 0"});
  expect_words(error_of([&] { BlendPieces<cifar>{.choices = 0}.parts(); }), {"choices", "got 0"});
  expect_words(error_of([&] {
                 BlendPieces<cifar>{.opacity = 2}.apply(at::zeros({1, 3, 32, 32}));
               }),
               {"opacity", "got 2"});
}

TEST(Stamped, KnownImages_BecomeTheirCopies) {
  const at::Tensor clean = at::arange(5 * 12, at::kByte).view({5, 3, 2, 2}), stamped = 255 - clean;
  const Stamped trigger(clean, stamped);
  EXPECT_EQ(trigger.image, (ImageShape{3, 2, 2}));
  const at::Tensor order = at::tensor(std::vector<std::int64_t>{3, 0, 3});
  EXPECT_TRUE(stamp(trigger, clean.index_select(0, order)).equal(stamped.index_select(0, order)));
  expect_words(error_of([&] { stamp(trigger, stamped); }), {"no stamped copy", "image 0 of 5"});
  expect_words(error_of([&] { stamp(Stamped{}, clean); }), {"no stamped copy"});
  expect_words(error_of([&] { Stamped(clean, stamped.narrow(0, 0, 4)); }), {"got 4", "expected 5"});
  expect_words(error_of([&] { Stamped(clean, stamped.view({5, 3, 4, 1})); }), {"stamped images", "3x4x1"});
}

}  // namespace
}  // namespace refine::triggers
