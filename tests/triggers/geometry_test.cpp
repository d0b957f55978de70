#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/rot90.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <tests/triggers/cifar.hpp>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <refine/core/task.hpp>
#include <refine/triggers/triggers.hpp>
#include <string>
#include <vector>
#include "tests/fixtures/pytorch.hpp"
#include "tests/support/error_of.hpp"

namespace refine::triggers {
namespace {

using refine::testing::distance;
using refine::testing::error_of;
using refine::testing::expect_words;
using refine::testing::pytorch;

static_assert(Trigger<Warp<>> && Trigger<Warp<cifar>>);
static_assert(Trigger<Rotate<>> && Trigger<Rotate<cifar>>);

// ---- Warp ----

TEST(Warp, SameControlPoints_SameImagesAsPyTorch) {
  const at::Tensor square = pytorch().at("images").narrow(0, 0, 1);
  const Warp<cifar> warp{.grid = warping_grid(pytorch().at("warp.control:images"), cifar, 0.5)};
  EXPECT_LT(distance(warp.apply(square), pytorch().at("warp:images")), 1e-5);
  EXPECT_GT(distance(square, pytorch().at("warp:images")), 0.1);

  const at::Tensor odd = pytorch().at("odd_images").narrow(0, 0, 1);
  const ImageShape shape = {3, 37, 29};
  const Warp<> strong{.image = shape,
                      .grid = warping_grid(pytorch().at("warp.control:odd_images"), shape, 3.0)};
  EXPECT_LT(distance(strong.apply(odd), pytorch().at("warp:odd_images")), 1e-5);
}

TEST(Warp, EqualControlPoints_ShiftByOnePixel) {
  // All control points are (1/4, 0). Their mean absolute value over both coordinates is 1/8, so they
  // are scaled to (2, 0). Strength W / (W − 1) then moves x by 2 / (W − 1), which is one pixel. The
  // last column stays at the edge.
  const int width = 5;
  at::Tensor control = at::zeros({2, 2, 2});
  control[0].fill_(0.25);
  const ImageShape shape = {1, 4, width};
  const Warp<> warp{
      .image = shape, .control_points = 2, .grid = warping_grid(control, shape, width / (width - 1.0))};
  const at::Tensor images = at::rand({2, 1, 4, width}), warped = warp.apply(images);
  for (int x = 0; x < width; ++x) {
    EXPECT_LT(distance(warped.select(3, x), images.select(3, std::min(x + 1, width - 1))), 1e-5) << x;
  }
}

TEST(Warp, Seed_DeterminesGrid) {
  const at::Tensor images = at::rand({2, 3, 32, 32});
  const at::Tensor warped = Warp<cifar>{}.apply(images);
  EXPECT_TRUE((Warp<cifar>{.seed = default_seed}.apply(images).equal(warped)));
  EXPECT_FALSE((Warp<cifar>{.seed = 1}.apply(images).equal(warped)));
  EXPECT_TRUE((Warp<>{.image = cifar}.apply(images).equal(warped)));
  EXPECT_TRUE(Warp<cifar>{}.apply(images.narrow(0, 1, 1)).equal(warped.narrow(0, 1, 1)))
      << "the warp depends on the other images";
  EXPECT_EQ(Warp<cifar>{}.apply(images.narrow(0, 0, 0)).size(0), 0);
  // The displacements are smooth: second differences are below half a pixel.
  const at::Tensor grid = Warp<cifar>{}.grid;
  EXPECT_LT((grid.diff(1, 1).diff(1, 1)).abs().max().item<double>(), 0.5 * 2 / 31);
}

TEST(Warp, InvalidFieldOrShape_Throws) {
  expect_words(error_of([] { (void)Warp<>{}; }), {"Warp", "?x?x?", "set .image"});
  expect_words(error_of([] { (void)Warp<cifar>{.control_points = 1}; }),
               {"control_points", "got 1 ", "3x32x32"});
  expect_words(error_of([] { (void)Warp<cifar>{.control_points = 33}; }), {"control_points", "got 33 "});
  for (const double strength : {0., -1., 33., std::nan("")}) {
    expect_words(error_of([&] { (void)Warp<cifar>{.strength = strength}; }),
                 {"Warp.strength", fmt::format("got {}", strength)});
  }
  expect_words(error_of([] { warping_grid(at::zeros({2, 4, 4}), cifar, 0.5); }), {"2×k×k", "not all 0"});
  expect_words(error_of([] { warping_grid(at::ones({4, 4}), cifar, 0.5); }), {"2×k×k", "4x4"});
  for (const auto& shape : {std::vector<std::int64_t>{1, 3, 28, 32}, {1, 3, 32, 28}, {3, 32, 32}}) {
    expect_words(error_of([&] { Warp<cifar>{}.apply(at::zeros(shape)); }),
                 {"Warp.grid", "1x32x32x2", "1×H×W×2"});
  }
  EXPECT_NE(error_of([] { stamp(Warp<cifar>{}, at::zeros({1, 3, 28, 28}, at::kByte)); }), "");
}

// ---- Rotate ----

TEST(Rotate, DefaultAngle_SameImagesAsPyTorch) {
  for (const std::string name : {"images", "odd_images"}) {
    const at::Tensor turned = Rotate<>{}.apply(pytorch().at(name).narrow(0, 0, 1));
    EXPECT_EQ(distance(turned, pytorch().at("rotate:" + name)), 0) << name;
  }
}

TEST(Rotate, MultiplesOf90Degrees_AreExact) {
  const at::Tensor square = at::rand({2, 3, 32, 32}), oblong = at::rand({2, 3, 7, 12});
  EXPECT_TRUE(Rotate<cifar>{.degrees = 90}.apply(square).equal(at::rot90(square, 1, {2, 3})));
  EXPECT_TRUE(Rotate<cifar>{.degrees = -90}.apply(square).equal(at::rot90(square, -1, {2, 3})));
  EXPECT_TRUE(Rotate<>{.degrees = 180}.apply(oblong).equal(oblong.flip({2, 3})));
  EXPECT_TRUE(Rotate<>{.degrees = 0}.apply(oblong).equal(oblong));
}

/// By definition, the source of a pixel is its position rotated back about the centre, in pixels, y
/// pointing down.
TEST(Rotate, EachPixel_ComesFromItsPositionRotatedBack) {
  const at::Tensor images = at::rand({1, 1, 20, 31}).add_(0.5).clamp_(0, 1);
  const at::Tensor turned = Rotate<>{.degrees = 16}.apply(images);
  const double angle = 16 * std::numbers::pi / 180;
  int black = 0;
  for (int y = 0; y < 20; ++y) {
    for (int x = 0; x < 31; ++x) {
      const double right = x - 15.0, down = y - 9.5;
      const double from_x = right * std::cos(angle) - down * std::sin(angle) + 15.0;
      const double from_y = right * std::sin(angle) + down * std::cos(angle) + 9.5;
      const auto tie = [](double x) { return std::abs(x - std::floor(x) - 0.5) < 1e-4; };
      if (tie(from_x) || tie(from_y)) continue;
      const long i = std::lround(from_x), j = std::lround(from_y);
      const bool inside = i >= 0 && i < 31 && j >= 0 && j < 20;
      EXPECT_EQ(turned[0][0][y][x].item<float>(), inside ? images[0][0][j][i].item<float>() : 0)
          << y << ", " << x;
      black += !inside;
    }
  }
  EXPECT_GT(black, 20);
}

TEST(Rotate, InvalidAngleOrShape_Throws) {
  const at::Tensor images = at::rand({1, 3, 32, 32});
  for (const double degrees : {-180.5, 181., std::nan("")}) {
    expect_words(error_of([&] { Rotate<cifar>{.degrees = degrees}.apply(images); }),
                 {"Rotate.degrees", "[-180, 180]", fmt::format("got {}", degrees)});
  }
  expect_words(error_of([&] { Rotate<cifar>{}.apply(at::zeros({1, 3, 28, 28})); }), {"3x32x32", "3x28x28"});
  expect_words(error_of([&] { Rotate<cifar>{}.apply(images[0]); }), {"number of dimensions", "got 3"});
}

TEST(GeometricTriggers, Apply_IsPureAndStaysInRange) {
  // Black and white have the highest contrast: any overshoot would leave the range.
  const at::Tensor images = at::rand({4, 3, 32, 32}).round_(), before = images.clone();
  const auto pure = [&](const Trigger auto& trigger) {
    const at::Tensor once = trigger.apply(images), twice = trigger.apply(images);
    return once.equal(twice) && images.equal(before) && once.sizes() == images.sizes() &&
           once.min().item<float>() >= 0 && once.max().item<float>() <= 1;
  };
  EXPECT_TRUE(pure(Warp<cifar>{}));
  EXPECT_TRUE((pure(Warp<cifar>{.control_points = 32, .strength = 20})));
  EXPECT_TRUE(pure(Rotate<cifar>{}));
  // A warp keeps constant images, byte for byte.
  const at::Tensor grey = at::full({2, 3, 32, 32}, 77, at::kByte);
  EXPECT_TRUE(stamp(Warp<cifar>{}, grey).equal(grey));
}

}  // namespace
}  // namespace refine::triggers
