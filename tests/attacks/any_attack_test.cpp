#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <gtest/gtest.h>

#include <concepts>
#include <optional>
#include <refine/attacks/attacks.hpp>
#include <refine/data/synthetic.hpp>
#include <string>
#include <utility>
#include <vector>
#include "tests/support/error_of.hpp"

namespace refine::attacks {
namespace {

using refine::testing::error_of;
using refine::testing::expect_words;

constexpr Task small = {ImageShape{3, 12, 12}, 5};

data::Dataset clean(std::int64_t n) {
  return data::Synthetic{.task = small, .train = n, .test = 0}.make().train;
}

static_assert(Attack<AnyAttack> && std::copyable<AnyAttack>);
static_assert(Attack<Benign>);
static_assert(Attack<WaNet<>> && Attack<Batt<small>>);

void expect_equal(const Poisoned& a, const Poisoned& b) {
  EXPECT_TRUE(a.images.equal(b.images) && a.labels.equal(b.labels));
  EXPECT_EQ(a.indices, b.indices);
  EXPECT_EQ(a.classes, b.classes);
}

/// The least that an attack has: no check.
struct Renamer {
  std::optional<int> target = std::nullopt;
  int by = 0;

  Poisoned poison(const data::Dataset& set) const {
    Poisoned all{set, {}};
    all.labels = at::full_like(set.labels, by);
    return all;
  }
  at::Tensor trigger_images(const at::Tensor& images) const { return images.flip({3}); }
};

TEST(AnyAttack, DoesWhatTheAttackDoesThatItHolds) {
  const data::Dataset set = clean(40);
  const BadNets<small> badnets{.target = 3, .rate = 0.25, .seed = 5};
  std::optional<AnyAttack> first = AnyAttack(badnets, "corner");
  const AnyAttack any = *first;
  first.reset();  // the copy stands alone
  EXPECT_EQ(any.name, "corner");
  EXPECT_EQ(any.target, 3);
  expect_equal(any.poison(set), badnets.poison(set));
  EXPECT_TRUE(any.trigger_images(set.images).equal(badnets.trigger_images(set.images)));
  EXPECT_EQ(error_of([&] { AnyAttack(BadNets<small>{.target = 5}).check(set); }),
            "refine: target class 5 is none of the data's 5; say 0 to 4 [attack]");

  AnyAttack other = Renamer{.by = 2};
  EXPECT_EQ(other.target, std::nullopt);
  EXPECT_NO_THROW(other.check(set));
  EXPECT_TRUE(other.poison(set).labels.eq(2).all().item<bool>());
  EXPECT_TRUE(other.trigger_images(set.images).equal(set.images.flip({3})));
  other = any;
  EXPECT_EQ(other.poison(set).indices.size(), 10u);
}

TEST(Benign, LeavesEverythingAsItIs) {
  const data::Dataset set = clean(10);
  const Poisoned poisoned = Benign{}.poison(set);
  EXPECT_TRUE(poisoned.images.equal(set.images) && poisoned.labels.equal(set.labels));
  EXPECT_TRUE(poisoned.indices.empty());
  EXPECT_TRUE(Benign{}.trigger_images(set.images).equal(set.images));
  EXPECT_EQ(Benign::target, std::nullopt);
  data::Dataset broken = set;
  broken.labels = set.labels.add(1);
  expect_words(error_of([&] { Benign{}.poison(broken); }), {"bad dataset", "labels run from"});
}

TEST(ByName, MakesEachAttackOfTheCatalogue) {
  const data::Dataset set = clean(50);
  const AttackOptions options{.image = small.image, .target = 2, .rate = 0.3, .seed = 9};
  const auto made = [&](std::string_view name) { return by_name(name, options).poison(set); };
  expect_equal(made("BadNets"), BadNets<small>{.target = 2, .rate = 0.3, .seed = 9}.poison(set));
  expect_equal(made("blended"), Blended<small>{.target = 2, .rate = 0.3, .seed = 9}.poison(set));
  expect_equal(made("WANET"), WaNet<small>{.target = 2, .rate = 0.3, .seed = 9}.poison(set));
  expect_equal(made("batt"), Batt<small>{.target = 2, .rate = 0.3, .seed = 9}.poison(set));
  expect_equal(made("benign"), Benign{}.poison(set));
  EXPECT_EQ(by_name("benign", options).target, std::nullopt);
  for (const auto name : names()) {
    const AnyAttack attack = by_name(name, options);
    EXPECT_EQ(attack.name, name);
    EXPECT_NO_THROW(attack.check(set));
    // Each but the null attack shows on the images, and no two alike.
    const at::Tensor stamped = attack.trigger_images(set.images);
    for (const auto other : names()) {
      EXPECT_EQ(stamped.equal(by_name(other, options).trigger_images(set.images)), name == other) << other;
    }
  }
}

TEST(ByName, HasTheSameTriggerWhateverTheSeed) {
  const data::Dataset set = clean(50);
  for (const auto name : names()) {
    const AnyAttack a = by_name(name, {.image = small.image, .seed = 1}),
                    b = by_name(name, {.image = small.image, .seed = 2});
    EXPECT_TRUE(a.trigger_images(set.images).equal(b.trigger_images(set.images))) << name;
    EXPECT_EQ(a.poison(set).indices == b.poison(set).indices, name == "Benign") << name;
  }
}

TEST(ByName, RefusesWhatItDoesNotKnow) {
  EXPECT_EQ(error_of([] { by_name("badnet", {.image = small.image}); }),
            "refine: there is no attack badnet; say one of BadNets, Blended, WaNet, BATT, Benign [attack]");
  expect_words(error_of([] { by_name("", {.image = small.image}); }), {"there is no attack"});
  expect_words(error_of([] { by_name("BadNets"); }), {"?x?x?", "say .image"});
  expect_words(error_of([] { by_name("WaNet"); }), {"?x?x?", "say .image"});
}

// ---- The snippet of refine/attacks/README.md ----

TEST(Readme, MakesAnAttackByItsName) {
  const data::Dataset train = clean(40), test = clean(10);
  AnyAttack attack = by_name("wanet", {.image = train.image(), .target = 2});
  Poisoned poisoned = attack.poison(train);
  at::Tensor triggered = attack.trigger_images(test.images);
  EXPECT_EQ(poisoned.indices.size(), 4u);
  EXPECT_EQ(triggered.sizes(), test.images.sizes());
}

}  // namespace
}  // namespace refine::attacks
