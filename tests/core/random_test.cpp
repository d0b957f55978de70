#include <refine/core/random.hpp>

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <set>

namespace refine {
namespace {

TEST(DerivedSeed, OtherPurposeIndexOrSeed_Differs) {
  std::set<std::uint64_t> seeds;
  for (std::uint64_t seed : {0u, 1u, 666u}) {
    for (const char* purpose : {"", "derangement", "epoch", "epochs"}) {
      for (std::uint64_t index = 0; index < 50; ++index) seeds.insert(derived_seed(seed, purpose, index));
    }
  }
  EXPECT_EQ(seeds.size(), 3u * 4u * 50u);
}

TEST(DerivedSeed, Constexpr_IsAConstant) {
  static_assert(derived_seed(666, "epoch", 3) == derived_seed(666, "epoch", 3));
  static_assert(derived_seed(1, "x", 2) != derived_seed(2, "x", 1));
}

TEST(Random, TenThousandthDraw_IsTheStandards) {
  Random random;  // [rand.predef]: the 10000th draw of a default mt19937_64
  random.discard(9999);
  EXPECT_EQ(random(), 9981545732273789042u);
}

TEST(UniformBelow, ManyDraws_AreBelowAndUniform) {
  Random random(1);
  std::array<int, 7> counts{};
  for (int i = 0; i < 70000; ++i) ++counts.at(uniform_below(random, 7));
  for (int count : counts) EXPECT_NEAR(count, 10000, 500);  // five standard deviations: 5 * 92.6
  EXPECT_EQ(uniform_below(random, 1), 0u);
}

TEST(UniformUnit, OneDraw_IsItsUpperBits) {
  Random random(3), same(3);
  double sum = 0;
  for (int i = 0; i < 12000; ++i) {
    const double value = uniform_unit(random);
    ASSERT_EQ(value, std::ldexp(static_cast<double>(same() / 2048), -53));
    ASSERT_TRUE(value >= 0 && value < 1);
    sum += value;
  }
  EXPECT_NEAR(sum, 6000, 5 * std::sqrt(12000 / 12.));
}

TEST(RandomPermutation, ManyDraws_AreUniform) {
  Random random(2);
  std::array<int, 6> orders{};
  for (int i = 0; i < 6000; ++i) {
    const auto order = random_permutation(random, 3);
    ASSERT_EQ((std::set<std::int64_t>(order.begin(), order.end())), (std::set<std::int64_t>{0, 1, 2}));
    ++orders.at(static_cast<std::size_t>(2 * order[0] + (order[1] > order[2])));
  }
  for (int count : orders) EXPECT_NEAR(count, 1000, 150);
  EXPECT_TRUE(random_permutation(random, 0).empty());
}

TEST(RandomPermutation, SameSeed_IsEqual) {
  Random a(666), b(666);
  EXPECT_EQ(random_permutation(a, 100), random_permutation(b, 100));
}

}  // namespace
}  // namespace refine
