#include <refine/metrics/metrics.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "tests/support/error_of.hpp"

namespace refine::metrics {
namespace {

using refine::testing::error_of;
using refine::testing::expect_words;

// Ten images of three classes, target 0, worked by hand:
//   image      0 1 2 | 3 4 5 6 | 7 8 9
//   truth      0 0 0 | 1 1 1 1 | 2 2 2
//   clean      0 0 1 | 1 1 1 0 | 2 2 1
//   triggered  0 0 0 | 0 0 1 0 | 2 0 2
const Predictions ten = {.truth = {0, 0, 0, 1, 1, 1, 1, 2, 2, 2},
                         .clean = {0, 0, 1, 1, 1, 1, 0, 2, 2, 1},
                         .triggered = {0, 0, 0, 0, 0, 1, 0, 2, 0, 2},
                         .classes = 3,
                         .target = 0};

TEST(ConfusionMatrix, HandWorkedCase_RowPerTrueClass) {
  ConfusionMatrix expected(3, 3);
  expected << 2, 1, 0,  //
      1, 3, 0,          //
      0, 1, 2;
  EXPECT_EQ(confusion_matrix(ten.truth, ten.clean, 3), expected);
}

TEST(AttackMetrics, HandWorkedCase_AllMetrics) {
  const AttackMetrics f = attack_metrics(ten);
  EXPECT_EQ(f.ba, (Proportion{7, 10}));
  EXPECT_EQ(f.asr, (Proportion{4, 7}));  // images 3, 4, 6, 8 of the seven that are not of class 0
  EXPECT_EQ(f.ra, (Proportion{3, 7}));   // images 5, 7, 9
  ASSERT_EQ(f.lifts.size(), 3u);
  EXPECT_EQ(f.lifts[0],
            (Lift{.cls = 0, .with_trigger = 4, .without_trigger = 1, .gained = 3, .lost = 0, .n = 7}));
  EXPECT_EQ(f.lifts[1],
            (Lift{.cls = 1, .with_trigger = 1, .without_trigger = 4, .gained = 0, .lost = 3, .n = 7}));
  EXPECT_EQ(f.lifts[2],
            (Lift{.cls = 2, .with_trigger = 2, .without_trigger = 2, .gained = 1, .lost = 1, .n = 7}));
  EXPECT_EQ(f.largest_lift, f.lifts[0]);
  EXPECT_DOUBLE_EQ(f.largest_lift.value(), 3.0 / 7);
}

TEST(Readme, AttackMetrics_AreThoseOfTheExample) {
  const auto f = refine::metrics::attack_metrics(
      {.truth = {0, 1, 1, 2}, .clean = {0, 1, 1, 1}, .triggered = {0, 0, 1, 0}, .classes = 3, .target = 0});
  EXPECT_EQ(f.asr, (Proportion{2, 3}));
  EXPECT_NEAR(f.asr.wilson().low, 0.208, 5e-4);
  EXPECT_NEAR(f.asr.wilson().high, 0.939, 5e-4);
  EXPECT_EQ(f.largest_lift.cls, 0);
}

TEST(AttackMetrics, NoTarget_AreOverAllImages) {
  Predictions p = ten;
  p.target.reset();
  const AttackMetrics f = attack_metrics(p);
  EXPECT_EQ(f.asr, (Proportion{0, 0}));
  EXPECT_TRUE(std::isnan(f.asr.value()));
  EXPECT_EQ(f.ra, (Proportion{6, 10}));
  EXPECT_EQ(f.lifts[0].n, 10);
  EXPECT_EQ(f.lifts[0].gained, 4);
}

// A permutation merely redirected the attack: target 0, perm[0] = 2, and all clean images are predicted
// correctly. Class 2 has few images, since they cannot add to its lift.
TEST(AttackMetrics, AttackRedirectedToAnotherClass_LargestLiftFindsIt) {
  Predictions p = {.classes = 4, .target = 0};
  const auto add = [&](int count, int truth, int triggered) {
    for (int i = 0; i < count; ++i) {
      p.truth.push_back(truth);
      p.clean.push_back(truth);
      p.triggered.push_back(triggered);
    }
  };
  add(50, 0, 2);                               // of the target class: left out
  add(75, 1, 2), add(3, 1, 0), add(22, 1, 1);  // 100 of class 1
  add(75, 3, 2), add(3, 3, 0), add(2, 3, 3);   // 80 of class 3
  add(20, 2, 2);                               // 20 of class 2
  const AttackMetrics f = attack_metrics(p);
  EXPECT_DOUBLE_EQ(f.asr.value(), 0.03);  // 6 of 200
  EXPECT_DOUBLE_EQ(f.ra.value(), 44.0 / 200);
  EXPECT_DOUBLE_EQ(f.lifts[0].value(), 0.03);
  EXPECT_EQ(f.largest_lift.cls, 2);
  EXPECT_DOUBLE_EQ(f.largest_lift.value(), 0.75);  // (170 - 20) / 200
  EXPECT_DOUBLE_EQ(f.lifts[1].value(), -78.0 / 200);
}

TEST(Lift, Interval_EqualsTheFormulaOfBonettAndPrice) {
  // n = 98, gained 9, lost 4: 10/100 and 5/100; 0.05 ± 1.959964 · sqrt((0.15 - 0.0025) / 100) = 0.05 ±
  // 0.0752739.
  const Lift lift = {.cls = 0, .with_trigger = 30, .without_trigger = 25, .gained = 9, .lost = 4, .n = 98};
  EXPECT_NEAR(lift.interval().low, -0.0252739, 1e-6);
  EXPECT_NEAR(lift.interval().high, 0.1252739, 1e-6);
  EXPECT_DOUBLE_EQ(lift.value(), 5.0 / 98);
}

TEST(Lift, IntervalAtExtremes_ContainsTheValue) {
  for (std::int64_t n : {1, 2, 10, 100, 9000, 1'000'000}) {
    const Lift all = {.with_trigger = n, .without_trigger = 0, .gained = n, .lost = 0, .n = n};
    EXPECT_LE(all.interval().low, 1.0);
    EXPECT_EQ(all.interval().high, 1.0);
    const Lift none = {.n = n};
    EXPECT_LT(none.interval().low, 0.0);
    EXPECT_GT(none.interval().high, 0.0);
    EXPECT_GE(none.interval().low, -1.0);
  }
  EXPECT_TRUE(std::isnan(Lift{}.value()));
  EXPECT_TRUE(std::isnan(Lift{}.interval().low));
}

TEST(LargestLift, EqualLifts_LowestClass) {
  EXPECT_EQ(
      largest_lift(
          {{.cls = 0, .n = 5}, {.cls = 1, .with_trigger = 2, .n = 5}, {.cls = 2, .with_trigger = 2, .n = 5}})
          .cls,
      1);
}

TEST(DefenseEffectiveness, HandWorkedCases_EqualTheDefinition) {
  AttackMetrics before, after;
  before.ba = {91, 100}, before.asr = {100, 100};
  after.ba = {90, 100}, after.asr = {1, 100};
  EXPECT_DOUBLE_EQ(defense_effectiveness(before, after), (0.99 - 0.01 + 1) / 2);
  after.ba = {95, 100};  // a gain of accuracy earns nothing
  EXPECT_DOUBLE_EQ(defense_effectiveness(before, after), (0.99 + 1) / 2);
  EXPECT_DOUBLE_EQ(defense_effectiveness(before, before), 0.5);
  EXPECT_DOUBLE_EQ(defense_effectiveness(after, before), (1 - 0.04) / 2);  // a worse ASR costs nothing either
  after.asr = {};
  EXPECT_TRUE(std::isnan(defense_effectiveness(before, after)));
}

TEST(AttackMetrics, InvalidLabels_Throws) {
  Predictions p = ten;
  p.clean.pop_back();
  expect_words(error_of([&] { attack_metrics(p); }),
               {"clean predictions", "got 9", "expected 10", "in the same order"});
  p = ten;
  p.triggered[4] = 3;
  expect_words(error_of([&] { attack_metrics(p); }),
               {"triggered predictions", "image 4", "got 3", "0 to 2", "check the number of classes"});
  p = ten;
  p.truth[0] = -1;
  expect_words(error_of([&] { attack_metrics(p); }), {"true labels", "image 0", "got -1"});
  p = ten;
  p.target = 3;
  expect_words(error_of([&] { attack_metrics(p); }), {"target", "got 3", "0 to 2"});
  expect_words(error_of([] { attack_metrics({}); }), {"number of classes", "at least 1", "got 0"});
}

TEST(AttackMetrics, NoImages_AreNaN) {
  const AttackMetrics f = attack_metrics({.classes = 2, .target = 1});
  EXPECT_TRUE(std::isnan(f.ba.value()) && std::isnan(f.asr.value()) && std::isnan(f.largest_lift.value()));
}

}  // namespace
}  // namespace refine::metrics
