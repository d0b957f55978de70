#include <refine/metrics/gated.hpp>

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <vector>

#include "tests/support/error_of.hpp"

namespace refine::metrics {
namespace {

using refine::testing::error_of;
using refine::testing::expect_words;

using Classes = std::vector<std::int64_t>;

// Four images of the classes 0 1 2 2. The trigger sends the victim to class 1.
const GatedAnswers four{
    .clean = {.victim = {0, 1, 2, 0}, .defended = {0, 2, 2, 2}, .scores = {0.0, 0.4, 0.1, 0.2}},
    .triggered =
        PairedAnswers{.victim = {1, 1, 1, 1}, .defended = {0, 1, 2, 1}, .scores = {0.9, 0.0, 0.15, 0.3}},
    .truth = {0, 1, 2, 2},
    .classes = 3,
    .target = 1};

TEST(PairedAnswers, Gated_TakesTheDefendedClassWhereTheScoreIsAboveTheThreshold) {
  EXPECT_EQ(four.clean.gated(1), (Classes{0, 1, 2, 0}));
  EXPECT_EQ(four.clean.gated(0.4), (Classes{0, 1, 2, 0})) << "a score that equals the threshold is none";
  EXPECT_EQ(four.clean.gated(0.2), (Classes{0, 2, 2, 0}));
  EXPECT_EQ(four.clean.gated(0.1), (Classes{0, 2, 2, 2}));
  EXPECT_EQ(four.clean.gated(-1), four.clean.defended);
  const PairedAnswers blank{
      .victim = {0}, .defended = {1}, .scores = {std::numeric_limits<double>::infinity()}};
  EXPECT_EQ(blank.gated(1), (Classes{1}));
  expect_words(error_of([] { PairedAnswers{.victim = {0}}.gated(0.5); }), {"PairedAnswers", "1, 0 and 0"});
}

TEST(GatedMetrics, AtAThreshold_AreThoseOfTheGatedAnswer) {
  // At 0.15, the alarm is raised by the second and the fourth clean image, and by the first and the
  // fourth triggered one. The gated answers are 0 2 2 2 and 0 1 1 1.
  const GatedMetrics gated = gated_metrics(four, 0.15);
  EXPECT_EQ(gated.threshold, 0.15);
  EXPECT_EQ(gated.alarms, (Proportion{2, 4}));
  EXPECT_EQ(gated.agreement, (Proportion{2, 4}));
  EXPECT_EQ(gated.metrics.ba, (Proportion{3, 4}));
  EXPECT_EQ(gated.metrics.asr, (Proportion{2, 3}));
  EXPECT_EQ(gated.metrics.ra, (Proportion{1, 3}));
  EXPECT_EQ(gated.metrics.largest_lift.cls, 1);
  EXPECT_EQ(gated.metrics.largest_lift.with_trigger, 2);
  EXPECT_EQ(gated.metrics.largest_pair_lift.truth, 2);
  EXPECT_EQ(victim_metrics(four).asr, (Proportion{3, 3}));
  EXPECT_EQ(victim_metrics(four).ba, (Proportion{3, 4}));
  EXPECT_EQ(defended_metrics(four).asr, (Proportion{1, 3}));
}

TEST(GatedMetrics, Curve_GoesFromTheVictimToTheDefense) {
  const std::vector<GatedPoint> curve = gated_metrics(four, 0.15).curve;
  ASSERT_EQ(curve.size(), 3u) << "of four images, 0, 2 and 4 can raise the alarm at these rates";
  EXPECT_EQ(curve[0].threshold, 0.4);
  EXPECT_EQ(curve[0].alarms.hits, 0);
  EXPECT_EQ(curve[0].ba, victim_metrics(four).ba);
  EXPECT_EQ(curve[1].alarms.hits, 2);
  EXPECT_EQ(curve[2].threshold, -1);
  EXPECT_EQ(curve[2].alarms.hits, 4);
  EXPECT_EQ(curve[2].asr, defended_metrics(four).asr);
  EXPECT_EQ(curve[2].largest_lift, defended_metrics(four).largest_lift);
  EXPECT_EQ(curve[2].largest_pair_lift, defended_metrics(four).largest_pair_lift);
}

TEST(GatedMetrics, InfiniteScore_AlwaysRaisesTheAlarm) {
  const GatedAnswers answers{.clean = {.victim = {0, 0},
                                       .defended = {1, 1},
                                       .scores = {std::numeric_limits<double>::infinity(), 0.2}},
                             .classes = 2};
  const GatedPoint first = gated_metrics(answers, 0.5).curve.front();
  EXPECT_EQ(first.threshold, 1);
  EXPECT_EQ(first.alarms, (Proportion{1, 2}));
}

TEST(GatedMetrics, WithoutLabels_HasAgreementOnly) {
  GatedAnswers unlabelled = four;
  unlabelled.truth = {};
  const GatedMetrics gated = gated_metrics(unlabelled, 0.3);
  EXPECT_EQ(gated.agreement, (Proportion{3, 4}));
  EXPECT_EQ(gated.metrics.classes, 0);
  EXPECT_EQ(gated.curve.back().agreement, (Proportion{2, 4}));
  EXPECT_EQ(gated.curve.back().ba.n, 0);
  unlabelled.truth = four.truth;
  unlabelled.triggered.reset();
  EXPECT_EQ(gated_metrics(unlabelled, 0.3).metrics.ba, (Proportion{2, 4}));
  EXPECT_EQ(gated_metrics(unlabelled, 0.3).metrics.triggered.size(), 0);
}

TEST(ShareEqual, DifferentLengths_Throw) {
  expect_words(error_of([] { share_equal(Classes{0, 1}, Classes{0}); }), {"share_equal", "2 and 1"});
}

TEST(ParseAnswer, NamesOfAnswers_AreReadBack) {
  for (const Answer answer : {Answer::defended, Answer::gated})
    EXPECT_EQ(parse_answer(to_text(answer)), answer);
  EXPECT_EQ(parse_answer("reject"), std::nullopt);
}

}  // namespace
}  // namespace refine::metrics
