#include <ATen/TensorOperators.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <tests/attacks/images.hpp>

#include <algorithm>
#include <cmath>
#include <functional>
#include <refine/attacks/attacks.hpp>
#include <refine/data/sources.hpp>
#include <string>
#include <vector>
#include "tests/support/error_of.hpp"

namespace refine::attacks {
namespace {

using refine::testing::error_of;
using refine::testing::expect_words;

/// Sets every pixel to one value.
struct Flat {
  ImageShape image = {};
  double value = 0;

  at::Tensor apply(const at::Tensor& images) const { return at::full_like(images, value); }
};

TEST(Covered, Poison_StampsInTurnAndRelabelsOnlyThePoisoned) {
  const data::Dataset set = clean(100);
  const at::Tensor images = set.images.clone(), labels = set.labels.clone();
  const Covered<Flat> attack{.trigger = {.value = 1},
                             .poisons = {{.value = 10 / 255.}, {.value = 20 / 255.}, {.value = 30 / 255.}},
                             .covers = {{.value = 40 / 255.}, {.value = 50 / 255.}},
                             .target = 2,
                             .rate = 0.1,
                             .cover_rate = 0.25};
  const Poisoned all = attack.poison(set);
  EXPECT_EQ(all.indices.size(), 10u);
  EXPECT_EQ(all.covers.size(), 25u);
  EXPECT_TRUE(std::ranges::is_sorted(all.indices, std::less_equal<>{}));
  EXPECT_TRUE(std::ranges::is_sorted(all.covers, std::less_equal<>{}));
  std::vector<int> stamped(6);
  for (std::int64_t i = 0; i < 100; ++i) {
    const bool poisoned = std::ranges::binary_search(all.indices, i),
               cover = std::ranges::binary_search(all.covers, i);
    ASSERT_FALSE(poisoned && cover);
    EXPECT_EQ(all.labels[i].item<int>(), poisoned ? 2 : labels[i].item<int>());
    if (!poisoned && !cover) {
      EXPECT_TRUE(all.images[i].equal(images[i]));
      continue;
    }
    const int value = all.images[i].min().item<int>();
    EXPECT_EQ(value, all.images[i].max().item<int>());
    ASSERT_EQ(value % 10, 0);
    EXPECT_EQ(value <= 30, poisoned);
    ++stamped[static_cast<std::size_t>(value / 10)];
  }
  EXPECT_EQ(stamped, (std::vector<int>{0, 4, 3, 3, 13, 12}));
  EXPECT_TRUE(attack.trigger_images(set.images).eq(255).all().item<bool>());
  EXPECT_TRUE(set.images.equal(images) && set.labels.equal(labels)) << "the source was changed";
}

TEST(Covered, NoCovers_UsesTheStampsOfPoisons) {
  const data::Dataset set = clean(40);
  const Poisoned all = Covered<Flat>{.trigger = {.value = 1}, .rate = 0.25}.poison(set);
  EXPECT_EQ(all.covers.size(), 20u) << "not two covers per poisoned image";
  for (const auto& part : {all.indices, all.covers}) {
    for (const auto i : part) EXPECT_TRUE(all.images[i].eq(255).all().item<bool>());
  }
}

TEST(Covered, Seed_DeterminesTheChoice) {
  const data::Dataset set = clean(200);
  const auto chosen = [&](std::uint64_t seed) {
    return Covered<Flat>{.rate = 0.1, .seed = seed}.poison(set);
  };
  EXPECT_EQ(chosen(1).indices, chosen(1).indices);
  EXPECT_NE(chosen(1).indices, chosen(2).indices);
  EXPECT_NE(chosen(1).covers, chosen(2).covers);
}

TEST(Covered, InvalidFieldOrShape_Throws) {
  const data::Dataset set = clean(10);
  expect_words(error_of([&] { AdaptivePatch<small>{.rate = 0.6, .cover_rate = 0.5}.check(set); }),
               {"rate", "cover_rate", "at most 1 (got 0.6 and 0.5)", "twice the rate by default",
                "rate of at most 1/3", "cover_rate of at most 0.4"});
  expect_words(error_of([&] { AdaptivePatch<small>{.cover_rate = -1}.check(set); }),
               {"cover_rate", "[0, 1]", "got -1"});
  expect_words(error_of([&] { AdaptivePatch<small>{.rate = std::nan("")}.check(set); }), {"rate", "got nan"});
  expect_words(error_of([&] { AdaptivePatch<small>{.target = 5}.check(set); }), {"target", "got 5"});
  expect_words(error_of([&] { AdaptivePatch<small>{.target = 4}.check(set.first(4)); }), {"none of the 4"});
  expect_words(error_of([&] { AdaptivePatch<tasks::cifar10>{}.poison(set); }), {"3x32x32", "3x16x16"});
  expect_words(error_of([&] { AdaptivePatch<small>{.poisons = {}}.check(set); }),
               {"Covered.poisons", "empty"});
  AdaptivePatch<small> odd;
  odd.poisons[3].picture = at::zeros({3, 4, 4});
  expect_words(error_of([&] { odd.check(set); }), {"Overlay.picture: wrong shape", "3x4x4", "3x16x16"});
}

/// In training, one of four patches at its own opacity; at test time, the first two, opaque.
TEST(AdaptivePatch, Defaults_AreThePublishedOnes) {
  const AdaptivePatch<small> attack;
  EXPECT_EQ(attack.rate, 0.01);
  EXPECT_EQ(attack.cover_rate, 0.02);
  ASSERT_EQ(attack.poisons.size(), 4u);
  const double opacities[] = {0.5, 0.5, 0.2, 0.3};
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(attack.poisons[i].opacity, opacities[i]);
    EXPECT_TRUE(attack.poisons[i].picture.equal(attack.trigger.overlays[i].picture));
  }
  const data::Dataset set = clean(400);
  const at::Tensor shown = attack.trigger_images(set.images);
  for (int i = 0; i < 4; ++i) {
    const auto& [image, picture, mask, opacity] = attack.trigger.overlays[static_cast<std::size_t>(i)];
    const at::Tensor inside = mask.eq(1).expand({3, 16, 16});
    EXPECT_EQ(
        shown[7].masked_select(inside).equal((picture * 255).round().to(at::kByte).masked_select(inside)),
        i < 2);
  }
  const AdaptivePatch<> dynamic_shape{.trigger = {.image = small.image}, .rate = 0.2};
  EXPECT_EQ(dynamic_shape.cover_rate, 0.4);
  EXPECT_TRUE(dynamic_shape.poison(set).images.equal(AdaptivePatch<small>{.rate = 0.2}.poison(set).images));
}

TEST(WanetWithNoise, Covers_ArePerturbedWarps) {
  const data::Dataset set = clean(50);
  const auto published = wanet_with_noise<small>();
  EXPECT_EQ(published.rate, 0.1);
  EXPECT_EQ(published.cover_rate, 0.2);
  EXPECT_EQ(published.covers.size(), 64u);
  const auto attack =
      wanet_with_noise<small>({.warp = {.seed = 3}, .target = 1, .rate = 0.2, .seed = 8, .grids = 4});
  EXPECT_EQ(attack.target, 1);
  EXPECT_EQ(attack.seed, 8u);
  EXPECT_EQ(attack.rate, 0.2);
  EXPECT_EQ(attack.cover_rate, 0.4);
  ASSERT_EQ(attack.covers.size(), 4u);
  ASSERT_EQ(attack.poisons.size(), 1u);
  const triggers::Warp<small.image> warp{.seed = 3};
  EXPECT_TRUE(attack.trigger.grid.equal(warp.grid) && attack.poisons[0].grid.equal(warp.grid));
  for (const auto& cover : attack.covers) EXPECT_FALSE(cover.grid.equal(warp.grid));
  EXPECT_FALSE(attack.covers[0].grid.equal(attack.covers[1].grid));
  const Poisoned all = attack.poison(set);
  EXPECT_EQ(all.indices.size(), 10u);
  EXPECT_EQ(all.covers.size(), 20u);
  EXPECT_EQ((wanet_with_noise<small>({.rate = 0.2, .cover_rate = 0.1}).poison(set).covers.size()), 5u);
  expect_words(error_of([] { wanet_with_noise<small>({.grids = 0}); }), {"NoiseMode.grids", "got 0"});
}

}  // namespace
}  // namespace refine::attacks
