#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <gtest/gtest.h>
#include <tests/attacks/images.hpp>

#include <cmath>
#include <refine/attacks/attacks.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/data/sources.hpp>
#include <refine/training/detail/loop.hpp>
#include <refine/training/observers.hpp>
#include <refine/training/train_classifier.hpp>
#include <refine/triggers/trigger.hpp>
#include <vector>

namespace refine::attacks {
namespace {

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

/// Returns the logits of a victim that was trained on this set. They differ from one training to another.
template <typename Set>
at::Tensor trained_on(const Set& set) {
  return train_classifier(Victim{.width = 4}, set, quick()).forward(data::to_float(clean().images));
}

/// The same images and labels without the training augmentation.
const data::Dataset& plain(const Poisoned& set) {
  return set;
}

TEST(TrainingAugmentation, AttacksThatRequireIt_ChangeTheTraining) {
  const Poisoned badnets = BadNets<small>{.target = 1, .rate = 0.5}.poison(clean());
  EXPECT_TRUE(trained_on(badnets).equal(trained_on(plain(badnets)))) << "BadNets requires nothing";
  const Poisoned physical = Physical<small>{.target = 1, .rate = 0.5}.poison(clean());
  EXPECT_TRUE(trained_on(plain(physical)).equal(trained_on(badnets)));
  EXPECT_FALSE(trained_on(physical).equal(trained_on(badnets)));
  EXPECT_TRUE(trained_on(physical).equal(trained_on(physical)));
  Poisoned turned = Batt<small>{.target = 1, .rate = 0.5}.poison(clean());
  EXPECT_FALSE(trained_on(turned).equal(trained_on(plain(turned))));
  turned.no_augment_mask.fill_(true);
  EXPECT_FALSE(trained_on(turned).equal(trained_on(plain(turned)))) << "poisoned images were flipped";
  turned.no_flip_mask.fill_(false);
  EXPECT_TRUE(trained_on(turned).equal(trained_on(plain(turned))));
}

/// The victim of BATT learns the rotated image, never its mirror image.
TEST(TrainingAugmentation, Batt_PoisonedImagesAreNeverFlipped) {
  const Poisoned turned = Batt<small>{.target = 1, .rate = 0.5}.poison(clean());
  const at::Tensor all = at::arange(64), images = data::to_float(turned.images), mirrors = images.flip({3});
  const refine::detail::BatchAugmentation augmented(recipes::paper_classifier.augmentation, turned, at::kCPU);
  for (std::int64_t step = 0; step < 20; ++step) {
    const at::Tensor seen = augmented(images, all, 7, step);
    for (const auto i : turned.indices) {
      ASSERT_TRUE(seen[i].equal(images[i])) << i;
      ASSERT_FALSE(seen[i].equal(mirrors[i])) << i;
    }
  }
}

/// Combinations of plans and triggers that no paper has.
TEST(Training, AnyTriggerWithAnyPlan_Trains) {
  const Victim benign{.width = 4};
  const Pgd pgd{.model = benign, .steps = 2};
  const CleanLabel<triggers::Warp<small.image>> warped{.target = 1, .rate = 0.5, .perturbation = pgd};
  const Covered<triggers::Rotate<small.image>, triggers::AnyTrigger> turned{
      .poisons = {triggers::Rotate<small.image>{}, triggers::Blend<small.image>{}},
      .covers = {triggers::Rotate<small.image>{.degrees = -16}},
      .target = 1,
      .rate = 0.2};
  const DirtyLabel<triggers::Patches<small.image>, training_augmentations::physical> photographed{.target =
                                                                                                      1};
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

// ---- The example of refine/attacks/README.md ----

TEST(Readme, LabelConsistent_PerturbsAgainstABenignModel) {
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
