#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <tests/triggers/cifar.hpp>

#include <cmath>
#include <random>
#include <refine/core/task.hpp>
#include <refine/triggers/triggers.hpp>
#include <string>
#include <vector>
#include "tests/support/error_of.hpp"

namespace refine::triggers {
namespace {

using refine::testing::error_of;

bool has(const std::string& line, const std::string& words) {
  return line.find(words) != std::string::npos;
}

float pixel(const at::Tensor& images, int n, int c, int y, int x) {
  return images[n][c][y][x].item<float>();
}

TEST(Patch, IsTheCheckerboardInItsCorner) {
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

TEST(Patch, GoesToEachCornerWithItsMargin) {
  const ImageShape shape = {1, 5, 6};
  const auto where = [&](Corner corner) {  // of a single white pixel, one off the edges
    const Patch<> patch{.image = shape, .size = 1, .corner = corner, .margin = 1};
    const at::Tensor stamped = patch.apply(at::zeros({1, 1, 5, 6}));
    EXPECT_EQ(stamped.sum().item<float>(), 1);
    const auto at = stamped.flatten().argmax().item<std::int64_t>();
    return std::pair(at / 6, at % 6);
  };
  EXPECT_EQ(where(Corner::top_left), std::pair(1L, 1L));
  EXPECT_EQ(where(Corner::top_right), std::pair(1L, 4L));
  EXPECT_EQ(where(Corner::bottom_left), std::pair(3L, 1L));
  EXPECT_EQ(where(Corner::bottom_right), std::pair(3L, 4L));
}

TEST(Patch, MixesByItsOpacity) {
  const Patch<> patch{.image = {1, 2, 2}, .size = 2, .opacity = 0.25};
  const at::Tensor stamped = patch.apply(at::full({1, 1, 2, 2}, 0.8));
  EXPECT_NEAR(pixel(stamped, 0, 0, 0, 0), 0.75 * 0.8 + 0.25, 1e-6);
  EXPECT_NEAR(pixel(stamped, 0, 0, 0, 1), 0.75 * 0.8, 1e-6);
  const at::Tensor images = at::rand({2, 3, 32, 32});
  EXPECT_TRUE((Patch<cifar>{.opacity = 0}.apply(images).equal(images)));
}

TEST(Patch, TakesAPatternOfYourOwn) {
  const at::Tensor red = at::tensor(std::vector<float>{1, 0.5f, 0}).view({3, 1, 1}).expand({3, 2, 2});
  const at::Tensor stamped = Patch<cifar>{.size = 2, .pattern = red}.apply(at::full({1, 3, 32, 32}, 0.25));
  EXPECT_EQ(pixel(stamped, 0, 0, 31, 31), 1);
  EXPECT_EQ(pixel(stamped, 0, 1, 30, 30), 0.5);
  EXPECT_EQ(pixel(stamped, 0, 2, 30, 31), 0);
  EXPECT_EQ(pixel(stamped, 0, 0, 29, 31), 0.25);
}

TEST(Patch, HasThePublishedSizes) {
  EXPECT_EQ(Patch<cifar>{}.size, 3);
  EXPECT_EQ((Patch<>{.image = {3, 64, 64}}.size), 3);
  EXPECT_EQ((Patch<>{.image = {3, 224, 224}}.size), 20);
}

TEST(Patch, RefusesWhatDoesNotFit) {
  EXPECT_EQ(
      error_of([] { (void)Patch<cifar>{.size = 30, .margin = 3}; }),
      "refine: a patch of 30 pixels with a margin of 3 does not fit in a 3x32x32 image; give it 1 pixel at "
      "least and room for both");
  EXPECT_TRUE(has(error_of([] { (void)Patch<cifar>{.size = 2000000000}; }), "does not fit"));
  EXPECT_TRUE(has(error_of([] { (void)Patch<cifar>{.size = 0}; }), "does not fit"));
  EXPECT_TRUE(has(error_of([] { (void)Patch<cifar>{.margin = -1}; }), "does not fit"));
  EXPECT_NO_THROW((void)(Patch<cifar>{.size = 30, .margin = 2}));
  EXPECT_EQ(
      error_of([] { (void)Patch<>{}; }),
      "refine: a patch needs to know its images, ?x?x? is no shape; say .image = ImageShape{3, 32, 32}");
  for (const double opacity : {-0.1, 1.1, std::nan("")}) {
    EXPECT_TRUE(has(error_of([&] { (void)Patch<cifar>{.opacity = opacity}; }), "opacity is 0 to 1"));
  }
  EXPECT_EQ(error_of([] {
              Patch<cifar>{.pattern = at::ones({3, 4, 3})}.apply(at::rand({1, 3, 32, 32}));
            }),
            "refine: the patch's pattern has 3 dimensions or other extents than 3x3x3; give a pattern of "
            "that shape");
  EXPECT_TRUE(has(error_of([] {
                    Patch<cifar>{.pattern = at::ones({3, 3})}.apply(at::rand({1, 3, 32, 32}));
                  }),
                  "has 2 dimensions"));
}

TEST(Blend, IsTheFormula) {
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

TEST(Blend, RefusesWhatDoesNotFit) {
  const at::Tensor images = at::rand({1, 3, 32, 32});
  EXPECT_TRUE(has(error_of([&] {
                    Blend<cifar>{.pattern = at::rand({3, 32, 31})}.apply(images);
                  }),
                  "another shape"));
  EXPECT_TRUE(has(error_of([&] {
                    Blend<cifar>{.pattern = at::rand({32, 32})}.apply(images);
                  }),
                  "another shape"));
  for (const double opacity : {-0.1, 1.1, std::nan("")}) {
    EXPECT_TRUE(has(error_of([&] { Blend<cifar>{.opacity = opacity}.apply(images); }), "opacity is 0 to 1"));
  }
  EXPECT_TRUE(has(error_of([] { (void)Blend<>{}; }), "a trigger pattern needs a shape, ?x?x? is none"));
}

TEST(Patterns, AreDrawnFromTheWrittenGenerator) {
  // The top 24 bits of each 64-bit draw of the standard's Mersenne Twister.
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

TEST(Triggers, ArePure) {
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

TEST(Stamp, RoundsToTheNearestByte) {
  const at::Tensor bytes = at::arange(256).to(at::kByte).view({1, 1, 16, 16});
  const ImageShape shape = {1, 16, 16};
  const at::Tensor stamped =
      stamp(Blend<>{.image = shape, .opacity = 0.1, .pattern = at::ones({1, 16, 16})}, bytes).flatten();
  ASSERT_EQ(stamped.scalar_type(), at::kByte);
  for (int v = 0; v < 256; ++v) {
    const double exact = 0.9 * v + 0.1 * 255;
    if (std::abs(exact - std::floor(exact) - 0.5) < 1e-3)
      continue;  // a tie, which floats may take either way
    EXPECT_EQ(stamped[v].item<int>(), std::lround(exact)) << v;
  }
  EXPECT_TRUE(stamp(None<>{.image = shape}, bytes).equal(bytes));
  EXPECT_EQ(stamp(None<>{.image = shape}, bytes.slice(0, 0, 0)).sizes(),
            (std::vector<std::int64_t>{0, 1, 16, 16}));
}

TEST(Stamp, TakesMoreImagesThanAPart) {
  const at::Tensor bytes =
      at::arange(2100).remainder(200).to(at::kByte).view({2100, 1, 1, 1}).expand({2100, 1, 4, 4});
  const at::Tensor stamped = stamp(Patch<>{.image = {1, 4, 4}, .size = 1}, bytes);
  EXPECT_TRUE(stamped.slice(2, 0, 3).equal(bytes.slice(2, 0, 3)));
  EXPECT_TRUE(stamped.select(2, 3).select(2, 3).eq(255).all().item<bool>());
}

TEST(Stamp, RefusesImagesOfAnotherShape) {
  EXPECT_EQ(
      error_of([] {
        stamp(Patch<cifar>{}, at::zeros({1, 3, 28, 28}, at::kByte));
      }),
      "refine: the trigger is made for 3x32x32 images, the data has 3x28x28; give the attack the task of the "
      "data");
}

// ---- The snippet of refine/triggers/README.md ----

/// A sine over the width of the image (Barni et al., 2019).
struct Stripes {
  ImageShape image = tasks::cifar10.image;
  double strength = 0.08;
  double periods = 6;

  at::Tensor apply(const at::Tensor& images) const {
    const at::Tensor x = at::arange(images.size(3), images.options()) / images.size(3);
    return (images + (x * (2 * M_PI * periods)).sin() * strength).clamp(0, 1);
  }
};
static_assert(Trigger<Stripes>);

TEST(Readme, TakesATriggerOfYourOwn) {
  const at::Tensor bytes = at::full({2, 3, 32, 32}, 100, at::kByte);
  const at::Tensor stamped = stamp(Stripes{}, bytes);
  for (int x = 0; x < 32; ++x) {
    EXPECT_NEAR(stamped[1][2][31][x].item<int>(), 100 + 255 * 0.08 * std::sin(2 * M_PI * 6 * x / 32.0), 0.51);
  }
}

}  // namespace
}  // namespace refine::triggers
