#include <refine/metrics/metrics.hpp>

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

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

TEST(ConfusionMatrix, InvalidPredictions_Throws) {
  const std::vector<std::int64_t> truth = {0, 1}, other = {0, 5}, few = {0};
  expect_words(error_of([&] { confusion_matrix(truth, other, 2); }), {"predictions", "image 1", "got 5"});
  expect_words(error_of([&] { confusion_matrix(truth, few, 2); }), {"predictions", "got 1", "expected 2"});
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
  Lift largest = f.lifts[0];
  largest.candidates = 3;
  EXPECT_EQ(f.largest_lift, largest);
  EXPECT_DOUBLE_EQ(f.largest_lift.value(), 3.0 / 7);
}

TEST(AttackMetrics, HandWorkedCase_MovedShareAndLargestPairLift) {
  const AttackMetrics f = attack_metrics(ten);
  EXPECT_EQ(f.moved, (Proportion{4, 7}));  // images 3, 4, 8, 9
  // Of the four images of class 1, three are predicted as 0 with the trigger, one without it, too. Of
  // the three of class 2, one is: 1/3 is less than 2/4.
  EXPECT_EQ(
      f.largest_pair_lift,
      (PairLift{.truth = 1,
                .lift = {.cls = 0, .with_trigger = 3, .without_trigger = 1, .gained = 2, .lost = 0, .n = 4},
                .pairs = 6}));
  EXPECT_DOUBLE_EQ(f.largest_pair_lift.value(), 0.5);
  ConfusionMatrix unchanged(3, 3);
  unchanged << 2, 0, 0,  //
      1, 1, 0,           //
      0, 0, 1;
  EXPECT_EQ(f.unchanged, unchanged);
}

/// Groups of images with the same class and predictions.
Predictions expand(const std::vector<std::array<int, 4>>& groups, int classes, Target target) {
  Predictions p{.classes = classes, .target = std::move(target)};
  for (const auto& [count, truth, clean, triggered] : groups) {
    p.truth.insert(p.truth.end(), static_cast<std::size_t>(count), truth);
    p.clean.insert(p.clean.end(), static_cast<std::size_t>(count), clean);
    p.triggered.insert(p.triggered.end(), static_cast<std::size_t>(count), triggered);
  }
  return p;
}

// Every image moves to the next class: no class is predicted more often than before.
TEST(AttackMetrics, AllToAll_OnlyPairsAndMovedShareSeeIt) {
  const AttackMetrics f = attack_metrics(expand(
      {{200, 0, 0, 1}, {200, 1, 1, 2}, {190, 2, 2, 0}, {10, 2, 2, 2}}, 3, Target::of_classes({1, 2, 0})));
  EXPECT_DOUBLE_EQ(f.largest_lift.value(), 10.0 / 600);  // at class 2, which keeps ten images
  EXPECT_EQ(f.asr, (Proportion{590, 600}));
  EXPECT_EQ(f.ra, (Proportion{10, 600}));
  EXPECT_EQ(f.moved, (Proportion{590, 600}));
  EXPECT_EQ(f.largest_pair_lift.truth, 0);  // as large as that of class 1
  EXPECT_EQ(f.largest_pair_lift.lift.cls, 1);
  EXPECT_DOUBLE_EQ(f.largest_pair_lift.value(), 1);
  EXPECT_GT(f.largest_pair_lift.interval().low, 0.9);
  ASSERT_EQ(pair_lifts_above(f, 0.5).size(), 3u);
  EXPECT_EQ(pair_lifts_above(f, 0.5).front(), f.largest_pair_lift);
  EXPECT_EQ(pair_lifts_above(f, 0.5).back(), pair_lift(f, 2, 0));
  EXPECT_EQ(pair_lift(f, 2, 0).lift, (Lift{.cls = 0, .with_trigger = 190, .gained = 190, .n = 200}));
  EXPECT_EQ(target_lift(f), (Lift{.with_trigger = 590, .gained = 590, .n = 600}));
  EXPECT_EQ(pair_lifts_above(f, 0.93).size(), 2u);  // 95 points of 200 images are not surely above 93
}

// The trigger moves class 1 to class 0 and does nothing else.
TEST(AttackMetrics, SourceSpecific_SuccessIsThatOfItsClass) {
  const AttackMetrics f =
      attack_metrics(expand({{100, 0, 0, 0}, {96, 1, 1, 0}, {4, 1, 1, 1}, {97, 2, 2, 2}, {3, 2, 2, 0}}, 3,
                            Target::of_classes({0, 0, {}})));
  EXPECT_EQ(f.asr, (Proportion{96, 100}));
  EXPECT_EQ(f.ra, (Proportion{4, 100}));
  EXPECT_EQ(f.moved, (Proportion{99, 200}));  // the images of class 0 are where the attacker wants them
  EXPECT_DOUBLE_EQ(f.largest_lift.value(), 99.0 / 200);
  EXPECT_EQ(f.largest_pair_lift.truth, 1);
  EXPECT_EQ(f.largest_pair_lift.lift.cls, 0);
  EXPECT_DOUBLE_EQ(f.largest_pair_lift.value(), 0.96);
  EXPECT_EQ(pair_lifts_above(f, 0.05).size(), 1u);
  EXPECT_EQ(target_lift(f), (Lift{.with_trigger = 96, .gained = 96, .n = 100}));
}

// Of ten images of class 1, three are predicted as the target without the trigger; one of them moves away.
TEST(TargetLift, OneTarget_IsTheLiftOfItsClass) {
  const auto groups =
      std::vector<std::array<int, 4>>{{50, 0, 0, 1}, {2, 1, 0, 0}, {1, 1, 0, 2}, {5, 1, 1, 0}, {2, 1, 1, 1}};
  const AttackMetrics f = attack_metrics(expand(groups, 3, 0));
  EXPECT_EQ(target_lift(f), (Lift{.with_trigger = 7, .without_trigger = 3, .gained = 5, .lost = 1, .n = 10}));
  EXPECT_EQ(target_lift(f).value(), f.lifts[0].value());
  EXPECT_EQ(target_lift(attack_metrics(expand(groups, 3, std::nullopt))).n, 0);
  EXPECT_EQ(target_lift(AttackMetrics{.classes = 3, .target = 0}).n, 0);
}

TEST(PairLift, ClassesWithoutImages_AreNoPairs) {
  const AttackMetrics f = attack_metrics(expand({{5, 2, 2, 1}, {5, 3, 3, 3}}, 4, std::nullopt));
  EXPECT_EQ(f.largest_pair_lift.pairs, 2 * 3);
  EXPECT_EQ(f.largest_pair_lift.truth, 2);
  EXPECT_EQ(f.largest_pair_lift.lift.cls, 1);
  const AttackMetrics one = attack_metrics(expand({{5, 0, 0, 0}}, 1, std::nullopt));
  EXPECT_EQ(one.largest_pair_lift, PairLift{});
  EXPECT_TRUE(std::isnan(one.largest_pair_lift.value()));
  EXPECT_TRUE(pair_lifts_above(one, 0).empty());
  EXPECT_EQ(pair_lift(one, 0, 0).lift.n, 0);
}

TEST(PairLift, ClassesOfDifferentSizes_ComparesShares) {
  const AttackMetrics f =
      attack_metrics(expand({{100, 0, 0, 1}, {900, 0, 0, 0}, {9, 1, 1, 0}, {1, 1, 1, 1}}, 2, std::nullopt));
  EXPECT_EQ(f.largest_pair_lift.truth, 1);  // 9 of 10, not 100 of 1,000
  EXPECT_DOUBLE_EQ(f.largest_pair_lift.value(), 0.9);
  ASSERT_EQ(pair_lifts_above(f, 0.01).size(), 2u);
  EXPECT_EQ(pair_lifts_above(f, 0.01).front().truth, 1);  // the largest lift first
}

TEST(PairLift, NothingChanges_IsZero) {
  const AttackMetrics f = attack_metrics(expand({{40, 0, 0, 0}, {9, 1, 0, 0}, {31, 1, 1, 1}}, 2, 0));
  EXPECT_EQ(f.largest_pair_lift.value(), 0);
  EXPECT_EQ(f.largest_pair_lift.truth, 0);
  EXPECT_EQ(f.largest_pair_lift.lift.cls, 1);
  EXPECT_EQ(f.moved, (Proportion{0, 40}));
}

TEST(PairLift, Interval_IsThatOfOneLiftAtTheCorrectedLevel) {
  const Lift lift = {.cls = 1, .with_trigger = 30, .without_trigger = 25, .gained = 9, .lost = 4, .n = 98};
  // One pair needs no correction. For 50, each may miss with 0.1 %: the quantile of 0.9995 is 3.2905.
  EXPECT_NEAR((PairLift{.lift = lift, .pairs = 1}.interval().low), lift.interval().low, 1e-12);
  const Interval of_50 = PairLift{.lift = lift, .pairs = 50}.interval();
  EXPECT_NEAR(of_50.low, 0.05 - 3.290527 * std::sqrt((0.15 - 0.0025) / 100), 1e-6);
  EXPECT_NEAR(of_50.high, 0.05 + 3.290527 * std::sqrt((0.15 - 0.0025) / 100), 1e-6);
}

TEST(Target, EachForm_SaysWhatItMoves) {
  EXPECT_FALSE(Target{});
  EXPECT_FALSE(Target{}.moves(0) || Target{}.is_at(0));
  const Target one = 2;
  EXPECT_TRUE(one && one.moves(0) && !one.moves(2) && one.is_at(2));
  EXPECT_EQ(one.single(), 2);
  const Target source = Target::of_classes({{}, 2, 2});
  EXPECT_TRUE(source && !source.moves(0) && source.moves(1) && !source.moves(2) && source.is_at(2));
  EXPECT_EQ(source.single(), std::nullopt);
  EXPECT_EQ(source.of(0), std::nullopt);
  EXPECT_EQ(Target::of_classes({2, 2, 2}), one);
  EXPECT_EQ(Target::of_classes({{}, {}}), Target{});
  EXPECT_NE(source, one);
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
  p.target = std::nullopt;
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
    EXPECT_LT(all.interval().low, 1.0);
    EXPECT_EQ(all.interval().high, 1.0);
    const Lift gone = {.with_trigger = 0, .without_trigger = n, .gained = 0, .lost = n, .n = n};
    EXPECT_EQ(gone.interval().low, -1.0);
    EXPECT_GT(gone.interval().high, -1.0);
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

TEST(LargestLift, Interval_IsThatOfOneLiftAtTheCorrectedLevel) {
  const Lift lift = {.cls = 1, .with_trigger = 30, .without_trigger = 20, .gained = 25, .lost = 15, .n = 400};
  std::vector<Lift> lifts(50, Lift{.n = 400});
  lifts[1] = lift;
  const Interval of_50 = largest_lift(lifts).interval();
  // Bonferroni: the normal quantile at 1 − 0.025 / 50.
  EXPECT_NEAR(of_50.low, lift.interval(3.290527).low, 1e-6);
  EXPECT_NEAR(of_50.high, lift.interval(3.290527).high, 1e-6);
  EXPECT_NEAR(lift.interval().low, lift.interval(1.959964).low, 1e-6) << "one that was not selected";

  lifts[0].n = 0;  // over no images
  EXPECT_EQ(max_lift_by_share(lifts).candidates, 49);
  EXPECT_EQ(max_lift_by_share({{.n = 0}}).candidates, 1);
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

TEST(DefenseEffectiveness, NoLabels_IsNaN) {
  AttackMetrics before, after;
  before.ba = after.ba = {9, 10};
  before.asr = {10, 10}, after.asr = {0, 10};
  forget_labels(before);
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
  p.target = Target::of_classes({1, 0});
  expect_words(error_of([&] { attack_metrics(p); }), {"targets", "got 2", "expected 3", "one per class"});
  p.target = Target::of_classes({1, 0, 7});
  expect_words(error_of([&] { attack_metrics(p); }), {"target", "got 7", "0 to 2"});
  expect_words(error_of([] { attack_metrics({}); }), {"number of classes", "at least 1", "got 0"});
}

TEST(AttackMetrics, NoImages_AreNaN) {
  const AttackMetrics f = attack_metrics({.classes = 2, .target = 1});
  EXPECT_TRUE(std::isnan(f.ba.value()) && std::isnan(f.asr.value()) && std::isnan(f.largest_lift.value()));
}

}  // namespace
}  // namespace refine::metrics
