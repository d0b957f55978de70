#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <tests/triggers/cifar.hpp>

#include <array>
#include <cmath>
#include <cstddef>
#include <refine/core/task.hpp>
#include <refine/triggers/detail/reference_rotate.hpp>
#include <refine/triggers/triggers.hpp>
#include <type_traits>
#include <utility>
#include <vector>
#include "tests/support/error_of.hpp"

namespace refine::triggers {
namespace {

using refine::testing::error_of;
using refine::testing::expect_words;

static_assert(Trigger<Overlay<>> && Trigger<Overlay<cifar>>);
static_assert(TriggerInParts<Patches<>> && TriggerInParts<Patches<cifar>>);
static_assert(!TriggerInParts<Patch<cifar>>);
static_assert(std::is_same_v<Part<Patches<cifar>>, Overlay<cifar>>);
static_assert(std::is_same_v<Part<Patch<cifar>>, Patch<cifar>>);

// ---- Overlay ----

TEST(Overlay, MaskSet_BlendsByTheFormula) {
  const at::Tensor images = at::rand({2, 3, 2, 2}), before = images.clone();
  at::Tensor mask = at::zeros({2, 2});
  mask[0][0] = 1;
  mask[0][1] = 0.5;
  const Overlay<> overlay{
      .image = {3, 2, 2}, .picture = at::full({3, 2, 2}, 0.8), .mask = mask, .opacity = 0.25};
  const at::Tensor out = overlay.apply(images);
  for (int c = 0; c < 3; ++c) {
    const auto pixel = [&](const at::Tensor& t, int y, int x) { return t[1][c][y][x].item<double>(); };
    EXPECT_NEAR(pixel(out, 0, 0), 0.75 * pixel(images, 0, 0) + 0.25 * 0.8, 1e-6);
    EXPECT_NEAR(pixel(out, 0, 1), 0.875 * pixel(images, 0, 1) + 0.125 * 0.8, 1e-6);
    EXPECT_EQ(pixel(out, 1, 0), pixel(images, 1, 0));
    EXPECT_EQ(pixel(out, 1, 1), pixel(images, 1, 1));
  }
  EXPECT_TRUE(images.equal(before));
}

TEST(Overlay, InvalidFieldOrShape_Throws) {
  const at::Tensor images = at::rand({2, 3, 4, 4});
  const Overlay<> good{.picture = at::ones({3, 4, 4}), .mask = at::ones({4, 4})};
  const auto line = [&](auto change) {
    Overlay<> bad = good;
    change(bad);
    return error_of([&] { bad.apply(images); });
  };
  EXPECT_EQ(line([](auto&) {}), "");
  expect_words(line([](auto& o) {
                 o.picture = at::ones({3, 4, 5});
               }),
               {"Overlay.picture: wrong shape", "3x4x5", "3x4x4"});
  expect_words(line([](auto& o) { o.picture = at::Tensor(); }),
               {"Overlay.picture: wrong shape", "undefined"});
  expect_words(line([](auto& o) { o.mask = at::ones({4, 5}); }), {"Overlay.mask: wrong shape", "4x5", "4x4"});
  expect_words(line([](auto& o) { o.mask = at::Tensor(); }), {"Overlay.mask: wrong shape", "undefined"});
  for (const double opacity : {-0.1, 1.1, std::nan("")})
    expect_words(line([&](auto& o) { o.opacity = opacity; }),
                 {"Overlay.opacity", "[0, 1]", fmt::format("got {}", opacity)});
}

// ---- Patches ----

TEST(Patch, ImagesOfAnotherShape_Throws) {
  const Patch<cifar> patch;
  const Patch<> made{.image = {3, 32, 32}};
  const Warp<cifar> warp;
  for (const ImageShape& shape :
       {ImageShape{3, 28, 28}, {3, 64, 64}, {3, 32, 40}, {1, 32, 32}, {4, 32, 32}}) {
    const at::Tensor images = at::rand({2, shape.channels, shape.height, shape.width});
    Message text;
    text << shape;
    const std::string given(text.view());
    expect_words(error_of([&] { patch.apply(images); }), {"3x32x32", given});
    expect_words(error_of([&] { made.apply(images); }), {"3x32x32", given});
    EXPECT_NE(error_of([&] { warp.apply(images); }), "") << given;
  }
  expect_words(error_of([&] { warp.apply(at::rand({2, 1, 32, 32})); }), {"3x32x32", "1x32x32"});
  EXPECT_EQ(patch.apply(at::rand({2, 3, 32, 32})).sizes(), (std::vector<std::int64_t>{2, 3, 32, 32}));
  expect_words(error_of([&] { patch.apply(at::rand({3, 32, 32})); }), {"number of dimensions", "got 3"});
}

TEST(Patches, Apply_ShowsTheFirstTwoOpaque) {
  const Patches<cifar> patches;
  const at::Tensor images = at::rand({2, 3, 32, 32}), before = images.clone(), out = patches.apply(images);
  const at::Tensor first = patches.overlays[0].mask.eq(1), second = patches.overlays[1].mask.eq(1);
  EXPECT_FALSE(first.logical_and(second).any().item<bool>());
  for (int c = 0; c < 3; ++c) {
    const auto pixels = [&](const at::Tensor& image, const at::Tensor& where) {
      return image.masked_select(where);
    };
    EXPECT_TRUE(pixels(out[1][c], first).equal(pixels(patches.overlays[0].picture[c], first)));
    EXPECT_TRUE(pixels(out[1][c], second).equal(pixels(patches.overlays[1].picture[c], second)));
    const at::Tensor outside = first.logical_or(second).logical_not();
    EXPECT_TRUE(pixels(out[1][c], outside).equal(pixels(images[1][c], outside)));
  }
  EXPECT_TRUE(images.equal(before));
  EXPECT_TRUE((Patches<>{.image = cifar}.apply(images).equal(out)));
  EXPECT_FALSE((Patches<cifar>{.shown = 4}.apply(images).equal(out)));
  for (const int shown : {0, 5}) {
    expect_words(error_of([&] { Patches<cifar>{.shown = shown}.apply(images); }),
                 {"Patches.shown", fmt::format("got {}", shown), "4 overlays"});
  }
}

TEST(Patches, Parts_HaveThePublishedOpacities) {
  const auto parts = parts_of(Patches<cifar>{});
  ASSERT_EQ(parts.size(), 4u);
  const double opacities[] = {0.5, 0.5, 0.2, 0.3};
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(parts[i].opacity, opacities[i]);
  EXPECT_EQ(parts_of(Patch<cifar>{.size = 5}).at(0).size, 5);
}

TEST(AdaptivePatches, AnyImageShape_VisibleDisjointAndInProportion) {
  for (const ImageShape& image :
       {ImageShape{3, 16, 16}, ImageShape{3, 32, 32}, ImageShape{3, 224, 224}, ImageShape{1, 28, 40}}) {
    const double side = image.height;
    const std::array<double, 4> extents = {side * 3 / 16, side / 8, side * 2 / 5, side / 4};
    const auto four = patterns::adaptive_patches(image);
    at::Tensor together = at::zeros({image.height, image.width});
    for (std::size_t i = 0; i < 4; ++i) {
      const auto& [picture, mask] = four[i];
      EXPECT_TRUE(mask.eq(0).logical_or(mask.eq(1)).all().item<bool>());
      EXPECT_GE(picture.min().item<float>(), 0);
      EXPECT_LE(picture.max().item<float>(), 1);
      EXPECT_EQ((picture * (1 - mask)).abs().max().item<float>(), 0) << "black outside";
      EXPECT_NEAR(mask.amax(0).sum().item<double>(), extents[i], 1) << "width of patch " << i;
      EXPECT_NEAR(mask.amax(1).sum().item<double>(), extents[i], 1) << "height of patch " << i;
      // Its contrast makes it visible on any background.
      EXPECT_GT(picture.flatten(1).masked_select(mask.flatten().eq(1)).std().item<double>(), 0.1);
      together += mask;
    }
    EXPECT_EQ(together.max().item<float>(), 1) << "patches overlap";
    // In turn: bottom right, bottom left, top right, top left.
    const auto half = [&](const at::Tensor& mask, bool bottom, bool right) {
      return mask.narrow(0, bottom ? image.height / 2 : 0, image.height / 2)
          .narrow(1, right ? image.width / 2 : 0, image.width / 2);
    };
    EXPECT_TRUE(half(four[0].mask, true, true).sum().equal(four[0].mask.sum()));
    EXPECT_TRUE(half(four[1].mask, true, false).sum().equal(four[1].mask.sum()));
    EXPECT_TRUE(half(four[2].mask, false, true).sum().equal(four[2].mask.sum()));
    EXPECT_TRUE(half(four[3].mask, false, false).sum().equal(four[3].mask.sum()));
  }
  expect_words(error_of([] { (void)Patches<>{}; }), {"?x?x?", "set .image"});
  expect_words(error_of([] { patterns::adaptive_patches({3, 12, 32}); }), {"3x12x32", "16x16"});
}

/// A cell is white if its row and column are both even or both odd.
TEST(AdaptivePatches, ChequeredSquare_HasNoMoreCellsThanPixels) {
  for (const auto& [side, pixels, cells] :
       {std::array{16, 2, 2}, {23, 2, 2}, {24, 3, 3}, {32, 4, 4}, {64, 8, 4}}) {
    const at::Tensor red = patterns::adaptive_patches({3, side, side})[1].picture[0];
    const int bottom = side - side / 16 - pixels, left = side / 16;
    for (int y = 0; y < pixels; ++y) {
      for (int x = 0; x < pixels; ++x) {
        const bool white = (y * cells / pixels + x * cells / pixels) % 2 == 0;
        EXPECT_EQ(red[bottom + y][left + x].item<float>(), white ? 1.0f : 0.1f)
            << side << ": " << y << ", " << x;
      }
    }
  }
}

// ---- perturbed_warp ----

TEST(PerturbedWarp, Grid_MovesEverySourceByUpToHalfAPixel) {
  const Warp<> warp{.image = {3, 20, 30}};
  const auto grid = perturbed_warp(warp, 1).grid;
  const at::Tensor moved = grid - warp.grid, x = moved.select(3, 0), y = moved.select(3, 1);
  EXPECT_LE(x.abs().max().item<double>(), 1 / 30. + 1e-6);
  EXPECT_LE(y.abs().max().item<double>(), 1 / 20. + 1e-6);
  EXPECT_GT(x.abs().max().item<double>(), 0.97 / 30);
  EXPECT_GT(y.abs().max().item<double>(), 0.97 / 20);
  EXPECT_LE(grid.abs().max().item<double>(), 1);
  EXPECT_TRUE(perturbed_warp(warp, 1).grid.equal(grid));
  EXPECT_FALSE(perturbed_warp(warp, 2).grid.equal(grid));
}

// ---- ReferenceRotate ----

/// Expected: Pillow's `Image.rotate(16)` of the 6×5 image of 1 to 30.
TEST(ReferenceRotate, RotatedPixels_SameAsPillow) {
  const int printed[6][5] = {{2, 3, 4, 5, 0},      {6, 7, 8, 9, 15},     {6, 12, 13, 14, 20},
                             {11, 17, 18, 19, 25}, {16, 22, 23, 24, 25}, {0, 26, 27, 28, 29}};
  const auto sources = detail::rotated_pixels(6, 5, 16);
  for (int i = 0; i < 30; ++i) EXPECT_EQ(sources[i].item<int>() + 1, printed[i / 5][i % 5]) << i;
}

TEST(ReferenceRotate, NormalisedImage_WrapsThroughBytes) {
  // One channel, mean 0.5, deviation 0.25, not rotated. Normalised, 0.2495 is -1.002; -255.5 is
  // truncated to -255, a byte of 1. 0.5 is 0. 0.7 is 0.8: 204. 0.9 is 1.6: 408 wraps to 152. 0.499 is
  // -0.004: -1.02 is truncated to -1, a byte of 255.
  const ReferenceRotate<> parity{.degrees = 0, .mean = {0.5}, .deviation = {0.25}};
  const std::pair<double, int> cases[] = {{0.2495, 1}, {0.5, 0}, {0.7, 204}, {0.9, 152}, {0.499, 255}};
  for (const auto& [value, byte] : cases) {
    const at::Tensor out = parity.apply(at::full({1, 1, 2, 2}, value + 1e-6, at::kFloat));
    EXPECT_NEAR(out[0][0][1][1].item<double>(), 0.5 + 0.25 * byte / 255, 1e-6) << value;
  }
  const at::Tensor images = at::rand({2, 3, 32, 32}), before = images.clone();
  const at::Tensor out = ReferenceRotate<cifar>{}.apply(images);
  EXPECT_TRUE(images.equal(before));
  EXPECT_GE(out.min().item<float>(), 0);
  EXPECT_LE(out.max().item<float>(), 1);
  EXPECT_NEAR(out[0][1][0][0].item<double>(), 0.4822, 1e-6) << "outside is 0 after normalising";
}

TEST(ReferenceRotate, InvalidFieldOrShape_Throws) {
  const at::Tensor images = at::rand({1, 1, 32, 32});
  expect_words(error_of([&] { ReferenceRotate<>{}.apply(images); }), {"3 means", "1 channels"});
  expect_words(error_of([&] { ReferenceRotate<cifar>{}.apply(images); }), {"3x32x32", "1x32x32"});
  for (const double d : {0., -0.2, std::nan("")}) {
    expect_words(error_of([&] { ReferenceRotate<>{.mean = {0.5}, .deviation = {d}}.apply(images); }),
                 {"ReferenceRotate.deviation", "positive", fmt::format("got {}", d)});
  }
  expect_words(error_of([&] {
                 ReferenceRotate<>{.degrees = 181}.apply(at::rand({1, 3, 4, 4}));
               }),
               {"degrees", "181"});
}

}  // namespace
}  // namespace refine::triggers
