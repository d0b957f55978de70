#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>
#include <tests/attacks/images.hpp>

#include <algorithm>
#include <cmath>
#include <functional>
#include <refine/attacks/attacks.hpp>
#include <refine/data/sources.hpp>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>
#include "tests/support/error_of.hpp"

namespace refine::attacks {
namespace {

using refine::testing::error_of;
using refine::testing::expect_words;

TEST(DirtyLabel, Rate_IsTheShareOfPoisonedImages) {
  const data::Dataset set = clean<smaller>(203);
  for (const auto& [rate, count] : {std::pair{0.1, 20}, std::pair{0.01, 2}, std::pair{0.5, 102},
                                    std::pair{0., 0}, std::pair{1., 203}}) {  // 20.3, 2.03, 101.5
    const Poisoned poisoned = BadNets<smaller>{.rate = rate}.poison(set);
    EXPECT_EQ(poisoned.indices.size(), static_cast<std::size_t>(count)) << rate;
    EXPECT_EQ(poisoned.size(), 203);
    EXPECT_EQ(poisoned.classes, set.classes);
    EXPECT_TRUE(std::ranges::is_sorted(poisoned.indices, std::less_equal<>{})) << "ascending, each once";
    EXPECT_TRUE(std::ranges::all_of(poisoned.indices, [](std::int64_t i) { return i >= 0 && i < 203; }));
    poisoned.validate();
  }
}

TEST(DirtyLabel, Poison_StampsAndRelabelsOnlyTheChosenImages) {
  const data::Dataset set = clean<smaller>(60);
  const at::Tensor images = set.images.clone(), labels = set.labels.clone();
  const Poisoned poisoned = BadNets<smaller>{.target = 3, .rate = 0.25}.poison(set);
  for (std::int64_t i = 0; i < 60; ++i) {
    at::Tensor expected = images[i].clone();
    std::int64_t label = labels[i].item<std::int64_t>();
    if (std::ranges::binary_search(poisoned.indices, i)) {
      label = 3;
      for (int y = 0; y < 3; ++y) {
        for (int x = 0; x < 3; ++x)
          expected.select(1, 9 + y).select(1, 9 + x).fill_((y + x) % 2 == 0 ? 255 : 0);
      }
    }
    EXPECT_TRUE(poisoned.images[i].equal(expected)) << i;
    EXPECT_EQ(poisoned.labels[i].item<std::int64_t>(), label) << i;
  }
  EXPECT_TRUE(set.images.equal(images) && set.labels.equal(labels)) << "the source was changed";
}

TEST(DirtyLabel, AnyRate_DoesNotChangeTheSource) {
  const data::Dataset set = clean<smaller>(20);
  const at::Tensor images = set.images.clone(), labels = set.labels.clone();
  const Poisoned none = Blended<smaller>{.rate = 0}.poison(set),
                 all = Blended<smaller>{.target = 4, .rate = 1}.poison(set);
  EXPECT_TRUE(none.images.equal(images) && none.labels.equal(labels));
  none.images.zero_();  // not a view of the source
  none.labels.zero_();
  EXPECT_TRUE(all.labels.eq(4).all().item<bool>());
  EXPECT_TRUE(set.images.equal(images) && set.labels.equal(labels));
}

TEST(DirtyLabel, Seed_DeterminesTheChoice) {
  const data::Dataset set = clean<smaller>(200);
  const auto chosen = [&](std::uint64_t seed) { return BadNets<smaller>{.seed = seed}.poison(set).indices; };
  EXPECT_EQ(chosen(1), chosen(1));
  EXPECT_NE(chosen(1), chosen(2));
  std::vector<int> counts(10);
  for (std::uint64_t seed = 0; seed < 1000; ++seed) {
    for (const auto i : BadNets<smaller>{.rate = 0.3, .seed = seed}.poison(set.first(10)).indices) {
      ++counts[static_cast<std::size_t>(i)];
    }
  }
  for (const int count : counts) EXPECT_NEAR(count, 300, 5 * std::sqrt(1000 * 0.3 * 0.7));
}

TEST(DirtyLabel, TriggerImages_SameStampAsInTraining) {
  const data::Dataset set = clean<smaller>(30);
  const auto attack = Blended<smaller>{.rate = 1};
  EXPECT_TRUE(attack.trigger_images(set.images).equal(attack.poison(set).images));
  // The formula in double: 0.9·v + 0.1·255·pattern, rounded, except for ties and the last digit of float.
  const at::Tensor exact = set.images.to(at::kDouble) * 0.9 + attack.trigger.pattern.to(at::kDouble) * 25.5;
  EXPECT_LE((attack.trigger_images(set.images).to(at::kDouble) - exact).abs().max().item<double>(), 0.5001);
}

TEST(DirtyLabel, InvalidTargetRateOrShape_Throws) {
  const data::Dataset set = clean<smaller>(10);
  expect_words(error_of([&] { BadNets<smaller>{.target = 5}.poison(set); }),
               {"target", "class of the data", "0 to 4", "got 5"});
  expect_words(error_of([&] { BadNets<smaller>{.target = -1}.check(set); }),
               {"target", "class of the data", "0 to 4", "got -1"});
  expect_words(error_of([&] { BadNets<smaller>{.rate = 1.5}.poison(set); }), {"rate", "[0, 1]", "got 1.5"});
  for (const double rate : {-0.1, std::nan("")})
    EXPECT_NE(error_of([&] { BadNets<smaller>{.rate = rate}.check(set); }), "");
  expect_words(error_of([&] { BadNets<tasks::cifar10>{}.poison(set); }),
               {"trigger", "got 3x12x12", "expected 3x32x32", "task of the data"});
}

TEST(DirtyLabel, TargetWithoutImagesOrInvalidPattern_Throws) {
  const data::Dataset set = clean<smaller>(4);  // labels 0 to 3 of 5
  expect_words(error_of([&] { BadNets<smaller>{.target = 4}.check(set); }),
               {"target", "none of the 4 training images", "class 4", "choose a class that has images"});
  BadNets<smaller> patch{.trigger = {.pattern = at::ones({3, 4, 4})}};
  expect_words(error_of([&] { patch.check(set); }), {"Patch.pattern"});
  Blended<smaller> blend{.trigger = {.pattern = at::ones({3, 4, 4})}};
  expect_words(error_of([&] { blend.check(set); }), {"Blend.pattern: wrong shape"});
  Physical<smaller> wild;
  wild.training_augmentation.augmentation.rotation = 200;
  expect_words(error_of([&] { wild.check(set); }), {"rotation", "200"});
  Physical<smaller> mixed;
  mixed.training_augmentation.augmentation.mix = 0.5;
  expect_words(error_of([&] { mixed.check(set); }), {"mix", "0.5"});
}

TEST(DirtyLabel, TriggerThatReturnsOtherImages_IsRefusedBeforeAnyWork) {
  struct Returns {
    std::function<at::Tensor(const at::Tensor&)> change;
    ImageShape image = smaller.image;
    at::Tensor apply(const at::Tensor& images) const { return change(images); }
  };
  const data::Dataset set = clean<smaller>(20);
  const auto of = [&](auto change) {
    return error_of([&] { DirtyLabel<Returns>{.trigger = {change}, .rate = 0}.poison(set); });
  };
  expect_words(of([](const at::Tensor& x) { return x[0]; }), {"apply", "shape"});
  expect_words(of([](const at::Tensor& x) { return x.slice(0, 0, 1); }), {"apply", "shape"});
  expect_words(of([](const at::Tensor& x) { return x.mean(); }), {"apply", "shape"});
  expect_words(of([](const at::Tensor& x) { return data::to_bytes(x); }), {"apply", "floating-point"});
  expect_words(of([](const at::Tensor& x) { return x * 255; }), {"apply", "[0, 1]"});
  expect_words(of([](const at::Tensor& x) { return x / 0; }), {"apply", "finite"});
  EXPECT_EQ(of([](const at::Tensor& x) { return x + 0.1; }), "");
}

TEST(DirtyLabel, TrainingAugmentation_ComesWithThePoisonedSet) {
  const data::Dataset set = clean<smaller>(40);
  const Poisoned plain = BadNets<smaller>{.target = 1}.poison(set),
                 camera = Physical<smaller>{.target = 1}.poison(set),
                 turned = Batt<smaller>{.target = 1, .rate = 0.25}.poison(set);
  EXPECT_EQ(plain.augmentation, data::Augmentation{});
  EXPECT_FALSE(plain.no_augment_mask.defined() || camera.no_augment_mask.defined());
  // As published: flip, brightness 0.1, ±10°, translate 0.1, scale 0.8–0.9; every image.
  EXPECT_EQ(camera.augmentation, (data::Augmentation{.flip = true,
                                                     .rotation = 10,
                                                     .translate = 0.1,
                                                     .scale_min = 0.8,
                                                     .scale_max = 0.9,
                                                     .brightness = 0.1}));
  // Training and test images of Physical are those of BadNets.
  EXPECT_TRUE(camera.images.equal(plain.images) && camera.labels.equal(plain.labels));
  EXPECT_TRUE(
      Physical<smaller>{}.trigger_images(set.images).equal(BadNets<smaller>{}.trigger_images(set.images)));
  // BATT: ±10°, clean images only.
  EXPECT_EQ(turned.augmentation, data::Augmentation{.rotation = 10});
  for (std::int64_t i = 0; i < 40; ++i)
    EXPECT_EQ(turned.no_augment_mask[i].item<bool>(), std::ranges::binary_search(turned.indices, i)) << i;
  EXPECT_TRUE(turned.no_flip_mask.equal(turned.no_augment_mask));
  EXPECT_FALSE(plain.no_flip_mask.defined() || camera.no_flip_mask.defined());
  turned.validate();
  const Poisoned ablation = Batt<smaller>{.training_augmentation = training_augmentations::none}.poison(set);
  EXPECT_EQ(ablation.augmentation, data::Augmentation{});
  EXPECT_FALSE(ablation.no_augment_mask.defined() || ablation.no_flip_mask.defined());
}

TEST(PublishedAttacks, EachOne_IsATriggerTimesAPlan) {
  static_assert(std::is_same_v<BadNets<smaller>, DirtyLabel<triggers::Patch<smaller.image>>>);
  static_assert(std::is_same_v<Blended<smaller>, DirtyLabel<triggers::Blend<smaller.image>>>);
  static_assert(std::is_same_v<WaNet<smaller>, DirtyLabel<triggers::Warp<smaller.image>>>);
  static_assert(std::is_same_v<Batt<smaller>,
                               DirtyLabel<triggers::Rotate<smaller.image>, training_augmentations::batt>>);
  static_assert(std::is_same_v<Physical<smaller>,
                               DirtyLabel<triggers::Patch<smaller.image>, training_augmentations::physical>>);
  static_assert(std::is_same_v<LabelConsistent<smaller>, CleanLabel<triggers::Patch<smaller.image>>>);
  static_assert(std::is_same_v<AdaptivePatch<smaller>, Covered<triggers::Patches<smaller.image>>>);
  static_assert(Attack<BadNets<>> && Attack<Blended<smaller>>);
  const BadNets<> dynamic_shape{.trigger = {.image = smaller.image}, .target = 1};
  const data::Dataset set = clean<smaller>(40);
  const Poisoned a = dynamic_shape.poison(set), b = BadNets<smaller>{.target = 1}.poison(set);
  EXPECT_TRUE(a.images.equal(b.images) && a.labels.equal(b.labels));
}

// ---- The example of refine/attacks/README.md ----

/// A custom trigger: turns the image upside down.
struct UpsideDown {
  ImageShape image = {};  // any

  at::Tensor apply(const at::Tensor& images) const { return images.flip({2}); }
};

using UpsideDownAttack = DirtyLabel<UpsideDown>;
static_assert(Attack<UpsideDownAttack>);

TEST(Readme, CustomTrigger_MakesAnAttack) {
  const data::Dataset set = clean<smaller>(40);
  const Poisoned poisoned = UpsideDownAttack{.target = 2, .rate = 0.5}.poison(set);
  EXPECT_EQ(poisoned.indices.size(), 20u);
  for (const auto i : poisoned.indices) {
    EXPECT_TRUE(poisoned.images[i].equal(set.images[i].flip({1})));
    EXPECT_EQ(poisoned.labels[i].item<int>(), 2);
  }
}

}  // namespace
}  // namespace refine::attacks
