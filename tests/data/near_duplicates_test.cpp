#include <refine/data/near_duplicates.hpp>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/rand_like.h>
#include <ATen/ops/upsample_bilinear2d.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include <refine/nn/torch_random.hpp>

namespace refine::data {
namespace {

/// Returns smooth random images, each of which is repeated with a little noise: image i shows scene
/// i % scenes.
at::Tensor repeated_scenes(std::int64_t scenes, std::int64_t each) {
  return nn::with_torch_seed(3, [&] {
    const at::Tensor smooth = at::upsample_bilinear2d(at::rand({scenes, 3, 6, 6}), {32, 32}, true);
    const at::Tensor images = smooth.repeat({each, 1, 1, 1});
    return ((images + 0.05 * (at::rand_like(images) - 0.5)).clamp(0, 1) * 255).to(at::kByte);
  });
}

TEST(NearDuplicates, RepeatedScenes_AreGroups) {
  const std::int64_t scenes = 200, each = 6;
  NearDuplicates duplicates(repeated_scenes(scenes, each));
  for (const std::int64_t image : {0, 7, 1'199}) {
    std::vector<std::int64_t> group = duplicates.group_of(image, 100);
    EXPECT_EQ(group.front(), image);
    std::ranges::sort(group);
    std::vector<std::int64_t> expected;
    for (std::int64_t i = image % scenes; i < scenes * each; i += scenes) expected.push_back(i);
    EXPECT_EQ(group, expected);
  }
  EXPECT_EQ(duplicates.group_of(3, 4).size(), 4u);
  EXPECT_EQ(duplicates.group_of(3, 1), (std::vector<std::int64_t>{3}));
}

TEST(NearDuplicates, DifferentImages_AreAlone) {
  NearDuplicates duplicates(repeated_scenes(600, 1));
  for (std::int64_t i = 0; i < 600; i += 10) EXPECT_EQ(duplicates.group_of(i, 100).size(), 1u) << i;
}

/// Returns smooth random images, and behind them one more that is repeated with noise in ±`noise`.
at::Tensor one_scene_repeated(std::int64_t others, std::int64_t repeats, double noise) {
  return nn::with_torch_seed(3, [&] {
    const at::Tensor smooth = at::upsample_bilinear2d(at::rand({others + 1, 3, 6, 6}), {32, 32}, true);
    const at::Tensor scene = smooth.narrow(0, others, 1).repeat({repeats, 1, 1, 1});
    const at::Tensor noisy = scene + 2 * noise * (at::rand_like(scene) - 0.5);
    return (at::cat({smooth.narrow(0, 0, others), noisy}).clamp(0, 1) * 255).to(at::kByte);
  });
}

TEST(NearDuplicates, RepeatedMoreThanFiftyTimes_IsAGroup) {
  for (const std::int64_t repeats : {45, 51, 60, 200}) {
    for (const double noise : {0.0, 0.03}) {
      NearDuplicates duplicates(one_scene_repeated(400, repeats, noise));
      std::vector<std::int64_t> group = duplicates.group_of(400 + repeats / 2, 1000);
      std::ranges::sort(group);
      std::vector<std::int64_t> expected;
      for (std::int64_t i = 0; i < repeats; ++i) expected.push_back(400 + i);
      EXPECT_EQ(group, expected) << repeats << " images, noise " << noise;
      EXPECT_EQ(duplicates.group_of(7, 1000).size(), 1u);
    }
  }
}

TEST(NearDuplicates, TwoScenesOfManyImages_AreTwoGroups) {
  NearDuplicates duplicates(repeated_scenes(2, 500));  // in turns: 0, 1, 0, 1, …
  for (const std::int64_t image : {6, 7}) {
    std::vector<std::int64_t> group = duplicates.group_of(image, 1000);
    std::ranges::sort(group);
    std::vector<std::int64_t> expected;
    for (std::int64_t i = image % 2; i < 1000; i += 2) expected.push_back(i);
    EXPECT_EQ(group, expected);
  }
}

TEST(NearDuplicates, Copies_AreAGroup) {
  NearDuplicates duplicates(at::zeros({80, 1, 28, 28}, at::kByte));
  EXPECT_EQ(duplicates.group_of(5, 1000).size(), 80u);
  NearDuplicates alone(at::zeros({1, 1, 28, 28}, at::kByte));
  EXPECT_EQ(alone.group_of(0, 10), (std::vector<std::int64_t>{0}));
}

}  // namespace
}  // namespace refine::data
