// Transforms with an encoder, and the auxiliary head on a bottleneck.

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/data/sources.hpp>
#include <refine/nn/torch_random.hpp>
#include <refine/remaps/remaps.hpp>
#include <refine/training/training.hpp>
#include <refine/transforms/transforms.hpp>
#include <tests/training/task.hpp>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support/error_of.hpp"

namespace refine {
namespace {

using refine::testing::error_of;
using refine::testing::expect_words;

const data::Split& synthetic() {
  static const data::Split split = [] {
    use_threads(1);
    return data::Synthetic{.task = task, .train = 256, .test = 64}.make();
  }();
  return split;
}

using SmallVictim = backbones::ResNet18<task>;

/// Trained once, for all tests of this file.
const SmallVictim& small_victim() {
  static const SmallVictim trained =
      train_classifier(SmallVictim{.width = 4}, synthetic().train,
                       ClassifierRecipe{.optimization = {.optimizer = OptimizerKind::muon,
                                                         .lr = 0.05,
                                                         .weight_decay = 0,
                                                         .adam_lr = 0.01,
                                                         .schedule = Schedule::one_cycle,
                                                         .batch_size = 32,
                                                         .epochs = 4}});
  return trained;
}

/// The pixels, shrunk to 8×8, as features. Counts the images that it has seen.
struct Pixels {
  ImageShape image = {3, 8, 8};
  int features = 3 * 8 * 8;
  std::shared_ptr<torch::nn::Module> module = std::make_shared<torch::nn::Module>("Pixels");
  std::shared_ptr<std::int64_t> seen = std::make_shared<std::int64_t>(0);

  at::Tensor forward(const at::Tensor& images) const {
    *seen += images.size(0);
    return images.flatten(1);
  }
};

auto encoded_defense(const Pixels& pixels = {}, std::uint64_t seed = default_seed) {
  return Pipeline{transforms::Encoded<Pixels>{.image = task.image,
                                              .encoder = pixels,
                                              .decoder = {.features = pixels.features,
                                                          .image = {3, 24, 24},  // not the victim's size
                                                          .bottleneck = 16,
                                                          .width = 16,
                                                          .seed = seed}},
                  freeze(small_victim()), remaps::Derangement<task>{}};
}

Recipe encoded_recipe(int epochs) {
  Recipe recipe = recipes::encoded;
  recipe.optimization.epochs = epochs;
  recipe.optimization.batch_size = 32;
  return recipe;
}

std::string weights_of(const torch::nn::Module& module) {
  std::string all;
  for (const auto& tensors : {module.parameters(), module.buffers()}) {
    for (const at::Tensor& tensor : tensors) {
      const at::Tensor flat = tensor.detach().contiguous();
      all.append(static_cast<const char*>(flat.const_data_ptr()), flat.nbytes());
    }
  }
  return all;
}

template <typename Defense>
double agreement_of(const Defense& defense) {
  const c10::NoGradGuard no_grad;
  const at::Tensor test = data::to_float(synthetic().test.images, at::kCPU);
  return defense.forward(test)
      .argmax(1)
      .eq(defense.undefended(test).argmax(1))
      .to(at::kDouble)
      .mean()
      .template item<double>();
}

TEST(Fit, TransformWithAnEncoder_IsTrainedOnFeaturesThatAreComputedOnce) {
  const Pixels pixels;
  auto defense = encoded_defense(pixels);
  const std::string victim_before = weights_of(*defense.backbone().module);
  struct Notes {
    std::vector<std::string> notes;
    void on_note(std::string_view text) { notes.emplace_back(text); }
  } notes;
  History history;
  fit(defense, synthetic().train.images, encoded_recipe(12), history, notes);
  EXPECT_EQ(*pixels.seen, 256);
  EXPECT_GT(agreement_of(defense), 0.5);  // chance is 0.25
  EXPECT_LT(history.epochs.back().loss, history.epochs.front().loss);
  EXPECT_EQ(weights_of(*defense.backbone().module), victim_before);
  EXPECT_FALSE(defense.transform().module->is_training());
  ASSERT_EQ(notes.notes.size(), 1u);
  expect_words(notes.notes[0], {"256 images"});
  // The head is not part of the result.
  for (const auto& item : defense.transform().module->named_parameters())
    EXPECT_EQ(item.key().find("head"), std::string::npos) << item.key();
}

TEST(Fit, TransformWithAnEncoder_SeedDeterminesTheWeights) {
  const at::Tensor images = synthetic().train.images.narrow(0, 0, 64);
  const auto weights = [&](std::uint64_t seed, bool as_any) {
    auto defense = encoded_defense();
    Recipe recipe = encoded_recipe(1);
    recipe.seed = seed;
    if (as_any) {
      AnyPipeline any{defense.transform(), freeze(backbones::AnyBackbone(small_victim())), defense.remap()};
      fit(any, images, recipe);
    } else {
      fit(defense, images, recipe);
    }
    return weights_of(*defense.transform().decoder.module);
  };
  const std::string one = weights(1, false);
  EXPECT_EQ(weights(1, false), one);
  EXPECT_EQ(weights(1, true), one);
  EXPECT_NE(weights(2, false), one);
}

TEST(Fit, TransformWithAnEncoder_RefusesRecipesThatChangeImages) {
  auto defense = encoded_defense();
  const at::Tensor images = synthetic().train.images;
  expect_words(error_of([&] { fit(defense, images); }), {"encoder", "augmentation", "recipes::encoded"});
  Recipe recipe = encoded_recipe(1);
  recipe.teacher = TeacherInput::augmented;
  expect_words(error_of([&] { fit(defense, images, recipe); }), {"recipe.teacher", "original"});
  expect_words(error_of([&] { fit(defense, images.narrow(0, 0, 1), encoded_recipe(1)); }),
               {"too few", "got 1"});
  expect_words(error_of([&] {
                 Pipeline{defense.transform(),
                          freeze(backbones::Normalized{small_victim(), normalizations::cifar10}),
                          remaps::Derangement<task>{}, PixelDomain::reference};
               }),
               {"PixelDomain::reference", "encoder"});
}

TEST(Fit, StopWhileFeaturesAreComputed_EndsTheRun) {
  auto defense = encoded_defense();
  struct Stop {
    bool stop_requested() const { return true; }
  } stop;
  EXPECT_THROW(fit(defense, synthetic().train.images, encoded_recipe(1), stop), Stopped);
}

auto resized_defense() {
  return Pipeline{
      transforms::Resized<transforms::UNet<>>{.image = task.image,
                                              .inner = {.image = {3, 8, 8}, .levels = 2, .width = 4},
                                              .output_shape = {3, 24, 24}},
      freeze(small_victim()), remaps::Derangement<task>{}};
}

TEST(Fit, Resized_LearnsAndIsAskedAtTheDrawnSize) {
  auto defense = resized_defense();
  Recipe recipe = recipes::fast;
  recipe.optimization.epochs = 10;
  recipe.optimization.batch_size = 32;
  recipe.head_weight = 1;
  fit(defense, synthetic().train.images, recipe);
  EXPECT_GT(agreement_of(defense), 0.5);  // chance is 0.25
  EXPECT_EQ(defense.transformed(data::to_float(synthetic().test.images, at::kCPU)).size(2), 24);
}

TEST(Fit, HeadWeight_AddsAGradientAtTheBottleneckOnly) {
  // Without the objective, the head alone trains what is before the bottleneck, and nothing after it.
  struct Nothing {
    at::Tensor operator()(const at::Tensor& remapped, const at::Tensor&) const { return 0 * remapped.sum(); }
  };
  auto defense = encoded_defense();
  const auto decoder = defense.transform().decoder.module;
  const auto start = decoder->named_parameters()["start.weight"].clone();
  const auto reduce = decoder->named_parameters()["reduce.weight"].clone();
  Recipe recipe = encoded_recipe(1);
  recipe.optimization.optimizer = OptimizerKind::sgd;
  fit(defense, synthetic().train.images, Nothing{}, recipe);
  EXPECT_TRUE(decoder->named_parameters()["start.weight"].equal(start));
  EXPECT_FALSE(decoder->named_parameters()["reduce.weight"].equal(reduce));
  recipe.head_weight = -1;
  expect_words(error_of([&] { fit(defense, synthetic().train.images, recipe); }),
               {"recipe.head_weight", "-1"});
}

TEST(Fit, HeadWeightWithoutABottleneck_IsRefused) {
  struct Scaled {
    ImageShape image = task.image;
    std::shared_ptr<torch::nn::Conv2dImpl> module =
        std::make_shared<torch::nn::Conv2dImpl>(torch::nn::Conv2dOptions(3, 3, 1));
    at::Tensor forward(const at::Tensor& images) const { return module->forward(images).sigmoid(); }
  };
  Pipeline defense{Scaled{}, freeze(small_victim()), remaps::Derangement<task>{}};
  Recipe recipe = recipes::fast;
  recipe.head_weight = 1;
  expect_words(error_of([&] { fit(defense, synthetic().train.images, recipe); }),
               {"recipe.head_weight", "no bottleneck", "draw"});
}

}  // namespace
}  // namespace refine
