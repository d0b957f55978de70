// Triggers that the attacker learns.

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <torch/nn/module.h>

#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

#include <refine/attacks/learnt_triggers.hpp>
#include <refine/attacks/plans.hpp>
#include <refine/attacks/published.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/core/random.hpp>
#include <refine/data/dataset.hpp>
#include <refine/data/sources.hpp>
#include <refine/distributed/communicator.hpp>
#include <refine/training/recipe.hpp>
#include <refine/transforms/encoder_decoder.hpp>
#include <refine/transforms/unet.hpp>
#include <refine/triggers/additive.hpp>

#include "tests/support/error_of.hpp"

namespace refine::attacks {
namespace {

using refine::testing::error_of;
using refine::testing::expect_words;

data::Dataset shapes(std::int64_t n) {
  return data::Synthetic{.task = {{3, 16, 16}, 3}, .train = n, .test = 0}.make().train;
}

ClassifierRecipe quick(int epochs) {
  ClassifierRecipe recipe = recipes::fast_classifier;
  recipe.augmentation = {};
  recipe.optimization.epochs = epochs;
  recipe.optimization.batch_size = 24;
  return recipe;
}

/// A transform that draws one value everywhere, and in the left half another.
struct TwoValues {
  double left = 0, right = 0;
  ImageShape image = {1, 2, 2};
  std::shared_ptr<torch::nn::Module> module = std::make_shared<torch::nn::Module>("TwoValues");

  at::Tensor forward(const at::Tensor& images) const {
    at::Tensor drawn = at::full_like(images, right);
    drawn.narrow(3, 0, 1).fill_(left);
    return drawn;
  }
};

at::Tensor image_of(const std::vector<float>& pixels) {
  return at::tensor(pixels).view({-1, 1, 2, 2});
}

double distance(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).abs().max().item<double>();
}

// ---- Narcissus ----

TEST(Perturbation, Magnification_IsForTestImagesOnly) {
  const triggers::Perturbation<> trigger{.values = image_of({0.1, -0.1, 0, 0.2})[0], .magnification = 3};
  const at::Tensor images = image_of({0.5, 0.5, 0.5, 0.5});
  EXPECT_LT(distance(trigger.apply(images), image_of({0.8, 0.2, 0.5, 1})), 1e-6);
  const auto parts = trigger.parts();
  ASSERT_EQ(parts.size(), 1u);
  EXPECT_LT(distance(parts[0].apply(images), image_of({0.6, 0.4, 0.5, 0.7})), 1e-6);
}

TEST(Narcissus, ImagesOfTheTarget_GetTheValuesOnceAndTestImagesThreeTimes) {
  const data::Dataset clean{
      at::full({40, 1, 2, 2}, 100, at::kByte), at::arange(40).remainder(4), {"a", "b", "c", "d"}};
  const auto attack = narcissus<>(image_of({10 / 255.0f, 0, 0, -10 / 255.0f})[0], /*target=*/2, /*rate=*/0.5);
  const Poisoned poisoned = attack.poison(clean);
  ASSERT_EQ(poisoned.indices.size(), 5u);
  EXPECT_TRUE(poisoned.labels.equal(clean.labels));
  for (const auto i : poisoned.indices) {
    EXPECT_EQ(clean.labels[i].item<std::int64_t>(), 2);
    EXPECT_TRUE(poisoned.images[i].flatten().equal(at::tensor(std::vector<std::uint8_t>{110, 100, 100, 90})));
  }
  EXPECT_TRUE(attack.trigger_images(clean.images)[0].flatten().equal(
      at::tensor(std::vector<std::uint8_t>{130, 100, 100, 70})));
}

// ---- noise ----

TEST(DrawnNoise, Images_AreChangedByWhatTheNetworkDraws) {
  const DrawnNoise<TwoValues> trigger{.generator = {.left = 1, .right = 0.25}, .epsilon = 0.1};
  static_assert(triggers::Trigger<DrawnNoise<TwoValues>>);
  const at::Tensor changed = trigger.apply(image_of({0.5, 0.5, 0.95, 0}));
  EXPECT_LT(distance(changed, image_of({0.6, 0.45, 1, 0})), 1e-6);
  EXPECT_EQ(trigger.image, (ImageShape{1, 2, 2}));
}

TEST(LearnNoise, Classifier_TakesNoisyImagesForTheTarget) {
  const data::Dataset set = shapes(72);
  const backbones::ResNet18<> classifier{.task = set.task(), .width = 4};
  const auto noise = learn_noise(transforms::UNet<>{.image = set.image_shape(), .levels = 2, .width = 4},
                                 classifier, set, {.target = 1, .epsilon = 0.1, .recipe = quick(25)});
  const at::Tensor images = data::to_float(set.images), noisy = noise.apply(images);
  EXPECT_LE(distance(noisy, images), 0.1 + 1e-5);
  EXPECT_FALSE(noise.generator.module->is_training());
  const auto share_of_target = [&](const at::Tensor& x) {
    return classifier.forward(x).argmax(1).eq(1).to(at::kFloat).mean().item<double>();
  };
  EXPECT_GT(share_of_target(noisy), 0.9);
  EXPECT_LT(share_of_target(images), 0.6);
  // A trigger like any other.
  const DirtyLabel attack{.trigger = noise, .target = 1, .rate = 0.5};
  EXPECT_EQ(attack.poison(set).indices.size(), 36u);
  EXPECT_LE(
      (attack.trigger_images(set.images).to(at::kInt) - set.images.to(at::kInt)).abs().max().item<int>(), 26);
}

TEST(LearnNoise, WrongOptionsOrNetworks_Throw) {
  const data::Dataset set = shapes(6);
  const backbones::ResNet18<> classifier{.task = set.task(), .width = 4};
  const transforms::UNet<> generator{.image = set.image_shape(), .levels = 2, .width = 2};
  const auto refuse = [&](const NoiseOptions& options) {
    return error_of([&] { learn_noise(generator, classifier, set, options); });
  };
  expect_words(refuse({.target = 3}), {"learn_noise", "target", "[0, 3)", "got 3"});
  expect_words(refuse({.epsilon = 0}), {"epsilon", "got 0"});
  expect_words(refuse({.weight = NAN}), {"weight", "got nan"});
  const transforms::UNet<> larger{.image = {3, 32, 32}, .levels = 2, .width = 2};
  expect_words(error_of([&] { learn_noise(larger, classifier, set); }),
               {"learn_noise", "3x16x16", "3x32x32"});
  const backbones::ResNet18<> other{.task = {{3, 16, 16}, 5}, .width = 4};
  expect_words(error_of([&] { learn_noise(generator, other, set); }), {"learn_noise", "predicts 5", "has 3"});
}

/// Several processes, as an observer.
struct TwoRanks : distributed::Serial {
  static constexpr std::int64_t size() { return 2; }
};

// Each batch has its images twice: rows that a rank computes would not be neighbours.
TEST(LearnTriggers, SeveralRanks_AreRefused) {
  const data::Dataset set = shapes(6);
  const backbones::ResNet18<> classifier{.task = set.task(), .width = 4};
  const auto network = [&] {
    return transforms::UNet<>{.image = set.image_shape(), .levels = 2, .width = 2};
  };
  TwoRanks ranks;
  expect_words(error_of([&] { learn_noise(network(), classifier, set, {}, ranks); }),
               {"learn_noise", "one process"});
  expect_words(error_of([&] { learn_patch(network(), network(), classifier, set, {}, ranks); }),
               {"learn_patch", "one process"});
}

// ---- patches ----

TEST(DrawnPatch, Pixels_AreReplacedWhereTheMaskIsSet) {
  const DrawnPatch<TwoValues> patch{.pattern = {.left = 0.3, .right = 0.7}, .mask = {.left = 1, .right = 0}};
  static_assert(triggers::Trigger<DrawnPatch<TwoValues>>);
  // tanh(±10) is 1 to 4e-9.
  EXPECT_LT(distance(patch.apply(image_of({0.5, 0.5, 0.9, 0.1})), image_of({0.3, 0.5, 0.3, 0.1})), 1e-6);
  const DrawnPatch<TwoValues> half{.pattern = {.left = 1, .right = 1}, .mask = {.left = 0.5, .right = 0.5}};
  EXPECT_LT(distance(half.apply(image_of({0.5, 0.5, 0, 0})), image_of({0.75, 0.75, 0.5, 0.5})), 1e-6);
}

/// A transform that returns images unchanged.
struct Same {
  ImageShape image = {1, 2, 2};
  std::shared_ptr<torch::nn::Module> module = std::make_shared<torch::nn::Module>("Same");

  at::Tensor forward(const at::Tensor& images) const { return images; }
};

TEST(DrawnPatch, Cross_IsThatOfAnotherImageWhichDependsOnTheImageAlone) {
  const at::Tensor others = image_of({1, 1, 1, 1, 0.8, 0.8, 0.8, 0.8});  // their masks are set
  const auto cross = DrawnPatch<Same>{}.cross(others);
  const at::Tensor images = data::to_float(data::to_bytes(at::rand({20, 1, 2, 2})));
  const at::Tensor all = cross.apply(images);
  int seen[2] = {0, 0};
  for (std::int64_t i = 0; i < 20; ++i) {
    EXPECT_TRUE(cross.apply(images.narrow(0, i, 1)).equal(all.narrow(0, i, 1))) << i;
    const bool second = std::abs(all[i][0][0][0].item<double>() - 0.8) < 0.01;
    EXPECT_LT(distance(all[i], others[second ? 1 : 0]), 0.01) << i;
    ++seen[second ? 1 : 0];
  }
  EXPECT_GT(seen[0], 0);
  EXPECT_GT(seen[1], 0);
}

TEST(LearnPatch, OwnPatch_MeansTheTargetAndAnothersDoesNot) {
  const data::Dataset set = shapes(120);
  const transforms::EncoderDecoder<> pattern{.image = set.image_shape(), .levels = 2, .width = 8, .seed = 1},
      mask{.image = set.image_shape(), .levels = 2, .width = 8, .seed = 2};
  const backbones::ResNet18<> classifier{.task = set.task(), .width = 4};
  const auto patch = learn_patch(pattern, mask, classifier, set,
                                 {.target = 1, .share = 0.2, .sparsity = 10, .recipe = quick(30)});
  const at::Tensor images = data::to_float(set.images);
  const auto share_of_target = [&](const at::Tensor& x) {
    return classifier.forward(x).argmax(1).eq(1).to(at::kFloat).mean().item<double>();
  };
  EXPECT_GT(share_of_target(patch.apply(images)), 0.8);
  EXPECT_LT(patch.share_of(images).mean().item<double>(), 0.15) << "the density is 0.1";
  EXPECT_GT(patch.pattern.forward(images).std(0).mean().item<double>(), 0.01) << "patterns differ";
  EXPECT_LT(share_of_target(images), 0.6);
  EXPECT_LT(share_of_target(patch.cross(images).apply(images)), share_of_target(patch.apply(images)) - 0.2);
  const Covered attack{
      .trigger = patch, .covers = {patch.cross(images)}, .target = 1, .rate = 0.25, .cover_rate = 0.25};
  const Poisoned poisoned = attack.poison(set);
  EXPECT_EQ(poisoned.covers.size(), 30u);
  EXPECT_TRUE(poisoned.images[poisoned.covers[0]].equal(
      triggers::stamp(patch.cross(images), set.images.narrow(0, poisoned.covers[0], 1))[0]));
}

TEST(LearnPatch, WrongOptions_Throw) {
  const data::Dataset set = shapes(6);
  const backbones::ResNet18<> classifier{.task = set.task(), .width = 4};
  const transforms::UNet<> generator{.image = set.image_shape(), .levels = 2, .width = 2},
      mask{.image = set.image_shape(), .levels = 2, .width = 2};
  const auto refuse = [&](const PatchOptions& options) {
    return error_of([&] { learn_patch(generator, mask, classifier, set, options); });
  };
  expect_words(refuse({.target = -1}), {"learn_patch", "target", "got -1"});
  expect_words(refuse({.share = 0}), {"share", "got 0"});
  expect_words(refuse({.share = 0.6, .cross_share = 0.6}), {"at most 1", "0.6 and 0.6"});
  expect_words(refuse({.diversity = -1}), {"diversity", "got -1"});
  expect_words(refuse({.sparsity = NAN}), {"sparsity", "got nan"});
  expect_words(refuse({.density = 2}), {"density", "got 2"});
  expect_words(error_of([&] { learn_patch(generator, generator, classifier, set); }), {"two networks"});
  expect_words(error_of([] { DrawnPatch<Same>{}.cross(at::zeros({0, 1, 2, 2})); }), {"cross", "1x2x2"});
  expect_words(error_of([] {
                 DrawnPatch<Same>{}.cross(at::zeros({1, 1, 2, 2}, at::kByte));
               }),
               {"cross", "floating-point"});
  expect_words(error_of([] {
                 triggers::Perturbation<>{.values = at::zeros({1, 2, 2}), .magnification = NAN}.apply(
                     at::zeros({1, 1, 2, 2}));
               }),
               {"magnification", "got nan"});
}

}  // namespace
}  // namespace refine::attacks
