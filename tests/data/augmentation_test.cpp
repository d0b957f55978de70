#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/upsample_bilinear2d.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <refine/data/augmentation.hpp>
#include <refine/data/detail/random_changes.hpp>

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>
#include <vector>

#include "tests/support/error_of.hpp"
#include "tests/support/scratch_folder.hpp"

namespace refine::data {
namespace {

using refine::testing::error_of;
using refine::testing::expect_words;

/// Images whose pixels all differ, so that the source of a pixel can be recognised by its value.
at::Tensor images_of(std::int64_t n, std::int64_t height, std::int64_t width) {
  return at::rand({n, 3, height, width}).mul_(0.9).add_(0.05);
}

float pixel(const at::Tensor& image, std::int64_t c, std::int64_t y, std::int64_t x) {
  if (y < 0 || x < 0 || y >= image.size(1) || x >= image.size(2)) return 0;
  return image.const_data_ptr<float>()[(c * image.size(1) + y) * image.size(2) + x];
}

/// Shifts and mirrors one image, pixel by pixel, by the definition.
at::Tensor shift(const at::Tensor& image, std::int64_t dy, std::int64_t dx, bool mirrored) {
  auto out = at::empty_like(image);
  auto* to = out.mutable_data_ptr<float>();
  const auto height = image.size(1), width = image.size(2);
  for (std::int64_t c = 0; c < 3; ++c) {
    for (std::int64_t y = 0; y < height; ++y) {
      for (std::int64_t x = 0; x < width; ++x)
        *to++ = pixel(image, c, y + dy, (mirrored ? width - 1 - x : x) + dx);
    }
  }
  return out;
}

TEST(Augment, DefaultFields_ReturnsTheSameImages) {
  const auto images = images_of(3, 5, 7);
  EXPECT_TRUE(augment(images, {}, 1).is_same(images));
  EXPECT_EQ(Augmentation{}, (Augmentation{.flip = false, .crop_padding = 0}));
  EXPECT_NE(Augmentation{}, Augmentation{.flip = true});
}

TEST(Augment, Flip_MirrorsHalfOfTheImages) {
  const auto images = images_of(400, 4, 6);
  const auto before = images.clone();
  const auto out = augment(images, {.flip = true}, 1);
  int flipped = 0;
  for (std::int64_t i = 0; i < 400; ++i) {
    const bool same = out[i].equal(images[i]), mirrored = out[i].equal(shift(images[i], 0, 0, true));
    ASSERT_NE(same, mirrored);
    flipped += mirrored;
  }
  EXPECT_NEAR(flipped, 200, 50);  // five standard deviations
  EXPECT_TRUE(images.equal(before));
}

TEST(Augment, CropPadding_CropsAnywhereInThePaddedImage) {
  const auto images = images_of(600, 5, 6);
  const auto out = augment(images, {.crop_padding = 2}, 1);
  std::set<std::pair<int, int>> places;
  for (std::int64_t i = 0; i < 600; ++i) {
    bool found = false;
    for (int dy = -2; dy <= 2 && !found; ++dy) {
      for (int dx = -2; dx <= 2 && !found; ++dx) {
        found = out[i].equal(shift(images[i], dy, dx, false));
        if (found) places.emplace(dy, dx);
      }
    }
    ASSERT_TRUE(found) << i;
  }
  EXPECT_EQ(places.size(), 25u);
}

TEST(Augment, FlipAndCropPadding_DrawIndependently) {
  const auto images = images_of(100, 6, 6);
  const auto out = augment(images, {.flip = true, .crop_padding = 1}, 3);
  const auto cropped = augment(images, {.crop_padding = 1}, 3), flipped = augment(images, {.flip = true}, 3);
  for (std::int64_t i = 0; i < 100; ++i) {  // the draws of one change do not affect the other
    const bool mirrored = !flipped[i].equal(images[i]);
    EXPECT_TRUE(out[i].equal(mirrored ? shift(cropped[i], 0, 0, true) : cropped[i]));
  }
}

TEST(Augment, Grayscale_ConvertsAShareToLuma) {
  const auto images = images_of(500, 4, 4);
  const auto out = augment(images, {.grayscale = 0.2}, 1);
  int grey = 0;
  for (std::int64_t i = 0; i < 500; ++i) {
    if (out[i].equal(images[i])) continue;
    ++grey;
    for (std::int64_t y = 0; y < 4; ++y) {
      for (std::int64_t x = 0; x < 4; ++x) {
        const double luma = 0.2989 * pixel(images[i], 0, y, x) + 0.587 * pixel(images[i], 1, y, x) +
                            0.114 * pixel(images[i], 2, y, x);
        for (std::int64_t c = 0; c < 3; ++c) EXPECT_NEAR(pixel(out[i], c, y, x), luma, 1e-6);
      }
    }
  }
  EXPECT_NEAR(grey, 100, 45);
  const auto all = augment(images, {.grayscale = 1}, 1);
  EXPECT_TRUE(all.select(1, 0).equal(all.select(1, 2)));
}

/// Compares with LibTorch's resize of the box; the box is drawn as the library draws it.
TEST(Augment, ResizedCrop_MatchesTorchResize) {
  for (const auto& [height, width] : {std::pair{32, 32}, std::pair{20, 33}, std::pair{9, 40}}) {
    const auto images = images_of(64, height, width);
    const auto out = augment(images, {.resized_crop_min_scale = 0.3}, 5);
    detail::RandomStream random(5, "resized crop");
    for (std::int64_t i = 0; i < 64; ++i) {
      const auto box = detail::random_resized_box(random, height, width, 0.3);
      const auto cut = images.narrow(0, i, 1).narrow(2, box.top, box.height).narrow(3, box.left, box.width);
      const auto expected = at::upsample_bilinear2d(cut.contiguous(), {height, width}, false);
      EXPECT_LT((out.narrow(0, i, 1).sub(expected)).abs().max().item<float>(), 2e-5f) << height << " " << i;
    }
  }
}

TEST(RandomResizedBox, ManyDraws_StayInTheirBounds) {
  detail::RandomStream random(1, "test");
  double min_scale = 1, max_scale = 0, widest = 0, tallest = 0;
  for (int i = 0; i < 5000; ++i) {
    const auto box = detail::random_resized_box(random, 100, 100, 0.4);
    ASSERT_GE(box.top, 0);
    ASSERT_GE(box.left, 0);
    ASSERT_LE(box.top + box.height, 100);
    ASSERT_LE(box.left + box.width, 100);
    const double scale = static_cast<double>(box.height * box.width) / 1e4;
    const double ratio = static_cast<double>(box.width) / static_cast<double>(box.height);
    min_scale = std::min(min_scale, scale), max_scale = std::max(max_scale, scale);
    widest = std::max(widest, ratio), tallest = std::max(tallest, 1 / ratio);
  }
  EXPECT_NEAR(min_scale, 0.4, 0.02);
  EXPECT_GT(max_scale, 0.97);
  EXPECT_NEAR(widest, 4.0 / 3, 0.03);
  EXPECT_NEAR(tallest, 4.0 / 3, 0.03);
}

TEST(Augment, Mix_MixesAShareWithThePreviousImage) {
  constexpr std::int64_t n = 200;
  const auto images = images_of(n, 4, 4);
  const auto out = augment(images, {.mix = 0.4}, 1);
  int mixed = 0;
  std::set<int> weights;
  for (std::int64_t i = 0; i < n; ++i) {
    if (out[i].equal(images[i])) continue;
    ++mixed;
    const auto before = images[(i + n - 1) % n];
    // The weight follows from one pixel; the others must agree.
    const float weight = (pixel(out[i], 0, 0, 0) - pixel(before, 0, 0, 0)) /
                         (pixel(images[i], 0, 0, 0) - pixel(before, 0, 0, 0));
    EXPECT_GE(weight, 0.49f);
    EXPECT_LE(weight, 1.01f);
    weights.insert(static_cast<int>(weight * 20));
    EXPECT_TRUE(out[i].allclose(images[i] * weight + before * (1 - weight), 0, 1e-3));
  }
  EXPECT_GT(mixed, 50);
  EXPECT_LT(mixed, 110);
  EXPECT_GE(weights.size(), 10u) << "weights of many sizes";
  EXPECT_TRUE(augment(images.narrow(0, 0, 1), {.mix = 1}, 1).equal(images.narrow(0, 0, 1)));
}

TEST(MixRows, SameSeed_MixesAsAugmentMixesTheImages) {
  const auto rows = at::arange(40, at::kFloat).div(40).view({20, 2});
  const auto images = rows.view({20, 2, 1, 1}).expand({20, 2, 3, 3}).contiguous();
  const Augmentation half{.flip = true, .mix = 0.5};
  const auto mixed = mix_rows(rows, half, 7);
  EXPECT_TRUE(mixed.equal(augment(images, half, 7).select(3, 0).select(2, 0)));
  EXPECT_FALSE(mixed.equal(rows));
  EXPECT_TRUE(mix_rows(rows, {.flip = true}, 7).equal(rows));
  EXPECT_TRUE(mix_rows(rows.narrow(0, 0, 1), half, 7).equal(rows.narrow(0, 0, 1)));
}

TEST(Augment, Brightness_MultipliesEachImageByItsOwnFactor) {
  const auto images = images_of(300, 4, 4).mul_(0.75);  // at most 0.72, so that 1.3 times it stays below 1
  const auto out = augment(images, {.brightness = 0.3}, 1);
  const auto factors = out.div(images).flatten(1);
  EXPECT_LT(factors.amax(1).sub(factors.amin(1)).max().item<float>(), 1e-5f);
  const auto each = factors.select(1, 0);
  EXPECT_GE(each.min().item<float>(), 0.7f - 1e-5f);
  EXPECT_LE(each.max().item<float>(), 1.3f + 1e-5f);
  EXPECT_NEAR(each.mean().item<float>(), 1, 5 * 0.6 / std::sqrt(12. * 300));
  EXPECT_LT(each.min().item<float>(), 0.71f);
  EXPECT_GT(each.max().item<float>(), 1.29f);
  EXPECT_EQ(augment(at::ones({50, 1, 2, 2}), {.brightness = 1}, 1).max().item<float>(), 1) << "clamped";
}

/// Compares with what torchvision 0.28's `functional.affine` prints for the 5×7 image of 1 to 35.
TEST(ApplyMoves, FixedMoves_MatchTorchvision) {
  const std::vector<detail::AffineMove> moves = {
      {10, 1, -1, 0.85}, {-30, 0, 0, 0.8}, {0, -2, 1, 1}, {45, 0, 1, 1.3}};
  const int expected[4][35] = {{0,  0,  8,  10, 11, 12, 6, 0,  22, 16, 17, 18, 19, 20, 0, 29, 30, 24,
                                25, 26, 28, 0,  0,  0,  0, 32, 34, 35, 0,  0,  0,  0,  0, 0,  0},
                               {0,  0,  0,  5, 6,  14, 0,  0,  2,  4, 12, 20, 21, 0,  1, 9, 10, 18,
                                26, 27, 35, 0, 15, 16, 24, 32, 34, 0, 0,  22, 30, 31, 0, 0, 0},
                               {0,  0, 0, 0,  0,  0,  0,  3,  4, 5, 6,  7,  0,  0,  10, 11, 12, 13,
                                14, 0, 0, 17, 18, 19, 20, 21, 0, 0, 24, 25, 26, 27, 28, 0,  0},
                               {15, 8, 9, 2,  3,  0,  0,  22, 16, 9, 10, 3,  4,  0,  23, 23, 17, 10,
                                11, 5, 5, 30, 24, 24, 18, 12, 12, 6, 31, 31, 25, 26, 19, 13, 13}};
  const auto images = at::arange(1, 36, at::kFloat).view({1, 1, 5, 7}).expand({4, 1, 5, 7}).contiguous();
  const auto out = detail::apply_moves(images, moves);
  for (std::int64_t i = 0; i < 4; ++i) {
    for (int y = 0; y < 5; ++y) {
      for (int x = 0; x < 7; ++x)
        EXPECT_EQ(out[i][0][y][x].item<int>(), expected[i][7 * y + x]) << i << y << x;
    }
  }
}

TEST(RandomMove, ManyDraws_StayInTheirBounds) {
  const Augmentation affine{.rotation = 10, .translate = 0.1, .scale_min = 0.8, .scale_max = 0.9};
  detail::RandomStream random(1, "test");
  double min_degrees = 0, max_degrees = 0, min_scale = 2, max_scale = 0;
  std::set<std::int64_t> right, down;
  for (int i = 0; i < 2000; ++i) {
    const auto move = detail::random_move(random, affine, 32, 50);
    min_degrees = std::min(min_degrees, move.degrees), max_degrees = std::max(max_degrees, move.degrees);
    min_scale = std::min(min_scale, move.scale), max_scale = std::max(max_scale, move.scale);
    right.insert(move.right), down.insert(move.down);
  }
  EXPECT_NEAR(min_degrees, -10, 0.1);
  EXPECT_NEAR(max_degrees, 10, 0.1);
  EXPECT_NEAR(min_scale, 0.8, 0.001);
  EXPECT_NEAR(max_scale, 0.9, 0.001);
  EXPECT_EQ(down, (std::set<std::int64_t>{-3, -2, -1, 0, 1, 2, 3})) << "a tenth of 32, whole pixels";
  EXPECT_EQ(*right.begin(), -5);
  EXPECT_EQ(*right.rbegin(), 5);
}

TEST(Augment, Affine_MovesEachImageByItsOwnDraws) {
  const Augmentation affine{.rotation = 10, .translate = 0.1, .scale_min = 0.8, .scale_max = 0.9};
  const auto images = at::ones({40, 1, 20, 20});
  const auto out = augment(images, affine, 1);
  EXPECT_TRUE(out.eq(0).logical_or(out.eq(1)).all().item<bool>())
      << "pixels are not interpolated, and outside is black";
  std::set<std::int64_t> sizes;
  for (std::int64_t i = 0; i < 40; ++i) {
    const auto white = out[i].sum().item<std::int64_t>();
    EXPECT_NEAR(static_cast<double>(white) / 400, 0.7, 0.16);  // 0.64 to 0.81, less what leaves the image
    sizes.insert(white);
  }
  EXPECT_GT(sizes.size(), 10u);
  detail::RandomStream random(1, "affine");
  std::vector<detail::AffineMove> moves;
  for (int i = 0; i < 40; ++i) moves.push_back(detail::random_move(random, affine, 20, 20));
  EXPECT_TRUE(detail::apply_moves(images, moves).equal(out));
  // The draws of one change do not affect the other.
  const auto both = augment(images, {.scale_min = 0.5, .scale_max = 0.5, .brightness = 0.5}, 1);
  EXPECT_TRUE(both.amax({1, 2, 3}).equal(augment(images, {.brightness = 0.5}, 1).amax({1, 2, 3})));
}

TEST(Augment, SameSeed_GivesTheSamePixelsAndKeepsTheMemoryFormat) {
  const Augmentation all{.flip = true,
                         .crop_padding = 2,
                         .resized_crop_min_scale = 0.8,
                         .grayscale = 0.2,
                         .mix = 0.5,
                         .rotation = 10,
                         .translate = 0.1,
                         .scale_min = 0.8,
                         .scale_max = 0.9,
                         .brightness = 0.2};
  const auto images = images_of(32, 8, 8), last = images.contiguous(at::MemoryFormat::ChannelsLast);
  const auto out = augment(images, all, 9);
  EXPECT_TRUE(augment(images, all, 9).equal(out));
  EXPECT_FALSE(augment(images, all, 10).equal(out));
  EXPECT_TRUE(out.is_contiguous());
  EXPECT_TRUE(augment(last, all, 9).is_contiguous(at::MemoryFormat::ChannelsLast));
  EXPECT_TRUE(augment(last, all, 9).allclose(out, 0, 1e-6));
  const Augmentation exact{.flip = true, .crop_padding = 2, .rotation = 10, .brightness = 0.2};
  EXPECT_TRUE(augment(last, exact, 9).equal(augment(images, exact, 9)));
  EXPECT_GE(out.min().item<float>(), 0.0f);
  EXPECT_LE(out.max().item<float>(), 1.0f);
  EXPECT_EQ(augment(images.narrow(0, 0, 0), exact, 9).size(0), 0);
}

TEST(Augment, InvalidField_Throws) {
  const auto images = images_of(2, 4, 4);
  expect_words(error_of([&] { augment(images, {.crop_padding = -1}, 0); }), {"crop_padding", "-1"});
  expect_words(error_of([&] { augment(images, {.resized_crop_min_scale = 0}, 0); }),
               {"resized_crop_min_scale"});
  expect_words(error_of([&] { augment(images, {.resized_crop_min_scale = 1.5}, 0); }), {"1.5"});
  expect_words(error_of([&] { augment(images, {.grayscale = std::nan("")}, 0); }), {"grayscale", "nan"});
  expect_words(error_of([&] { augment(images, {.mix = 1.5}, 0); }), {"mix", "1.5"});
  expect_words(error_of([&] { augment(images, {.rotation = 181}, 0); }), {"rotation", "181"});
  expect_words(error_of([&] { augment(images, {.translate = -1}, 0); }), {"translate", "-1"});
  expect_words(error_of([&] { augment(images, {.scale_min = 0}, 0); }), {"scale_min", "0"});
  expect_words(error_of([&] { augment(images, {.scale_max = 0.5}, 0); }),
               {"scale_min", "scale_max", "1 and 0.5"});
  expect_words(error_of([&] { augment(images, {.brightness = std::nan("")}, 0); }), {"brightness", "nan"});
  expect_words(error_of([&] { augment(images.narrow(1, 0, 1), {.grayscale = 0.5}, 0); }),
               {"grayscale", "1 channels"});
}

}  // namespace
}  // namespace refine::data
