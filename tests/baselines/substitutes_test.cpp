// Substitutes, detectors, and the choice by name.

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/linear.h>

#include <cmath>
#include <cstddef>
#include <limits>
#include <memory>
#include <refine/attacks/attacks.hpp>
#include <refine/backbones/densenet.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/baselines/baselines.hpp>
#include <refine/baselines/by_name.hpp>
#include <refine/data/sources.hpp>
#include <refine/evaluation/alarm.hpp>
#include <refine/evaluation/evaluate.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/remaps/permutations.hpp>
#include <refine/training/train_classifier.hpp>
#include <refine/transforms/unet.hpp>
#include <vector>
#include "tests/support/error_of.hpp"

namespace refine::baselines {
namespace {

using refine::testing::error_of;
using refine::testing::expect_words;

/// A victim whose only feature is the brightness: class 1 above one half. Its logits are ±10·(m − ½).
struct Bright {
  static constexpr bool frozen = true;
  Task task = {{1, 2, 2}, 2};
  std::shared_ptr<torch::nn::Module> module = std::make_shared<torch::nn::Module>("Bright");

  at::Tensor forward(const at::Tensor& images) const {
    const at::Tensor difference = 10 * (images.mean({1, 2, 3}) - 0.5);
    return at::stack({-difference, difference}, 1);
  }
};

/// A classifier whose features are the pixels.
struct Pixels {
  Task task = {{1, 2, 2}, 2};
  std::shared_ptr<torch::nn::LinearImpl> module = std::make_shared<torch::nn::LinearImpl>(4, 2);

  at::Tensor forward(const at::Tensor& images) const { return module->forward(images.flatten(1)); }
};

/// Images whose class is decided by the first two pixels; the last two say nothing. The third is
/// bright, the last dark.
data::Dataset pixel_images() {
  at::Tensor images = at::zeros({64, 1, 2, 2}, at::kByte), labels = at::zeros({64}, at::kLong);
  for (int i = 0; i < 64; ++i) {
    labels[i] = i % 2;
    images[i][0][0][0] = i % 2 == 0 ? 200 + i % 5 : 20;
    images[i][0][0][1] = i % 2 == 0 ? 10 : 190 + i % 7;
    images[i][0][1][0] = 240 + i % 3;
    images[i][0][1][1] = i % 2;
  }
  return {images, labels, {"left", "right"}};
}

ClassifierRecipe quick(int epochs) {
  ClassifierRecipe recipe = fine_tuning;
  recipe.augmentation = {};
  recipe.optimization.epochs = epochs;
  recipe.optimization.batch_size = 16;
  return recipe;
}

TEST(Strip, Alarm_IsOneMinusTheMeanEntropy) {
  const at::Tensor overlays =
      at::tensor(std::vector<std::uint8_t>{0, 255}).view({2, 1, 1, 1}).expand({2, 1, 2, 2});
  const Strip detector{Bright{}, overlays.contiguous()};
  const at::Tensor scores = detector.alarm(at::full({1, 1, 2, 2}, 0.5));
  // The first overlay leaves both classes equally likely, the second makes the image white.
  const double p = 1 / (1 + std::exp(-10.0));
  const double entropy = (std::log(2.0) - p * std::log(p) - (1 - p) * std::log(1 - p)) / 2;
  EXPECT_NEAR(scores[0].item<double>(), 1 - entropy / std::log(2.0), 1e-5);
  expect_words(error_of([&] { Strip(Bright{}, at::zeros({0, 1, 2, 2}, at::kByte)); }), {"overlays"});
  expect_words(error_of([&] { Strip(Bright{}, at::zeros({1, 3, 2, 2}, at::kByte)); }), {"3x2x2", "1x2x2"});
}

TEST(ScaleUp, Alarm_IsTheShareOfEqualAnswers) {
  const ScaleUp detector{Bright{}, {2, 3, 4, 5}};
  const auto score = [&](double brightness) {
    return detector.alarm(at::full({1, 1, 2, 2}, brightness))[0].item<double>();
  };
  EXPECT_EQ(score(0.2), 0.25);  // 0.4 is dark, 0.6, 0.8 and 1 are bright
  EXPECT_EQ(score(0.9), 1);     // clamped to 1
  EXPECT_EQ(score(0), 1);
  EXPECT_EQ(ScaleUp{Bright{}}.alarm(at::full({3, 1, 2, 2}, 0.1)).sizes(), at::IntArrayRef({3}));
  expect_words(error_of([] { ScaleUp(Bright{}, {}); }), {"factors"});
  expect_words(error_of([] { ScaleUp(Bright{}, {1}); }), {"above 1", "got 1"});
}

/// A victim that answers the logits (a, b), with a = ln(first pixel) and b = ln(second pixel): −∞ for black.
struct Logarithms {
  static constexpr bool frozen = true;
  Task task = {{1, 1, 2}, 2};
  std::shared_ptr<torch::nn::Module> module = std::make_shared<torch::nn::Module>("Logarithms");

  at::Tensor forward(const at::Tensor& images) const { return images.flatten(1).log(); }
};

TEST(Detector, ImagesWhoseLogitsHaveNoSoftmax_RaiseTheAlarm) {
  at::Tensor images = at::full({3, 1, 1, 2}, 0.25);
  images[1][0][0][1] = 0;  // the second class is ruled out
  images[2].fill_(0);      // both are
  const auto strip = Strip{Logarithms{}, at::zeros({1, 1, 1, 2}, at::kByte)}.alarm(images);
  EXPECT_NEAR(strip[0].item<double>(), 0, 1e-6);  // two equal classes
  EXPECT_EQ(strip[1].item<double>(), 1);
  EXPECT_EQ(strip[2].item<double>(), std::numeric_limits<double>::infinity());
  const auto scale_up = ScaleUp{Logarithms{}, {2, 3}}.alarm(images);
  EXPECT_EQ(scale_up[0].item<double>(), 1);
  EXPECT_EQ(scale_up[1].item<double>(), 1);
  EXPECT_EQ(scale_up[2].item<double>(), std::numeric_limits<double>::infinity());
}

TEST(Detector, Answers_AreTheVictims) {
  const ScaleUp detector{Bright{}};
  static_assert(DefendedClassifier<decltype(detector)>);
  const at::Tensor images = at::rand({4, 1, 2, 2});
  EXPECT_TRUE(detector.forward(images).equal(Bright{}.forward(images)));
  EXPECT_TRUE(detector.transformed(images).equal(images));
  EXPECT_EQ(detector.task().classes, 2);
}

TEST(Distill, Student_AgreesWithTheVictim) {
  at::Tensor images = at::arange(0, 256, 4, at::kByte).view({64, 1, 1, 1}).expand({64, 1, 2, 2}).contiguous();
  Recipe recipe = recipes::fast;
  recipe.optimization.epochs = 40;
  recipe.optimization.batch_size = 16;
  recipe.optimization.adam_lr = 0.05;
  recipe.augmentation = {};
  const Pixels student = distill(Pixels{}, Bright{}, images, recipe);
  const Substitute defense{Bright{}, student};
  static_assert(DefendedClassifier<decltype(defense)>);
  EXPECT_GT(label_agreement(defense, images).value(), 0.9);
  EXPECT_LT(defense.alarm(data::to_float(images)).mean().item<double>(), 0.2);
  EXPECT_GT((Substitute{Bright{}, Pixels{}}.alarm(data::to_float(images)).mean().item<double>()), 0.2);
}

TEST(Distill, OtherTaskOrImages_Throw) {
  Pixels other;
  other.task.classes = 3;
  const at::Tensor images = at::zeros({2, 1, 2, 2}, at::kByte);
  expect_words(error_of([&] { distill(other, Bright{}, images); }), {"distill", "3 classes", "2 classes"});
  expect_words(error_of([&] {
                 distill(Pixels{}, Bright{}, at::zeros({2, 3, 2, 2}, at::kByte));
               }),
               {"images", "3x2x2"});
}

TEST(FineTune, Victim_StaysUnchanged) {
  const data::Dataset set = data::Synthetic{.task = {{3, 8, 8}, 3}, .train = 32, .test = 0}.make().train;
  const backbones::ResNet18<> victim{.task = set.task(), .width = 4};
  victim.module->eval();
  const at::Tensor answer = victim.forward(data::to_float(set.images)).detach().clone();
  const auto tuned = fine_tune(victim, set, quick(1));
  EXPECT_TRUE(victim.forward(data::to_float(set.images)).equal(answer));
  EXPECT_FALSE(tuned.forward(data::to_float(set.images)).equal(answer));
}

TEST(AttentionMap, Activations_BecomeTheSumOfTheirPowersOfLengthOne) {
  const at::Tensor activations = at::tensor(std::vector<float>{1, 0, 0, 2, 0, -2, 1, 0}).view({1, 2, 2, 2});
  const at::Tensor map = attention_map(activations, 2);  // 1, 4, 1, 4
  const at::Tensor expected = at::tensor(std::vector<float>{1, 4, 1, 4}).view({1, 4}) / std::sqrt(34.0);
  EXPECT_LT((map - expected).abs().max().item<float>(), 1e-6);
  EXPECT_EQ(attention_map(at::zeros({1, 2, 2, 2}), 2).abs().max().item<float>(), 0);
}

TEST(DistillAttention, Copy_HasTheAttentionOfTheFineTunedTeacher) {
  const data::Dataset set = data::Synthetic{.task = {{3, 16, 16}, 3}, .train = 48, .test = 0}.make().train;
  const backbones::ResNet18<> victim{.task = set.task(), .width = 4};
  victim.module->eval();
  const at::Tensor images = data::to_float(set.images), answer = victim.forward(images).detach().clone();
  ClassifierRecipe teacher = quick(4), recipe = quick(6);
  teacher.optimization.lr = 0.1;  // so that its attention differs from the victim's
  const auto maps_of = [&](const backbones::ResNet18<>& network) {
    std::vector<at::Tensor> maps;
    backbones::forward_stages(network, images, [&](int, const at::Tensor& output) {
      maps.push_back(attention_map(output, 2).detach());
      return output;
    });
    return maps;
  };
  const auto wanted = maps_of(fine_tune(victim, set, teacher));
  const auto distances_with = [&](double weight, int stages) {
    const auto copy = distill_attention(
        victim, set, {.weight = weight, .stages = stages, .teacher = teacher, .recipe = recipe});
    EXPECT_FALSE(copy.module->is_training());
    std::vector<double> distances;
    const auto maps = maps_of(copy);
    for (std::size_t i = 0; i < maps.size(); ++i)
      distances.push_back((maps[i] - wanted[i]).square().mean().item<double>());
    return distances;
  };
  const auto all = distances_with(1000, 3), last = distances_with(1000, 1), none = distances_with(0, 3);
  for (std::size_t stage = 1; stage < 4; ++stage) EXPECT_LT(all[stage], 0.8 * none[stage]) << stage;
  EXPECT_LT(last[3], 0.8 * none[3]);
  EXPECT_LT(all[1], last[1]) << "an earlier stage, only one of which compares it";
  EXPECT_TRUE(victim.forward(images).equal(answer)) << "the victim was changed";
}

TEST(DistillAttention, WrongOptionsOrNetwork_Throw) {
  const data::Dataset set = data::Synthetic{.task = {{3, 16, 16}, 3}, .train = 12, .test = 0}.make().train;
  const backbones::ResNet18<> victim{.task = set.task(), .width = 4};
  expect_words(error_of([&] { distill_attention(victim, set, {.power = 0}); }), {"power", "got 0"});
  expect_words(error_of([&] { distill_attention(victim, set, {.weight = -1}); }), {"weight", "got -1"});
  expect_words(error_of([&] { distill_attention(victim, set, {.stages = 0}); }), {"stages", "got 0"});
  expect_words(error_of([&] { distill_attention(victim, set, {.stages = 5}); }), {"got 4", "expected 5"});
  // Of a VGG at 32 pixels, all five have several positions; of a DenseNet-121, the last has one.
  const backbones::DenseNet121<> dense{.task = {{3, 32, 32}, 3}, .width = 4};
  dense.module->eval();
  EXPECT_EQ(detail::mapped_stages(dense, at::zeros({1, 3, 32, 32}), 2), (std::vector<int>{1, 2}));
  const Pixels pixels;
  expect_words(error_of([&] { distill_attention(pixels, pixel_images()); }), {"got 0", "fine_tune"});
  expect_words(error_of([&] { distill_attention(victim, pixel_images()); }), {"distill_attention", "1x2x2"});
  expect_words(error_of([&] { fine_tune(victim, pixel_images()); }), {"fine_tune:", "1x2x2"});
}

TEST(FinePrune, FeatureSums_AreThoseOfTheInputOfTheLastLayer) {
  const data::Dataset set = pixel_images();
  const Pixels network;
  const at::Tensor sums = detail::feature_sums(network, detail::last_linear(network), set.images, at::kCPU);
  EXPECT_LT((sums - data::to_float(set.images).flatten(1).sum(0)).abs().max().item<float>(), 1e-3);
}

TEST(FinePrune, DarkFeature_IsPrunedAndStaysPruned) {
  const data::Dataset set = pixel_images();
  const Pixels victim = train_classifier(Pixels{}, set, quick(50));
  const at::Tensor weights = victim.module->weight.detach().clone();
  const Pixels pruned = fine_prune(victim, set, {.max_drop = 0, .rounds = 4, .recipe = quick(3)});
  EXPECT_TRUE(victim.module->weight.equal(weights)) << "the victim was changed";
  EXPECT_TRUE(pruned.module->weight.select(1, 3).eq(0).all().item<bool>()) << "the last pixel is the darkest";
  EXPECT_TRUE(pruned.module->weight.select(1, 2).ne(0).any().item<bool>()) << "the third is the brightest";
  EXPECT_EQ(detail::accuracy_of(pruned, set, at::kCPU), 1);
  expect_words(error_of([&] { fine_prune(victim, set, {.max_drop = 2}); }), {"max_drop", "got 2"});
  expect_words(error_of([&] { fine_prune(victim, set, {.rounds = 0}); }), {"rounds", "got 0"});
}

TEST(Baselines, UnderNoGradGuard_AreTrainedAsWithoutAndInInferenceModeRefused) {
  const data::Dataset set = pixel_images();
  const Pixels victim = train_classifier(Pixels{}, set, quick(1)), fresh{};
  const auto students = [&] {
    const Pixels student =
        distill(nn::deep_copy(fresh), freeze(victim), set.images, {.optimization = {.epochs = 2}});
    return std::vector{student.module->weight.detach(),
                       fine_tune(victim, set, quick(2)).module->weight.detach(),
                       fine_prune(victim, set, {.recipe = quick(2)}).module->weight.detach()};
  };
  const std::vector<at::Tensor> expected = students();
  {
    const c10::NoGradGuard no_grad;
    const std::vector<at::Tensor> found = students();
    for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_TRUE(found[i].equal(expected[i])) << i;
  }
  const auto frozen = freeze(victim);
  const c10::InferenceMode inference;
  expect_words(error_of([&] { distill(fresh, frozen, set.images); }), {"distill", "InferenceMode"});
  expect_words(error_of([&] { fine_tune(victim, set, quick(1)); }), {"train_classifier", "InferenceMode"});
  expect_words(error_of([&] { fine_prune(victim, set); }), {"fine_prune", "InferenceMode"});
}

// ---- The example of refine/baselines/README.md ----

TEST(Readme, ShrinkPadAndDetector_AreMeasured) {
  constexpr Task task = {{3, 16, 16}, 3};
  const auto [train, test] = data::Synthetic{.task = task, .train = 12, .test = 12}.make();
  const auto victim = train_classifier(backbones::ResNet18<task>{.width = 4}, train, quick(1));
  const attacks::BadNets<task> attack{.target = 0};
  const auto frozen = freeze(victim);
  const auto padded = Pipeline{baselines::ShrinkPad<task.image>{}, frozen, remaps::None<task>{}};
  const Evaluation result = evaluate(padded, test, attack);
  EXPECT_EQ(result.after.ba.n, 12);
  const baselines::ScaleUp detector{frozen};
  const auto alarm = evaluate_alarm(detector, train.images, test.images, attack.trigger_images(test.images));
  EXPECT_EQ(alarm.auroc->clean, 12);
}

TEST(Baselines, EachName_IsADefense) {
  const data::Dataset set = data::Synthetic{.task = {{3, 16, 16}, 3}, .train = 24, .test = 0}.make().train;
  const auto network = [&] {
    return backbones::AnyBackbone(backbones::ResNet18<>{.task = set.task(), .width = 4});
  };
  const backbones::AnyBackbone victim = train_classifier(network(), set, quick(1));
  Recipe recipe = recipes::fast;
  recipe.optimization.epochs = 1;
  const attacks::BadNets<> attack{.trigger = {.image = set.image_shape()}};
  const AttentionOptions attention{.teacher = quick(1), .recipe = quick(1)};
  const PolarizerOptions polarizer{.recipe = quick(1)};
  for (const auto name : names()) {
    const transforms::UNet<> purifier{.image = set.image_shape(), .levels = 2, .width = 4};
    const AnyDefense defense = by_name(name, {.victim = victim,
                                              .fresh = network(),
                                              .images = set.images,
                                              .recipe = recipe,
                                              .labelled = set,
                                              .fine_tuning_recipe = quick(1),
                                              .attention = attention,
                                              .polarizer = polarizer,
                                              .purifier = purifier,
                                              .inversion = {.rounds = 1,
                                                            .first_epochs = 1,
                                                            .mask_epochs = 1,
                                                            .generator_epochs = 1,
                                                            .purifier_epochs = 1},
                                              .overlays = 2});
    const Evaluation result = evaluate(defense, set, attack);
    const bool same = result.before.ba == result.after.ba;
    if (kind_of(name) == BaselineKind::detector) {
      EXPECT_TRUE(same) << name;
    }
    EXPECT_EQ(alarm_scores(defense, set.images).size(), 24u) << name;
    EXPECT_EQ(defense.task().classes, 3) << name;
  }
}

TEST(Baselines, Names_IgnoreCaseAndHyphens) {
  EXPECT_EQ(canonical_name("scaleup"), "SCALE-UP");
  EXPECT_EQ(kind_of("fine_tuning"), BaselineKind::substitute);
  expect_words(error_of([] { canonical_name("magic"); }), {"magic", "ShrinkPad", "STRIP"});
  const BaselineOptions options{.victim = backbones::AnyBackbone(Bright{}),
                                .images = at::zeros({2, 1, 2, 2}, at::kByte)};
  expect_words(error_of([&] { by_name("Student", options); }), {"Student", ".fresh"});
  expect_words(error_of([&] { by_name("STRIP", options); }), {"overlays", "got 32", "2 images"});
  expect_words(error_of([&] { by_name("FineTuning", options); }), {"dataset.images"});
  expect_words(error_of([&] { by_name("BTI-DBF", options); }), {"BTI-DBF", ".purifier"});
  for (const auto name : names()) {
    if (!needs_labels(name) || name == "BTI-DBF") continue;
    expect_words(error_of([&] { by_name(name, options); }), {"dataset.images"});
  }
}

}  // namespace
}  // namespace refine::baselines
