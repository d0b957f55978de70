#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>
#include <tests/attacks/images.hpp>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <refine/attacks/attacks.hpp>
#include <refine/attacks/by_name.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/data/sources.hpp>
#include <refine/evaluation/evaluate.hpp>
#include <refine/report/verdict.hpp>
#include <refine/training/train_classifier.hpp>
#include <refine/triggers/patch.hpp>
#include <refine/triggers/rotate.hpp>
#include <refine/triggers/warp.hpp>
#include <set>
#include <string>
#include <vector>
#include "tests/support/error_of.hpp"

namespace refine::attacks {
namespace {

using refine::testing::error_of;
using refine::testing::expect_words;
using Patch = triggers::Patch<small.image>;

static_assert(Attack<AllToAll<Patch>> && Attack<SourceSpecific<Patch>>);

bool contains(const std::vector<std::int64_t>& positions, std::int64_t i) {
  return std::ranges::binary_search(positions, i);
}

TEST(AllToAll, Poison_StampsAndMovesLabelsToTheNextClass) {
  const data::Dataset set = clean(60);
  const at::Tensor images = set.images.clone(), labels = set.labels.clone();
  const AllToAll<Patch> attack{.rate = 0.25};
  const Poisoned poisoned = attack.poison(set);
  const at::Tensor stamped = attack.trigger_images(set.images);
  EXPECT_EQ(poisoned.indices.size(), 15u);
  for (std::int64_t i = 0; i < 60; ++i) {
    const bool is_poisoned = contains(poisoned.indices, i);
    const auto label = labels[i].item<std::int64_t>();
    EXPECT_TRUE(poisoned.images[i].equal(is_poisoned ? stamped[i] : images[i])) << i;
    EXPECT_EQ(poisoned.labels[i].item<std::int64_t>(), is_poisoned ? (label + 1) % 5 : label) << i;
  }
  EXPECT_TRUE(set.images.equal(images) && set.labels.equal(labels)) << "the source was changed";
}

TEST(AllToAll, Targets_ReplaceTheNextClass) {
  const data::Dataset set = clean(40);
  const AllToAll<Patch> attack{.targets = {4, 3, 2, 1, 0}, .rate = 1};
  EXPECT_TRUE(attack.poison(set).labels.equal(4 - set.labels));
  EXPECT_EQ(target_map(attack, 5), metrics::Target::of_classes({4, 3, 2, 1, 0}));
  EXPECT_FALSE(target_map(attack, 5).moves(2));
  EXPECT_EQ(target_map(AllToAll<Patch>{}, 3), metrics::Target::of_classes({1, 2, 0}));
  expect_words(error_of([&] {
                 AllToAll<Patch>{.targets = {1, 0}}.check(set);
               }),
               {"AllToAll.targets", "got 2", "expected 5"});
  expect_words(error_of([&] {
                 AllToAll<Patch>{.targets = {1, 2, 3, 4, 5}}.check(set);
               }),
               {"target", "0 to 4", "got 5"});
  expect_words(error_of([&] { AllToAll<Patch>{}.poison(set.first(4)); }), {"none of the 4", "class 4"});
  expect_words(error_of([&] { AllToAll<Patch>{.rate = 2}.check(set); }), {"rate", "got 2"});
}

TEST(SourceSpecific, Poison_RelabelsTheSourceAndCoversTheOthers) {
  const data::Dataset set = clean(100);  // 20 of each class
  const SourceSpecific<Patch> attack{.source = 3, .target = 1, .rate = 0.5, .cover_rate = 0.25};
  const Poisoned poisoned = attack.poison(set);
  const at::Tensor stamped = attack.trigger_images(set.images);
  EXPECT_EQ(poisoned.indices.size(), 10u);
  EXPECT_EQ(poisoned.covers.size(), 20u);
  std::set<std::int64_t> covered_classes;
  for (std::int64_t i = 0; i < 100; ++i) {
    const bool is_poisoned = contains(poisoned.indices, i), is_cover = contains(poisoned.covers, i);
    const auto label = set.labels[i].item<std::int64_t>();
    if (is_poisoned) {
      EXPECT_EQ(label, 3) << i;
    }
    if (is_cover) covered_classes.insert(label);
    EXPECT_TRUE(poisoned.images[i].equal(is_poisoned || is_cover ? stamped[i] : set.images[i])) << i;
    EXPECT_EQ(poisoned.labels[i].item<std::int64_t>(), is_poisoned ? 1 : label) << i;
  }
  EXPECT_FALSE(covered_classes.contains(3));
  EXPECT_TRUE(covered_classes.contains(1));
  EXPECT_EQ(target_map(attack, 5), metrics::Target::of_classes({{}, 1, {}, 1, {}}));
}

TEST(SourceSpecific, InvalidClassOrRate_Throws) {
  const data::Dataset set = clean(20);
  expect_words(error_of([&] { SourceSpecific<Patch>{.source = 2, .target = 2}.check(set); }),
               {"source and target", "different", "got 2 for both"});
  expect_words(error_of([&] { SourceSpecific<Patch>{.source = 5}.check(set); }),
               {"source", "0 to 4", "got 5"});
  expect_words(error_of([&] { SourceSpecific<Patch>{.target = -1}.check(set); }), {"target", "got -1"});
  expect_words(error_of([&] { SourceSpecific<Patch>{.cover_rate = 1.5}.check(set); }),
               {"cover_rate", "got 1.5"});
  expect_words(error_of([&] { SourceSpecific<Patch>{.source = 4}.poison(set.first(4)); }),
               {"source", "none of the 4", "class 4"});
}

TEST(ClassTargets, AnyTriggerAndAugmentation_Compose) {
  const data::Dataset set = clean(40);
  const AllToAll<triggers::Rotate<small.image>, training_augmentations::batt> turned{.rate = 0.5};
  const Poisoned poisoned = turned.poison(set);
  EXPECT_EQ(poisoned.augmentation, data::Augmentation{.rotation = 10});
  EXPECT_EQ(poisoned.no_flip_mask.sum().item<int>(), 20);
  const SourceSpecific<triggers::Rotate<small.image>, training_augmentations::batt> one{.source = 2};
  EXPECT_EQ(one.poison(set).no_augment_mask.sum().item<int>(), 4);  // the poisoned ones, not the covers
}

TEST(MultiTarget, Poison_EachTriggerHasItsTarget) {
  const data::Dataset set = clean(60);
  const MultiTarget<Patch> attack{
      .triggers = {{}, {.corner = triggers::Corner::top_left}}, .target = 4, .rate = 0.2};
  const Poisoned poisoned = attack.poison(set);
  ASSERT_EQ(poisoned.indices.size(), 12u);
  MultiTarget<Patch> second = attack;
  second.shown = 1;
  const at::Tensor stamped[] = {attack.trigger_images(set.images), second.trigger_images(set.images)};
  EXPECT_FALSE(stamped[0].equal(stamped[1]));
  std::size_t position = 0;
  for (std::int64_t i = 0; i < 60; ++i) {
    if (contains(poisoned.indices, i)) {
      const std::size_t k = position++ % 2;
      EXPECT_TRUE(poisoned.images[i].equal(stamped[k][i])) << i;
      EXPECT_EQ(poisoned.labels[i].item<std::int64_t>(), k == 0 ? 4 : 0) << i;  // 5 classes
    } else {
      EXPECT_TRUE(poisoned.images[i].equal(set.images[i]) && poisoned.labels[i].equal(set.labels[i])) << i;
    }
  }
  EXPECT_EQ(target_map(attack, 5), metrics::Target::of_classes({4, 4, 4, 4, 4}));
  EXPECT_EQ(target_map(second, 5), metrics::Target::of_classes({0, 0, 0, 0, 0}));
}

TEST(MultiTarget, InvalidFields_Throw) {
  const data::Dataset set = clean(20);
  expect_words(error_of([&] { MultiTarget<Patch>{}.check(set); }), {"shown", "got 0", "0 triggers"});
  expect_words(error_of([&] { MultiTarget<Patch>{.triggers = {{}}, .shown = 1}.trigger_images(set.images); }),
               {"shown", "got 1", "1 triggers"});
  expect_words(error_of([&] { MultiTarget<Patch>{.triggers = {{}}, .target = 5}.check(set); }),
               {"target", "0 to 4", "got 5"});
  for (const int target : {-1, 5}) {  // not reduced modulo the classes
    expect_words(error_of([&] { target_map(MultiTarget<Patch>{.triggers = {{}}, .target = target}, 5); }),
                 {"target", "0 to 4", "got " + std::to_string(target)});
  }
  expect_words(error_of([&] { MultiTarget<Patch>{.triggers = {{}}, .rate = 2}.check(set); }),
               {"rate", "got 2"});
}

TEST(ByName, AllToAllAndSourceSpecific_TakeTheirOptions) {
  const data::Dataset set = clean(50);
  const AttackOptions options{.image = small.image, .target = 2, .source = 4, .rate = 0.3, .seed = 9};
  EXPECT_EQ(target_map(by_name("all-to-all", options), 5), metrics::Target::of_classes({1, 2, 3, 4, 0}));
  EXPECT_EQ(target_map(by_name("SourceSpecific", options), 5),
            metrics::Target::of_classes({{}, {}, 2, {}, 2}));
  const Poisoned a = by_name("SourceSpecific", options).poison(set),
                 b = SourceSpecific<Patch>{.source = 4, .target = 2, .rate = 0.3, .seed = 9}.poison(set);
  EXPECT_TRUE(a.images.equal(b.images) && a.labels.equal(b.labels));
  EXPECT_EQ(a.covers, b.covers);
}

// ---- The example of refine/attacks/README.md ----

TEST(Readme, ClassTargets_TakeAnyTrigger) {
  constexpr Task task = small;
  const auto warped = AllToAll<triggers::Warp<task.image>>{.rate = 0.2};
  const auto one_class = SourceSpecific<triggers::Patch<task.image>>{.source = 3, .target = 1};
  const metrics::Target targets = target_map(warped, task.classes);  // 1, 2, …, 0
  EXPECT_EQ(targets, target_map(AllToAll<Patch>{}, 5));
  EXPECT_EQ(warped.poison(clean(40)).indices.size(), 8u);
  EXPECT_EQ(one_class.poison(clean(40)).indices.size(), 4u);  // half of eight
}

/// Trains a victim of the attack on drawn images, without a defense.
template <typename A>
metrics::AttackMetrics attacked(const A& attack) {
  static const data::Split split = data::Synthetic{.task = small, .train = 1000, .test = 500}.make();
  ClassifierRecipe recipe = recipes::fast_classifier;
  recipe.optimization.epochs = 10;
  recipe.optimization.batch_size = 50;
  recipe.augmentation = {};
  const auto victim =
      train_classifier(backbones::ResNet18<small>{.width = 8}, attack.poison(split.train), recipe);
  return evaluate(victim, split.test, attack);
}

/// Returns the verdict on an attack without a defense.
report::Verdict undefended_verdict(const metrics::AttackMetrics& figures) {
  return report::verdict({.before = figures, .after = figures});
}

TEST(AllToAll, TrainedVictim_MovesEveryClassUnseenByLifts) {
  const metrics::AttackMetrics figures = attacked(AllToAll<Patch>{.rate = 0.3});
  EXPECT_GE(figures.ba.value(), 0.95);
  EXPECT_GE(figures.asr.value(), 0.9);
  EXPECT_LE(figures.largest_lift.value(), 0.05);
  EXPECT_GE(figures.moved.value(), 0.9);
  EXPECT_GE(figures.largest_pair_lift.value(), 0.9);
  EXPECT_EQ(figures.largest_pair_lift.lift.cls, (figures.largest_pair_lift.truth + 1) % 5);
  EXPECT_EQ(metrics::pair_lifts_above(figures, 0.5).size(), 5u);
  EXPECT_EQ(undefended_verdict(figures).word(), "armed");
}

TEST(SourceSpecific, TrainedVictim_MovesOneClass) {
  const metrics::AttackMetrics figures =
      attacked(SourceSpecific<Patch>{.source = 3, .target = 1, .cover_rate = 0.3});
  EXPECT_GE(figures.ba.value(), 0.95);
  EXPECT_GE(figures.asr.value(), 0.9);
  EXPECT_EQ(figures.asr.n, 100);
  EXPECT_LE(figures.largest_lift.value(), 0.3);  // of 400 images, those 100
  EXPECT_EQ(figures.largest_pair_lift.truth, 3);
  EXPECT_EQ(figures.largest_pair_lift.lift.cls, 1);
  EXPECT_GE(figures.largest_pair_lift.value(), 0.9);
  EXPECT_EQ(metrics::pair_lifts_above(figures, 0.5).size(), 1u);
  EXPECT_EQ(undefended_verdict(figures).word(), "armed");
}

}  // namespace
}  // namespace refine::attacks
