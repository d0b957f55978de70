#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>
#include <tests/attacks/images.hpp>

#include <algorithm>
#include <functional>
#include <optional>
#include <refine/attacks/attacks.hpp>
#include <refine/data/sources.hpp>
#include <utility>
#include "tests/support/error_of.hpp"

namespace refine::attacks {
namespace {

using refine::testing::error_of;
using refine::testing::expect_words;

using Triggered = CleanLabel<triggers::Patch<smaller.image>>;

/// A classifier whose logit of class 2 is the brightness: perturbing an image of class 2 darkens every
/// pixel.
at::Tensor brightness(const at::Tensor& images) {
  at::Tensor logits = images.new_zeros({images.size(0), smaller.classes});
  logits.select(1, 2).add_(images.flatten(1).mean(1));
  return logits;
}

TEST(CleanLabel, Rate_IsTheShareOfTheTargetClassAndLabelsStay) {
  const data::Dataset set = clean<smaller>(103);  // 20 or 21 per class
  const at::Tensor images = set.images.clone();
  for (const auto& [rate, count] :
       {std::pair{0.25, 5}, std::pair{0., 0}, std::pair{0.1, 2}, std::pair{1., 21}}) {
    const Poisoned all =
        LabelConsistent<smaller>{.target = 2, .rate = rate, .perturbation = std::nullopt}.poison(set);
    EXPECT_EQ(all.indices.size(), static_cast<std::size_t>(count)) << rate;
    EXPECT_TRUE(all.labels.equal(set.labels));
    EXPECT_TRUE(std::ranges::is_sorted(all.indices, std::less_equal<>{}));
    const at::Tensor stamped = BadNets<smaller>{}.trigger_images(set.images);
    for (std::int64_t i = 0; i < 103; ++i) {
      const bool chosen = std::ranges::binary_search(all.indices, i);
      EXPECT_TRUE(all.images[i].equal(chosen ? stamped[i] : images[i])) << i;
      EXPECT_TRUE(!chosen || set.labels[i].item<int>() == 2) << i;
    }
  }
  EXPECT_TRUE(set.images.equal(images)) << "the source was changed";
}

TEST(CleanLabel, Poison_PerturbsAndThenStamps) {
  const data::Dataset set = clean<smaller>(60);
  const LabelConsistent<smaller> attack{.target = 2, .rate = 0.5, .perturbation = Pgd{.model = &brightness}};
  const Poisoned all = attack.poison(set);
  ASSERT_EQ(all.indices.size(), 6u);
  for (const auto i : all.indices) {  // 8 of 255 darker, except for the patch
    const at::Tensor darker = (set.images[i].to(at::kInt) - 8).clamp_min(0).to(at::kByte);
    EXPECT_TRUE(all.images[i].equal(attack.trigger_images(darker.unsqueeze(0))[0])) << i;
  }
}

TEST(CleanLabel, Seed_DeterminesTheChoice) {
  const data::Dataset set = clean<smaller>(200);
  const auto chosen = [&](std::uint64_t seed) {
    return Triggered{.seed = seed, .perturbation = std::nullopt}.poison(set).indices;
  };
  EXPECT_EQ(chosen(1), chosen(1));
  EXPECT_NE(chosen(1), chosen(2));
}

TEST(CleanLabel, InvalidField_ThrowsBeforeTheModelIsCalled) {
  const data::Dataset set = clean<smaller>(10);
  int calls = 0;
  const auto count = [&](const at::Tensor& images) {
    ++calls;
    return brightness(images);
  };
  const Pgd pgd{.model = count};
  expect_words(
      error_of([&] { LabelConsistent<smaller>{}.poison(set); }),
      {"Pgd.model", "not set", "train a model on clean images", "train_classifier(backbone, train)"});
  expect_words(
      error_of([&] { LabelConsistent<smaller>{.target = 4, .perturbation = pgd}.poison(set.first(4)); }),
      {"target", "none of the 4 training images", "class 4", "choose a class that has images"});
  expect_words(error_of([&] { LabelConsistent<smaller>{.target = 5, .perturbation = pgd}.poison(set); }),
               {"target", "got 5"});
  expect_words(error_of([&] { LabelConsistent<smaller>{.rate = 1.5, .perturbation = pgd}.poison(set); }),
               {"rate", "got 1.5"});
  expect_words(error_of([&] { LabelConsistent<tasks::cifar10>{.perturbation = pgd}.poison(set); }),
               {"3x32x32"});
  Pgd wild = pgd;
  wild.steps = 0;
  expect_words(error_of([&] { LabelConsistent<smaller>{.perturbation = wild}.poison(set); }),
               {"Pgd.steps", "got 0"});
  EXPECT_EQ(calls, 0);
}

}  // namespace
}  // namespace refine::attacks
