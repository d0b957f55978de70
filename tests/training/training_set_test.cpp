#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <refine/backbones/resnet.hpp>
#include <refine/core/random.hpp>
#include <refine/data/augmentation.hpp>
#include <refine/data/sources.hpp>
#include <refine/data/training_set.hpp>
#include <refine/training/detail/loop.hpp>
#include <refine/training/train_classifier.hpp>
#include "tests/support/error_of.hpp"

namespace refine {
namespace {

using refine::testing::error_of;
using refine::testing::expect_words;

constexpr Task small = {ImageShape{3, 16, 16}, 5};

const data::Dataset& clean() {
  static const data::Dataset set = data::Synthetic{.task = small, .train = 64, .test = 0}.make().train;
  return set;
}

/// By hand: the recipe's augmentation, then the set's, which is dropped for exempt images.
TEST(BatchAugmentation, SetsAugmentation_FollowsTheRecipesExceptForExemptImages) {
  const data::TrainingSet set{clean(), {.rotation = 30, .brightness = 0.5}, clean().labels.eq(2)};
  const data::Augmentation recipe{.flip = true};
  const at::Tensor indices = at::arange(20, 52), images = data::to_float(clean().images.narrow(0, 20, 32));
  const at::Tensor out = detail::BatchAugmentation(recipe, set, at::kCPU)(images, indices, 7, 3);
  const at::Tensor first = data::augment(images, recipe, derived_seed(7, "augmentation", 3)),
                   second = data::augment(first, set.augmentation, derived_seed(7, "asked augmentation", 3));
  for (std::int64_t i = 0; i < 32; ++i) {
    const bool exempt = clean().labels[20 + i].item<int>() == 2;
    EXPECT_TRUE(out[i].equal(exempt ? first[i] : second[i])) << i;
  }
  EXPECT_TRUE(detail::BatchAugmentation(recipe)(images, indices, 7, 3).equal(first));
}

/// By hand: the recipe's crop, flipped or not. Images that must not be flipped get the crop
/// unflipped.
TEST(BatchAugmentation, NoFlipMask_KeepsCropsButNotFlips) {
  const data::TrainingSet set{clean(), {.brightness = 0.5}, clean().labels.eq(1), clean().labels.eq(2)};
  const data::Augmentation recipe{.flip = true, .crop_padding = 2};
  const at::Tensor indices = at::arange(20, 52), images = data::to_float(clean().images.narrow(0, 20, 32));
  const detail::BatchAugmentation with_mask(recipe, set, at::kCPU),
      without_mask(recipe, {clean(), set.augmentation, set.no_augment_mask}, at::kCPU);
  int kept_unflipped = 0;
  for (std::int64_t step = 0; step < 8; ++step) {
    const at::Tensor out = with_mask(images, indices, 7, step),
                     flipped = without_mask(images, indices, 7, step);
    const std::uint64_t set_seed = derived_seed(7, "asked augmentation", static_cast<std::uint64_t>(step));
    const at::Tensor crops =
        data::augment(data::augment(images, {.crop_padding = 2},
                                    derived_seed(7, "augmentation", static_cast<std::uint64_t>(step))),
                      set.augmentation, set_seed);
    for (std::int64_t i = 0; i < 32; ++i) {
      const bool stays = clean().labels[20 + i].item<int>() == 2;
      EXPECT_TRUE(out[i].equal(stays ? crops[i] : flipped[i])) << i;
      if (stays && flipped[i].equal(crops[i].flip({2}))) ++kept_unflipped;
    }
  }
  EXPECT_GT(kept_unflipped, 5) << "images that the recipe alone would have flipped";
}

TEST(BatchAugmentation, NoFlipMaskWithoutFlips_ChangesNothing) {
  const data::TrainingSet set{clean(), {}, {}, clean().labels.ge(0)};
  const data::Augmentation recipe{.crop_padding = 2};
  const at::Tensor indices = at::arange(64), images = data::to_float(clean().images);
  EXPECT_TRUE(detail::BatchAugmentation(recipe, set, at::kCPU)(images, indices, 7, 3)
                  .equal(data::augment(images, recipe, derived_seed(7, "augmentation", 3))));
}

TEST(TrainingSet, Parts_RequireTheSameOfTheSameImages) {
  const data::TrainingSet set{clean(), {.brightness = 0.5}, clean().labels.eq(1), clean().labels.eq(2)};
  const auto expect_part = [&](const data::TrainingSet& part, std::int64_t n) {
    EXPECT_EQ(part.size(), n);
    EXPECT_EQ(part.augmentation, set.augmentation);
    EXPECT_TRUE(part.no_augment_mask.equal(part.labels.eq(1)));
    EXPECT_TRUE(part.no_flip_mask.equal(part.labels.eq(2)));
    EXPECT_EQ(part.classes, set.classes);
    EXPECT_NO_THROW(part.validate());
  };
  expect_part(set.first(11), 11);
  EXPECT_TRUE(set.first(11).images.equal(clean().first(11).images));
  const at::Tensor some = at::arange(60, 3, -4);
  expect_part(set.select(some), some.size(0));
  EXPECT_TRUE(set.select(some).images.equal(clean().select(some).images));
  expect_part(set.sample(20, 5), 20);
  EXPECT_TRUE(set.sample(20, 5).images.equal(clean().sample(20, 5).images));
  EXPECT_THROW(set.first(65), Error);
  EXPECT_THROW(set.sample(65, 1), Error);

  const data::TrainingSet plain{clean(), {.rotation = 10}};
  EXPECT_EQ(plain.first(5).augmentation, plain.augmentation);
  EXPECT_FALSE(plain.sample(5, 1).no_augment_mask.defined());
  const data::Dataset images_alone = set.first(3);
  EXPECT_EQ(images_alone.size(), 3);
}

TEST(TrainingSet, BadAugmentationOrMask_IsRefused) {
  const auto line = [](const data::TrainingSet& set) {
    return error_of([&] { train_classifier(backbones::ResNet18<small>{.width = 4}, set); });
  };
  expect_words(line({clean(), {.mix = 0.5}}), {"training set", "mix", "0.5"});
  expect_words(line({clean(), {.rotation = -5}}), {"rotation", "-5"});
  expect_words(line({clean(), {}, clean().labels}),
               {"training set", "no_augment_mask", "one bool", "64"});
  expect_words(line({clean(), {}, clean().labels.eq(1).narrow(0, 0, 9)}), {"one bool"});
  expect_words(line({clean(), {}, {}, clean().labels}), {"no_flip_mask", "one bool", "64"});
}

}  // namespace
}  // namespace refine
