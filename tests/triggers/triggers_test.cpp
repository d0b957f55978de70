#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <tests/triggers/cifar.hpp>

#include <cmath>
#include <functional>
#include <random>
#include <refine/core/task.hpp>
#include <refine/triggers/triggers.hpp>
#include <string>
#include <vector>
#include "tests/support/error_of.hpp"

namespace refine::triggers {
namespace {

using refine::testing::error_of;
using refine::testing::expect_words;

float pixel(const at::Tensor& images, int n, int c, int y, int x) {
  return images[n][c][y][x].item<float>();
}

TEST(Patch, Default_CheckerboardInTheBottomRightCorner) {
  const at::Tensor images = at::full({2, 3, 32, 32}, 0.25);
  const at::Tensor stamped = Patch<cifar>{}.apply(images);
  for (int n = 0; n < 2; ++n) {
    for (int c = 0; c < 3; ++c) {
      for (int y = 0; y < 32; ++y) {
        for (int x = 0; x < 32; ++x) {
          const bool inside = y >= 29 && x >= 29;
          const float board[3][3] = {{1, 0, 1}, {0, 1, 0}, {1, 0, 1}};
          ASSERT_EQ(pixel(stamped, n, c, y, x), inside ? board[y - 29][x - 29] : 0.25f) << y << ", " << x;
        }
      }
    }
  }
  EXPECT_TRUE(images.equal(at::full({2, 3, 32, 32}, 0.25))) << "the argument was changed";
}

TEST(Patch, CornerAndMargin_SetThePosition) {
  const ImageShape shape = {1, 5, 6};
  const auto position = [&](Corner corner) {  // of a single white pixel, one pixel from the edges
    const Patch<> patch{.image = shape, .size = 1, .corner = corner, .margin = 1};
    const at::Tensor stamped = patch.apply(at::zeros({1, 1, 5, 6}));
    EXPECT_EQ(stamped.sum().item<float>(), 1);
    const auto index = stamped.flatten().argmax().item<std::int64_t>();
    return std::pair(index / 6, index % 6);
  };
  EXPECT_EQ(position(Corner::top_left), std::pair(1L, 1L));
  EXPECT_EQ(position(Corner::top_right), std::pair(1L, 4L));
  EXPECT_EQ(position(Corner::bottom_left), std::pair(3L, 1L));
  EXPECT_EQ(position(Corner::bottom_right), std::pair(3L, 4L));
}

TEST(Patch, Opacity_BlendsThePattern) {
  const Patch<> patch{.image = {1, 2, 2}, .size = 2, .opacity = 0.25};
  const at::Tensor stamped = patch.apply(at::full({1, 1, 2, 2}, 0.8));
  EXPECT_NEAR(pixel(stamped, 0, 0, 0, 0), 0.75 * 0.8 + 0.25, 1e-6);
  EXPECT_NEAR(pixel(stamped, 0, 0, 0, 1), 0.75 * 0.8, 1e-6);
  const at::Tensor images = at::rand({2, 3, 32, 32});
  EXPECT_TRUE((Patch<cifar>{.opacity = 0}.apply(images).equal(images)));
}

TEST(Patch, CustomPattern_IsStamped) {
  const at::Tensor red = at::tensor(std::vector<float>{1, 0.5f, 0}).view({3, 1, 1}).expand({3, 2, 2});
  const at::Tensor stamped = Patch<cifar>{.size = 2, .pattern = red}.apply(at::full({1, 3, 32, 32}, 0.25));
  EXPECT_EQ(pixel(stamped, 0, 0, 31, 31), 1);
  EXPECT_EQ(pixel(stamped, 0, 1, 30, 30), 0.5);
  EXPECT_EQ(pixel(stamped, 0, 2, 30, 31), 0);
  EXPECT_EQ(pixel(stamped, 0, 0, 29, 31), 0.25);
}

TEST(Patch, DefaultSize_IsThePublishedOne) {
  EXPECT_EQ(Patch<cifar>{}.size, 3);
  EXPECT_EQ((Patch<>{.image = {3, 64, 64}}.size), 3);
  EXPECT_EQ((Patch<>{.image = {3, 224, 224}}.size), 20);
}

TEST(Patch, InvalidFieldOrShape_Throws) {
  expect_words(error_of([] { (void)Patch<cifar>{.size = 30, .margin = 3}; }),
               {"Patch does not fit", "size 30", "margin 3", "3x32x32", "shorter side"});
  expect_words(error_of([] { (void)Patch<cifar>{.size = 2000000000}; }), {"does not fit", "2000000000"});
  expect_words(error_of([] { (void)Patch<cifar>{.size = 0}; }), {"does not fit", "size 0"});
  expect_words(error_of([] { (void)Patch<cifar>{.margin = -1}; }), {"does not fit", "margin -1"});
  EXPECT_NO_THROW((void)(Patch<cifar>{.size = 30, .margin = 2}));
  expect_words(error_of([] { (void)Patch<>{}; }), {"Patch", "?x?x?", "set .image = ImageShape{3, 32, 32}"});
  for (const double opacity : {-0.1, 1.1, std::nan("")}) {
    expect_words(error_of([&] { (void)Patch<cifar>{.opacity = opacity}; }),
                 {"Patch.opacity", "[0, 1]", fmt::format("got {}", opacity)});
  }
  expect_words(error_of([] {
                 Patch<cifar>{.pattern = at::ones({3, 4, 3})}.apply(at::rand({1, 3, 32, 32}));
               }),
               {"Patch.pattern: wrong shape", "got 3x4x3", "expected 3x3x3"});
  expect_words(error_of([] {
                 Patch<cifar>{.pattern = at::ones({3, 3})}.apply(at::rand({1, 3, 32, 32}));
               }),
               {"Patch.pattern: wrong shape", "got 3x3,", "expected 3x3x3"});
}

TEST(Blend, Apply_BlendsByTheFormula) {
  const Blend<> blend{.image = {1, 1, 3},
                      .opacity = 0.2,
                      .pattern = at::tensor(std::vector<float>{0, 0.5f, 1}).view({1, 1, 3})};
  const at::Tensor images = at::full({2, 1, 1, 3}, 0.6), before = images.clone();
  const at::Tensor blended = blend.apply(images);
  for (int n = 0; n < 2; ++n) {
    EXPECT_NEAR(pixel(blended, n, 0, 0, 0), 0.48, 1e-6);
    EXPECT_NEAR(pixel(blended, n, 0, 0, 1), 0.58, 1e-6);
    EXPECT_NEAR(pixel(blended, n, 0, 0, 2), 0.68, 1e-6);
  }
  EXPECT_TRUE(images.equal(before));
  EXPECT_EQ(Blend<cifar>{}.opacity, 0.1);
}

TEST(Blend, InvalidFieldOrShape_Throws) {
  const at::Tensor images = at::rand({1, 3, 32, 32});
  expect_words(error_of([&] {
                 Blend<cifar>{.pattern = at::rand({3, 32, 31})}.apply(images);
               }),
               {"Blend.pattern: wrong shape", "got 3x32x31", "expected 3x32x32"});
  expect_words(error_of([&] {
                 Blend<cifar>{.pattern = at::rand({32, 32})}.apply(images);
               }),
               {"Blend.pattern: wrong shape", "got 32x32"});
  for (const double opacity : {-0.1, 1.1, std::nan("")}) {
    expect_words(error_of([&] { Blend<cifar>{.opacity = opacity}.apply(images); }),
                 {"Blend.opacity", "[0, 1]", fmt::format("got {}", opacity)});
  }
  expect_words(error_of([] { (void)Blend<>{}; }), {"trigger pattern", "?x?x?", "set .image"});
}

TEST(Patterns, Noise_IsDrawnFromMersenneTwister) {
  // Each value is the top 24 bits of a 64-bit draw of std::mt19937_64.
  const at::Tensor noise = patterns::noise({2, 3, 5}, 42);
  std::mt19937_64 twister(derived_seed(42, "noise pattern"));
  for (int i = 0; i < 30; ++i) {
    EXPECT_EQ(noise.flatten()[i].item<double>(), std::ldexp(static_cast<double>(twister() >> 40), -24));
  }
  EXPECT_TRUE(patterns::noise({2, 3, 5}, 42).equal(noise));
  EXPECT_FALSE(patterns::noise({2, 3, 5}, 43).equal(noise));
  const at::Tensor large = patterns::noise({3, 100, 100}, 1);
  EXPECT_GE(large.min().item<float>(), 0);
  EXPECT_LT(large.max().item<float>(), 1);
  EXPECT_NEAR(large.mean().item<double>(), 0.5, 5 * std::sqrt(1. / 12 / 30000));
}

TEST(Triggers, Apply_IsPureAndStaysInRange) {
  const at::Tensor images = at::rand({2, 3, 32, 32}), before = images.clone();
  const auto pure = [&](const Trigger auto& trigger) {
    const at::Tensor once = trigger.apply(images), twice = trigger.apply(images);
    return once.equal(twice) && images.equal(before) && once.min().item<float>() >= 0 &&
           once.max().item<float>() <= 1;
  };
  EXPECT_TRUE(pure(Patch<cifar>{}));
  EXPECT_TRUE(pure(Blend<cifar>{}));
  EXPECT_TRUE(pure(None<cifar>{}));
  EXPECT_TRUE(None<cifar>{}.apply(images).equal(images));
  EXPECT_TRUE(Blend<cifar>{}.apply(images).equal(Blend<cifar>{}.apply(images)));
}

TEST(Stamp, FractionalValues_RoundToTheNearestByte) {
  const at::Tensor bytes = at::arange(256).to(at::kByte).view({1, 1, 16, 16});
  const ImageShape shape = {1, 16, 16};
  const at::Tensor stamped =
      stamp(Blend<>{.image = shape, .opacity = 0.1, .pattern = at::ones({1, 16, 16})}, bytes).flatten();
  ASSERT_EQ(stamped.scalar_type(), at::kByte);
  for (int v = 0; v < 256; ++v) {
    const double exact = 0.9 * v + 0.1 * 255;
    if (std::abs(exact - std::floor(exact) - 0.5) < 1e-3)
      continue;  // a tie, which float may round either way
    EXPECT_EQ(stamped[v].item<int>(), std::lround(exact)) << v;
  }
  EXPECT_TRUE(stamp(None<>{.image = shape}, bytes).equal(bytes));
  EXPECT_EQ(stamp(None<>{.image = shape}, bytes.slice(0, 0, 0)).sizes(),
            (std::vector<std::int64_t>{0, 1, 16, 16}));
}

TEST(Stamp, MoreImagesThanAChunk_AllStamped) {
  const at::Tensor bytes =
      at::arange(2100).remainder(200).to(at::kByte).view({2100, 1, 1, 1}).expand({2100, 1, 4, 4});
  const at::Tensor stamped = stamp(Patch<>{.image = {1, 4, 4}, .size = 1}, bytes);
  EXPECT_TRUE(stamped.slice(2, 0, 3).equal(bytes.slice(2, 0, 3)));
  EXPECT_TRUE(stamped.select(2, 3).select(2, 3).eq(255).all().item<bool>());
}

TEST(Stamp, ImagesOfAnotherShape_Throws) {
  expect_words(error_of([] {
                 stamp(Patch<cifar>{}, at::zeros({1, 3, 28, 28}, at::kByte));
               }),
               {"trigger: wrong image shape", "got 3x28x28", "expected 3x32x32", "task of the data"});
}

/// A trigger that returns what a function makes of the images.
struct Returns {
  std::function<at::Tensor(const at::Tensor&)> change;
  ImageShape image = {1, 4, 4};
  at::Tensor apply(const at::Tensor& images) const { return change(images); }
};

TEST(Stamp, TriggerThatReturnsAnotherShapeTypeOrRange_Throws) {
  const at::Tensor bytes = at::arange(0, 3 * 16 * 5, 5).to(at::kByte).view({3, 1, 4, 4});
  const auto of = [&](auto change) { return error_of([&] { stamp(Returns{change}, bytes); }); };
  expect_words(of([](const at::Tensor& x) { return x[0]; }), {"apply", "got 1x4x4", "expected 3x1x4x4"});
  expect_words(of([](const at::Tensor& x) { return x.slice(0, 0, 1); }), {"apply", "got 1x1x4x4"});
  expect_words(of([](const at::Tensor& x) { return x.mean(); }), {"apply", "got scalar"});
  expect_words(of([](const at::Tensor& x) { return data::to_bytes(x); }),
               {"apply", "floating-point", "Byte"});
  expect_words(of([](const at::Tensor&) { return at::Tensor(); }), {"apply", "undefined"});
  // The largest byte of the first two images is 5·31.
  expect_words(of([](const at::Tensor& x) { return x * 255; }), {"apply", "[0, 1]", "got 0 to 155"});
  expect_words(of([](const at::Tensor& x) { return (x - 0.5) / 0.25; }), {"apply", "[0, 1]", "got -2 to"});
  expect_words(of([](const at::Tensor& x) { return x / 0; }), {"apply", "finite"});
  expect_words(of([](const at::Tensor& x) { return at::where(x.eq(0), std::nan(""), x); }),
               {"apply", "finite"});
}

TEST(Stamp, ValuesALittleOutOfRange_AreClamped) {
  const at::Tensor bytes = at::tensor({0, 55, 255, 200}).to(at::kByte).view({1, 1, 2, 2});
  const Returns brighter{[](const at::Tensor& x) { return x + 0.2; }, {1, 2, 2}};
  EXPECT_TRUE(stamp(brighter, bytes).flatten().equal(at::tensor({51, 106, 255, 251}).to(at::kByte)));
  const Returns in_double{[](const at::Tensor& x) { return x.to(at::kDouble); }, {1, 2, 2}};
  EXPECT_TRUE(stamp(in_double, bytes).equal(bytes));
}

TEST(Stamp, TriggerThatWritesToItsArgument_LeavesTheCallersImages) {
  const at::Tensor bytes = at::full({2, 1, 4, 4}, 7, at::kByte);
  const Returns in_place{[](const at::Tensor& x) { return at::Tensor(x).fill_(1); }};
  EXPECT_TRUE(stamp(in_place, bytes).eq(255).all().item<bool>());
  EXPECT_TRUE(bytes.eq(7).all().item<bool>());
}

// ---- The example of refine/triggers/README.md ----

/// A sine over the width of the image (Barni et al., 2019).
struct Stripes {
  refine::ImageShape image = refine::tasks::cifar10.image;
  double strength = 0.08;
  double periods = 6;

  at::Tensor apply(const at::Tensor& images) const {
    const at::Tensor x = at::arange(images.size(3), images.options()) / images.size(3);
    return (images + (x * (2 * M_PI * periods)).sin() * strength).clamp(0, 1);
  }
};
static_assert(refine::triggers::Trigger<Stripes>);

TEST(Readme, CustomTrigger_IsStamped) {
  const at::Tensor bytes = at::full({2, 3, 32, 32}, 100, at::kByte);
  const at::Tensor stamped = stamp(Stripes{}, bytes);
  for (int x = 0; x < 32; ++x) {
    EXPECT_NEAR(stamped[1][2][31][x].item<int>(), 100 + 255 * 0.08 * std::sin(2 * M_PI * 6 * x / 32.0), 0.51);
  }
}

}  // namespace
}  // namespace refine::triggers
