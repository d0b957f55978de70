#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <gtest/gtest.h>
#include <tests/attacks/images.hpp>

#include <concepts>
#include <optional>
#include <refine/attacks/attacks.hpp>
#include <refine/attacks/by_name.hpp>
#include <refine/data/sources.hpp>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>
#include "tests/support/error_of.hpp"

namespace refine::attacks {
namespace {

using refine::testing::error_of;
using refine::testing::expect_words;

static_assert(Attack<AnyAttack> && std::copyable<AnyAttack>);
static_assert(Attack<Benign>);
static_assert(Attack<WaNet<>> && Attack<Batt<small>>);

// A member that would be ignored is an error, not a silent default.
struct WithTarget {
  int target = 0;
  Poisoned poison(const data::Dataset& set) const { return {{set}}; }
  at::Tensor trigger_images(const at::Tensor& images) const { return images; }
};
struct TargetOfIsNotConst : WithTarget {
  std::optional<int> target_of(int, int) { return 1; }
};
struct TargetOfTakesOne : WithTarget {
  int target_of(int) const { return 1; }
};
struct TargetOfReturnsText : WithTarget {
  std::string target_of(int, int) const { return "1"; }
};
struct GenericTargetOfIsNotConst : WithTarget {
  int target_of(auto, auto) { return 1; }
};
struct CheckIsNotConst : WithTarget {
  void check(const data::Dataset&) {}
};
struct CheckTakesLabels : WithTarget {
  void check(const data::Dataset&, const at::Tensor&) const {}
};
static_assert(Attack<WithTarget>);
static_assert(!Attack<TargetOfIsNotConst> && !Attack<TargetOfTakesOne> && !Attack<TargetOfReturnsText>);
static_assert(!Attack<GenericTargetOfIsNotConst> && !Attack<CheckIsNotConst> && !Attack<CheckTakesLabels>);

struct StaticTargetOf : WithTarget {
  static int target_of(int cls, int classes = 10) { return (cls + 1) % classes; }
};
struct OverloadedTargetOf : WithTarget {
  std::optional<int> target_of(int cls, int) const { return cls; }
  std::optional<int> target_of(const std::string&) { return 0; }
};
class PrivateHelpers : public WithTarget {
  void check() {}
  int target_of(double) { return 0; }
};
static_assert(Attack<StaticTargetOf> && Attack<OverloadedTargetOf> && Attack<PrivateHelpers>);

// A second attack would drop the augmentation that the first requires, and does not compile.
template <typename A, typename Set>
concept CanPoison = requires(const A& attack, const Set& set) {
  attack.poison(set);
};
static_assert(CanPoison<AnyAttack, data::Dataset> && !CanPoison<AnyAttack, Poisoned>);
static_assert(CanPoison<WaNet<>, data::Dataset> && !CanPoison<WaNet<>, data::TrainingSet>);
static_assert(CanPoison<Benign, data::Dataset> && !CanPoison<Benign, Poisoned>);
template <typename... Attacks>
constexpr bool each_poisons_clean_sets_only = ((CanPoison<Attacks, data::Dataset> &&
                                                !CanPoison<Attacks, data::TrainingSet> &&
                                                !CanPoison<Attacks, Poisoned>)&&...);
static_assert(each_poisons_clean_sets_only<DirtyLabel<triggers::Patch<>>, CleanLabel<triggers::Patch<>>,
                                           Covered<triggers::Patch<>>, AllToAll<triggers::Patch<>>,
                                           SourceSpecific<triggers::Patch<>>>);

void expect_equal(const Poisoned& a, const Poisoned& b) {
  EXPECT_TRUE(a.images.equal(b.images) && a.labels.equal(b.labels));
  EXPECT_EQ(a.indices, b.indices);
  EXPECT_EQ(a.covers, b.covers);
  EXPECT_EQ(a.augmentation, b.augmentation);
  EXPECT_EQ(a.no_augment_mask.defined(), b.no_augment_mask.defined());
  EXPECT_EQ(a.no_flip_mask.defined(), b.no_flip_mask.defined());
  EXPECT_EQ(a.classes, b.classes);
}

/// The smallest type that models Attack: it has no check.
struct Relabeller {
  std::optional<int> target = std::nullopt;
  int label = 0;

  Poisoned poison(const data::Dataset& set) const {
    Poisoned all{{set}};
    all.labels = at::full_like(set.labels, label);
    return all;
  }
  at::Tensor trigger_images(const at::Tensor& images) const { return images.flip({3}); }
};

TEST(AnyAttack, HeldAttack_BehavesAlike) {
  const data::Dataset set = clean(40);
  const BadNets<small> badnets{.target = 3, .rate = 0.25, .seed = 5};
  std::optional<AnyAttack> first = AnyAttack(badnets, "corner");
  const AnyAttack any = *first;
  first.reset();  // the copy remains valid
  EXPECT_EQ(any.name, "corner");
  EXPECT_EQ(any.target_of(0, 5), 3);
  expect_equal(any.poison(set), badnets.poison(set));
  EXPECT_TRUE(any.trigger_images(set.images).equal(badnets.trigger_images(set.images)));
  expect_words(error_of([&] { AnyAttack(BadNets<small>{.target = 5}).check(set); }),
               {"target", "class of the data", "0 to 4", "got 5"});

  AnyAttack other = Relabeller{.label = 2};
  EXPECT_EQ(other.target_of(0, 5), std::nullopt);
  EXPECT_NO_THROW(other.check(set));
  EXPECT_TRUE(other.poison(set).labels.eq(2).all().item<bool>());
  EXPECT_TRUE(other.trigger_images(set.images).equal(set.images.flip({3})));
  other = any;
  EXPECT_EQ(other.poison(set).indices.size(), 10u);
}

TEST(Benign, Poison_ChangesNothing) {
  const data::Dataset set = clean(10);
  const Poisoned poisoned = Benign{}.poison(set);
  EXPECT_TRUE(poisoned.images.equal(set.images) && poisoned.labels.equal(set.labels));
  EXPECT_TRUE(poisoned.indices.empty());
  EXPECT_TRUE(Benign{}.trigger_images(set.images).equal(set.images));
  EXPECT_EQ(Benign::target, std::nullopt);
  data::Dataset broken = set;
  broken.labels = set.labels.add(1);
  expect_words(error_of([&] { Benign{}.poison(broken); }), {"dataset.labels", "out of range"});
}

/// A classifier, for the attacks that need one.
at::Tensor first_pixels(const at::Tensor& images) {
  return images.flatten(1).narrow(1, 0, small.classes);
}

TEST(ByName, EachName_MakesItsAttack) {
  const data::Dataset set = clean(50);
  const AttackOptions options{
      .image = small.image, .target = 2, .rate = 0.3, .seed = 9, .benign = &first_pixels};
  const auto poisoned_by = [&](std::string_view name) { return by_name(name, options).poison(set); };
  expect_equal(poisoned_by("BadNets"), BadNets<small>{.target = 2, .rate = 0.3, .seed = 9}.poison(set));
  expect_equal(poisoned_by("blended"), Blended<small>{.target = 2, .rate = 0.3, .seed = 9}.poison(set));
  expect_equal(poisoned_by("WANET"), WaNet<small>{.target = 2, .rate = 0.3, .seed = 9}.poison(set));
  expect_equal(poisoned_by("batt"), Batt<small>{.target = 2, .rate = 0.3, .seed = 9}.poison(set));
  expect_equal(poisoned_by("physical"), Physical<small>{.target = 2, .rate = 0.3, .seed = 9}.poison(set));
  expect_equal(
      poisoned_by("label-consistent"),
      LabelConsistent<small>{.target = 2, .rate = 0.3, .seed = 9, .perturbation = Pgd{.model = &first_pixels}}
          .poison(set));
  expect_equal(poisoned_by("AdaptivePatch"),
               AdaptivePatch<small>{.target = 2, .rate = 0.3, .seed = 9}.poison(set));
  EXPECT_EQ(poisoned_by("adaptive").covers.size(), 30u) << "not twice as many as are poisoned";
  expect_equal(poisoned_by("adaptive-blend"),
               AdaptiveBlend<small>{.target = 2, .rate = 0.3, .seed = 9}.poison(set));
  expect_equal(poisoned_by("sig"), Sig<small>{.target = 2, .rate = 0.3, .seed = 9}.poison(set));
  expect_equal(poisoned_by("ftrojan"), FTrojan<small>{.target = 2, .rate = 0.3, .seed = 9}.poison(set));
  expect_equal(poisoned_by("bpp"), Bpp<small>{.target = 2, .rate = 0.3, .seed = 9}.poison(set));
  expect_equal(poisoned_by("benign"), Benign{}.poison(set));
  EXPECT_FALSE(target_map(by_name("benign", options), small.classes));
  EXPECT_EQ(by_name("LC", options).name, "LabelConsistent");
  EXPECT_EQ(by_name("Adaptive", options).name, "Adaptive-Patch");
  for (const auto name : names()) {
    const AnyAttack attack = by_name(name, options);
    EXPECT_EQ(attack.name, name);
    EXPECT_NO_THROW(attack.check(set));
    EXPECT_EQ(attack.trigger_images(set.images).equal(set.images), name == "Benign") << name;
    // No two attacks poison alike.
    const Poisoned poisoned = attack.poison(set);
    for (const auto other : names()) {
      const Poisoned another = by_name(other, options).poison(set);
      EXPECT_EQ(poisoned.images.equal(another.images) && poisoned.augmentation == another.augmentation,
                name == other)
          << name << ", " << other;
    }
  }
}

TEST(ByName, NoRate_UsesThePublishedOne) {
  const data::Dataset set = clean(500);
  for (const auto& [name, poisoned, covers] : {std::tuple{"BadNets", 50u, 0u},
                                               {"Blended", 50u, 0u},
                                               {"WaNet", 50u, 0u},
                                               {"BATT", 50u, 0u},
                                               {"Physical", 50u, 0u},
                                               {"LabelConsistent", 25u, 0u},
                                               {"Adaptive-Patch", 5u, 10u},
                                               {"Adaptive-Blend", 5u, 10u},
                                               {"SIG", 30u, 0u},
                                               {"FTrojan", 50u, 0u},
                                               {"BPP", 50u, 0u},
                                               {"MultiTarget", 50u, 0u},
                                               {"Benign", 0u, 0u}}) {
    const Poisoned all = by_name(name, {.image = small.image, .benign = &first_pixels}).poison(set);
    EXPECT_EQ(all.indices.size(), poisoned) << name;
    EXPECT_EQ(all.covers.size(), covers) << name;
  }
}

TEST(ByName, LabelConsistentWithoutModel_StampsButDoesNotPoison) {
  const data::Dataset set = clean(10);
  const AnyAttack attack = by_name("LabelConsistent", {.image = small.image});
  EXPECT_TRUE(attack.trigger_images(set.images).equal(BadNets<small>{}.trigger_images(set.images)));
  for (const auto& line : {error_of([&] { attack.check(set); }), error_of([&] { attack.poison(set); })})
    expect_words(line, {"Pgd.model", "not set", "train_classifier(backbone, train)", ".model"});
}

TEST(ByName, RateTooLargeForDefaultCoverRate_MessageExplainsTheDefault) {
  const data::Dataset set = clean(50);
  const auto line = [&](double rate) {
    return error_of([&] { by_name("Adaptive", {.image = small.image, .rate = rate}).check(set); });
  };
  EXPECT_EQ(line(1. / 3), "");
  expect_words(line(0.4), {"got 0.4 and 0.8", "twice the rate by default", "at most 1/3"});
  expect_words(line(0.6), {"got 0.6 and 1.2", "twice the rate by default", "at most 1/3"});
  expect_words(line(1.4), {"rate must be in [0, 1]", "got 1.4"});
}

TEST(ByName, DifferentSeeds_SameTrigger) {
  const data::Dataset set = clean(500);
  for (const auto name : names()) {
    const AnyAttack a = by_name(name, {.image = small.image, .seed = 1, .benign = &first_pixels}),
                    b = by_name(name, {.image = small.image, .seed = 2, .benign = &first_pixels});
    EXPECT_TRUE(a.trigger_images(set.images).equal(b.trigger_images(set.images))) << name;
    EXPECT_EQ(a.poison(set).indices == b.poison(set).indices, name == "Benign") << name;
  }
}

TEST(ByName, UnknownNameOrImageShape_Throws) {
  expect_words(
      error_of([] { by_name("badnet", {.image = small.image}); }),
      {"unknown name 'badnet'",
       "BadNets, Blended, WaNet, BATT, Physical, LabelConsistent, Adaptive-Patch, Adaptive-Blend, SIG, "
       "FTrojan, BPP, AllToAll, SourceSpecific, MultiTarget, Benign"});
  expect_words(error_of([] { by_name("", {.image = small.image}); }), {"unknown name ''"});
  expect_words(error_of([] { by_name("-", {.image = small.image}); }), {"unknown name '-'"});
  expect_words(error_of([] { by_name("BadNets"); }), {"?x?x?", "set .image"});
  expect_words(error_of([] { by_name("WaNet"); }), {"?x?x?", "set .image"});
}

// ---- The example of refine/attacks/README.md ----

TEST(Readme, AttackByName_PoisonsAndStamps) {
  const data::Dataset train = clean(40), test = clean(10);
  AnyAttack attack = by_name("wanet", {.image = train.image_shape(), .target = 2});
  Poisoned poisoned = attack.poison(train);
  at::Tensor triggered = attack.trigger_images(test.images);
  EXPECT_EQ(poisoned.indices.size(), 4u);
  EXPECT_EQ(triggered.sizes(), test.images.sizes());
}

}  // namespace
}  // namespace refine::attacks
