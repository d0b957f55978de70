#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/roll.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <climits>
#include <cmath>
#include <map>
#include <refine/remaps/remaps.hpp>
#include <set>
#include <utility>
#include <vector>
#include "tests/support/error_of.hpp"

namespace refine::remaps {
namespace {

using refine::testing::error_of;
using refine::testing::expect_words;
using Names = std::vector<std::int64_t>;

/// N×classes, every value another.
at::Tensor logits(std::int64_t n, std::int64_t classes) {
  return at::arange(n * classes).to(at::kFloat).view({n, classes});
}

struct Given {
  int classes;
  Names permutation;
};

TEST(Derangement, AnyClasses_HasNoFixedPoint) {
  for (int classes = 2; classes <= 50; ++classes) {
    for (std::uint64_t seed = 0; seed < 60; ++seed) {
      const Names names = random_derangement(classes, seed);
      ASSERT_EQ(names.size(), static_cast<std::size_t>(classes));
      EXPECT_EQ(std::set<std::int64_t>(names.begin(), names.end()).size(), names.size());
      EXPECT_EQ(*std::ranges::min_element(names), 0);
      EXPECT_EQ(*std::ranges::max_element(names), classes - 1);
      for (int j = 0; j < classes; ++j) EXPECT_NE(names[static_cast<std::size_t>(j)], j);
    }
  }
}

TEST(Derangement, ManySeeds_IsUniform) {
  std::map<Names, int> drawn;
  for (std::uint64_t seed = 0; seed < 9000; ++seed) ++drawn[random_derangement(4, seed)];
  EXPECT_EQ(drawn.size(), 9u);  // 4!·(1 − 1 + 1/2 − 1/6 + 1/24)
  for (const auto& [names, count] : drawn)
    EXPECT_NEAR(count, 1000, 5 * std::sqrt(9000 * (1. / 9) * (8. / 9)));
}

TEST(Derangement, SameSeed_IsEqual) {
  EXPECT_EQ(Derangement<tasks::cifar10>{}.permutation, Derangement<>{.classes = 10}.permutation);
  EXPECT_EQ((Derangement<>{.classes = 50, .seed = 3}.permutation), random_derangement(50, 3));
  EXPECT_NE(random_derangement(50, 3), random_derangement(50, 4));
  static_assert(static_classes_of<Derangement<tasks::cifar10>>() == 10);
  static_assert(static_classes_of<Derangement<>>() == dynamic);
}

TEST(Derangement, FewerThanTwoClasses_Throws) {
  for (const int classes : {1, 0, dynamic}) {
    expect_words(
        error_of([&] { (void)Derangement<>{.classes = classes}; }),
        {"derangement: classes", "at least 2", "got " + std::to_string(classes), "renames every class"});
  }
}

TEST(Apply, Logits_MovesColumnJToPermutationJ) {
  const Given published{10, {5, 7, 0, 9, 3, 4, 8, 1, 6, 2}};  // the rule: Y[:, perm[j]] = logits[:, j]
  const at::Tensor before = logits(3, 10), after = apply(published, before);
  for (std::int64_t n = 0; n < 3; ++n) {
    for (std::int64_t j = 0; j < 10; ++j) {
      EXPECT_EQ(after[n][published.permutation[static_cast<std::size_t>(j)]].item<float>(),
                before[n][j].item<float>());
    }
  }
  // Read off by hand: what the victim calls 2 is called 0, 7 is called 1, 9 is called 2, …
  const float row[] = {2, 7, 9, 4, 5, 0, 8, 1, 6, 3};
  for (int k = 0; k < 10; ++k) EXPECT_EQ(after[0][k].item<float>(), row[k]);
}

TEST(Shift, AnyDistance_EqualsRoll) {
  const at::Tensor y = logits(4, 7);
  for (const int by : {1, 3, 0, -1, -9, 7, 23}) {
    EXPECT_TRUE(apply(Shift<>{.classes = 7, .by = by}, y).equal(at::roll(y, {by}, {1}))) << by;
  }
}

TEST(Shift, ExtremeDistance_DoesNotOverflow) {
  for (const int by : {INT_MAX, INT_MIN}) {
    const auto wide = static_cast<long long>(by);
    for (std::int64_t j = 0; j < 10; ++j) {
      EXPECT_EQ((Shift<>{.classes = 10, .by = by}.permutation[static_cast<std::size_t>(j)]),
                (((j + wide) % 10) + 10) % 10);
    }
  }
  expect_words(error_of([] { (void)Shift<>{}; }), {"Shift", "must be positive", "got -1", ".classes = 10"});
}

TEST(None, Logits_AreUnchanged) {
  const at::Tensor y = logits(2, 10);
  EXPECT_TRUE(apply(None<tasks::cifar10>{}, y).equal(y));
  EXPECT_EQ((None<>{.classes = 3}.permutation), (Names{0, 1, 2}));
  expect_words(error_of([] { (void)None<>{}; }), {"remap", "must be positive", "got -1", ".classes = 10"});
}

TEST(Undo, AfterApply_IsIdentity) {
  const at::Tensor y = logits(2, 10);
  const auto round_trips = [&](const Remap auto& remap) {
    return undo(remap, apply(remap, y)).equal(y) && apply(remap, undo(remap, y)).equal(y);
  };
  EXPECT_TRUE(round_trips(Derangement<tasks::cifar10>{}));
  EXPECT_TRUE(round_trips(Shift<tasks::cifar10>{.by = 3}));
  EXPECT_TRUE(round_trips(Given{10, {5, 7, 0, 9, 3, 4, 8, 1, 6, 2}}));
  EXPECT_FALSE(apply(Shift<tasks::cifar10>{}, apply(Shift<tasks::cifar10>{}, y)).equal(y));
}

TEST(Apply, LogitsOfOtherClasses_Throw) {
  const Shift<> shift{.classes = 10};
  for (const at::Tensor& y : {logits(2, 12), logits(2, 9), logits(1, 10).flatten()}) {
    expect_words(error_of([&] { apply(shift, y); }), {"remap", "N×10", "got"});
    expect_words(error_of([&] { undo(shift, y); }), {"remap", "N×10", "got"});
  }
}

TEST(NotABijection, Permutation_IsEmptyElseNamesTheClass) {
  EXPECT_TRUE(not_a_bijection({}).empty());
  EXPECT_TRUE(not_a_bijection({2, 0, 1}).empty());
  expect_words(std::string(not_a_bijection({2, 0, 2}).view()), {"class 2", "twice", "0 to 2"});
  expect_words(std::string(not_a_bijection({3, 0, 1}).view()), {"class 3", "out of range", "0 to 2"});
  expect_words(std::string(not_a_bijection({0, -1}).view()), {"class -1", "out of range", "0 to 1"});
  EXPECT_EQ(error_of([] { apply(Given{3, {3, 0, 1}}, logits(1, 3)); }), not_a_bijection({3, 0, 1}).view());
  EXPECT_EQ(error_of([] { undo(Given{3, {2, 0, 2}}, logits(1, 3)); }), not_a_bijection({2, 0, 2}).view());
}

TEST(AnyRemap, PermutationOrRemap_IsHeld) {
  const AnyRemap given(Names{2, 0, 1});
  EXPECT_EQ(given.classes, 3);
  EXPECT_EQ(given.permutation, (Names{2, 0, 1}));
  const AnyRemap shift = Shift<>{.classes = 4};
  EXPECT_EQ(shift.classes, 4);
  EXPECT_EQ(shift.permutation, (Names{1, 2, 3, 0}));
}

TEST(AnyRemap, NoPermutation_Throws) {
  expect_words(error_of([] { (void)AnyRemap(Names{2, 0, 2}); }), {"class 2", "twice", "0 to 2"});
  expect_words(error_of([] { (void)AnyRemap(Names{0, 2}); }), {"class 2", "out of range", "0 to 1"});
}

// ---- The snippet of refine/remaps/README.md ----

/// Classes swap their names in pairs: 0 ↔ 1, 2 ↔ 3, … An odd one at the end keeps its own.
struct Swap {
  int classes = 10;
  std::vector<std::int64_t> permutation = pairs(classes);

 private:
  static std::vector<std::int64_t> pairs(int classes) {
    std::vector<std::int64_t> names;
    for (int j = 0; j < classes; ++j) names.push_back((j ^ 1) < classes ? j ^ 1 : j);
    return names;
  }
};
static_assert(Remap<Swap>);

TEST(Readme, Swap_IsARemap) {
  EXPECT_EQ((Swap{.classes = 4}.permutation), (Names{1, 0, 3, 2}));
  const at::Tensor y = logits(2, 10);
  EXPECT_TRUE(apply(Swap{}, apply(Swap{}, y)).equal(y));
}

}  // namespace
}  // namespace refine::remaps
