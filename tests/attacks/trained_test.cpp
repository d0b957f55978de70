#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <cmath>
#include <optional>
#include <refine/attacks/attacks.hpp>
#include <refine/backbones/resnet18.hpp>
#include <refine/core/seed.hpp>
#include <refine/data/augmentation.hpp>
#include <refine/data/synthetic.hpp>
#include <refine/training/batch_augmentation.hpp>
#include <refine/training/history.hpp>
#include <refine/training/train_classifier.hpp>
#include <refine/triggers/any_trigger.hpp>
#include <vector>
#include "tests/support/error_of.hpp"

namespace refine::attacks {
namespace {

using refine::testing::error_of;
using refine::testing::expect_words;

constexpr Task small = {ImageShape{3, 16, 16}, 5};
using Victim = backbones::ResNet18<small>;

const data::Dataset& clean() {
  static const data::Dataset set = data::Synthetic{.task = small, .train = 64, .test = 0}.make().train;
  return set;
}

ClassifierRecipe quick() {
  ClassifierRecipe recipe = recipes::fast_classifier;
  recipe.optimization.epochs = 1;
  recipe.optimization.batch_size = 32;
  return recipe;
}

/// The logits of a victim of this set, which tell one training from another.
template <typename Set>
at::Tensor trained_on(const Set& set) {
  return train_classifier(Victim{.width = 4}, set, quick()).forward(data::to_float(clean().images));
}

const data::Dataset& plain(const Poisoned& set) {
  return set;
}

TEST(Training, DoesWhatAnAttackAsksFor) {
  const Poisoned badnets = BadNets<small>{.target = 1, .rate = 0.5}.poison(clean());
  EXPECT_TRUE(trained_on(badnets).equal(trained_on(plain(badnets)))) << "nothing asked, nothing changed";
  const Poisoned physical = Physical<small>{.target = 1, .rate = 0.5}.poison(clean());
  EXPECT_TRUE(trained_on(plain(physical)).equal(trained_on(badnets)));
  EXPECT_FALSE(trained_on(physical).equal(trained_on(badnets)));
  EXPECT_TRUE(trained_on(physical).equal(trained_on(physical)));
  Poisoned turned = Batt<small>{.target = 1, .rate = 0.5}.poison(clean());
  EXPECT_FALSE(trained_on(turned).equal(trained_on(plain(turned))));
  turned.exempt.fill_(true);
  EXPECT_TRUE(trained_on(turned).equal(trained_on(plain(turned))));
}

/// By hand: the recipe's augmentation, then what is asked for, kept for the images that are not exempt.
TEST(Training, ChangesAfterTheRecipeAndLeavesTheExemptAlone) {
  data::TrainingSet set{clean(), {.rotation = 30, .brightness = 0.5}, clean().labels.eq(2)};
  const data::Augmentation recipe{.flip = true};
  const at::Tensor indices = at::arange(20, 52), images = data::to_float(clean().images.narrow(0, 20, 32));
  const at::Tensor out = refine::detail::BatchAugmentation(recipe, set, at::kCPU)(images, indices, 7, 3);
  const at::Tensor first = data::augment(images, recipe, derived_seed(7, "augmentation", 3)),
                   second = data::augment(first, set.augmentation, derived_seed(7, "asked augmentation", 3));
  for (std::int64_t i = 0; i < 32; ++i) {
    const bool exempt = clean().labels[20 + i].item<int>() == 2;
    EXPECT_TRUE(out[i].equal(exempt ? first[i] : second[i])) << i;
  }
  EXPECT_TRUE(refine::detail::BatchAugmentation(recipe)(images, indices, 7, 3).equal(first));
}

TEST(Training, RefusesWhatATrainingSetCannotAsk) {
  const auto line = [](data::TrainingSet set) {
    return error_of([&] { train_classifier(Victim{.width = 4}, set, quick()); });
  };
  expect_words(line({clean(), {.mix = 0.5}}), {"bad training set", "mix is 0.5"});
  expect_words(line({clean(), {.rotation = -5}}), {"rotation is -5"});
  expect_words(line({clean(), {}, clean().labels}), {"bad training set", "one bool an image", "64"});
  expect_words(line({clean(), {}, clean().labels.eq(1).narrow(0, 0, 9)}), {"one bool an image"});
}

/// Plans and triggers that no paper has put together.
TEST(Training, TakesAnyTriggerWithAnyPlan) {
  const Victim benign{.width = 4};
  const Pgd pgd{.model = benign, .steps = 2};
  const CleanLabel<triggers::Warp<small.image>> warped{.target = 1, .rate = 0.5, .perturbation = pgd};
  const Covered<triggers::Rotate<small.image>, triggers::AnyTrigger> turned{
      .poisons = {triggers::Rotate<small.image>{}, triggers::Blend<small.image>{}},
      .covers = {triggers::Rotate<small.image>{.degrees = -16}},
      .target = 1,
      .rate = 0.2};
  const DirtyLabel<triggers::Patches<small.image>, demands::physical> photographed{.target = 1};
  for (const AnyAttack& attack : {AnyAttack(warped), AnyAttack(turned), AnyAttack(photographed)}) {
    const Poisoned poisoned = attack.poison(clean());
    EXPECT_FALSE(poisoned.indices.empty());
    History history;
    const Victim victim = train_classifier(Victim{.width = 4}, poisoned, quick(), history);
    EXPECT_TRUE(std::isfinite(history.epochs.back().loss));
    EXPECT_EQ(victim.forward(data::to_float(attack.trigger_images(clean().images))).sizes(),
              (std::vector<std::int64_t>{64, 5}));
  }
}

// ---- The snippet of refine/attacks/README.md ----

TEST(Readme, PerturbsAgainstABenignModel) {
  constexpr Task task = small;
  const data::Dataset train = clean();
  const ClassifierRecipe recipe = quick();
  auto benign = train_classifier(Victim{.width = 4}, train, recipe);
  auto attack = LabelConsistent<task>{.target = 0, .perturbation = Pgd{.model = benign, .steps = 2}};
  auto victim = train_classifier(Victim{.width = 4}, attack.poison(train), recipe);
  EXPECT_FALSE(victim.module->is_training());
}

}  // namespace
}  // namespace refine::attacks
