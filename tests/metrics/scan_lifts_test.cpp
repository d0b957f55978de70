#include <refine/metrics/lift.hpp>

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "tests/support/error_of.hpp"

namespace refine::metrics {
namespace {

using Classes = std::vector<std::int64_t>;

// Six images of three classes, worked by hand:
//   victim, clean     0 0 1 1 2 2
//   defended, clean   0 1 1 1 2 0
//   with the trigger  1 1 1 0 0 0
const Classes victim = {0, 0, 1, 1, 2, 2};
const Classes defended = {0, 1, 1, 1, 2, 0};
const Classes triggered = {1, 1, 1, 0, 0, 0};

TEST(ScanLifts, Victim_HandWorkedCase) {
  const std::vector<Lift> lifts = scan_lifts(victim, victim, triggered, 3);
  ASSERT_EQ(lifts.size(), 3u);
  // Class 0, over images 2 to 5: three are predicted as 0 with the trigger, none without.
  EXPECT_EQ(lifts[0], (Lift{.cls = 0, .with_trigger = 3, .gained = 3, .n = 4}));
  EXPECT_EQ(lifts[1], (Lift{.cls = 1, .with_trigger = 2, .gained = 2, .n = 4}));
  EXPECT_EQ(lifts[2], (Lift{.cls = 2, .n = 4}));
  EXPECT_DOUBLE_EQ(max_lift_by_share(lifts).value(), 0.75);
}

TEST(ScanLifts, ManyClasses_NeedNoMatrixOfThem) {
  constexpr int classes = 1 << 20;  // a matrix of counts would have 8 TB
  const std::vector<Lift> lifts = scan_lifts(Classes{7, 7, 9}, Classes{7, 8, 9}, Classes{8, 8, 8}, classes);
  ASSERT_EQ(lifts.size(), static_cast<std::size_t>(classes));
  EXPECT_EQ(lifts[8].value(), 2.0 / 3);
  EXPECT_EQ(lifts[8].gained, 2);
  EXPECT_EQ(lifts[7].n, 1);
}

TEST(ScanLifts, DefendedModel_HandWorkedCase) {
  const std::vector<Lift> lifts = scan_lifts(victim, defended, triggered, 3);
  // Class 0, over images 2 to 5: 3, 4 and 5 with the trigger, 5 without it too.
  EXPECT_EQ(lifts[0], (Lift{.cls = 0, .with_trigger = 3, .without_trigger = 1, .gained = 2, .n = 4}));
  // Class 1, over images 0, 1, 4, 5: 0 and 1 with the trigger, 1 without.
  EXPECT_EQ(lifts[1], (Lift{.cls = 1, .with_trigger = 2, .without_trigger = 1, .gained = 1, .n = 4}));
  EXPECT_EQ(lifts[2], (Lift{.cls = 2, .n = 4}));
}

TEST(ScanLifts, PredictionsLost_AreCounted) {
  const std::vector<Lift> lifts = scan_lifts(Classes{0, 0}, Classes{1, 1}, Classes{0, 1}, 2);
  EXPECT_EQ(lifts[1], (Lift{.cls = 1, .with_trigger = 1, .without_trigger = 2, .lost = 1, .n = 2}));
  EXPECT_EQ(lifts[0], (Lift{.cls = 0, .n = 0}));  // the victim predicts both as 0
  EXPECT_EQ(max_lift_by_share(lifts).cls, 1);     // a lift over no images is ignored
}

TEST(ScanEntry, Images_AreThoseOfTheScan) {
  EXPECT_EQ((ScanEntry{.trigger = "", .before = scan_lifts(victim, victim, triggered, 3)}.images()), 6);
  EXPECT_EQ(ScanEntry{}.images(), 0);
}

TEST(MaxLiftByShare, DifferentTotals_ComparesShares) {
  EXPECT_EQ(max_lift_by_share({{.cls = 0, .with_trigger = 9, .gained = 9, .n = 100},
                               {.cls = 1, .with_trigger = 5, .gained = 5, .n = 10},
                               {.cls = 2, .with_trigger = 5, .gained = 5, .n = 10}})
                .cls,
            1);
  EXPECT_EQ(max_lift_by_share({}).n, 0);
}

TEST(ScanLifts, InvalidPredictions_Throws) {
  using refine::testing::error_of;
  using refine::testing::expect_words;
  expect_words(error_of([] { scan_lifts(victim, defended, Classes{1}, 3); }),
               {"triggered predictions", "got 1", "expected 6"});
  expect_words(error_of([] {
                 scan_lifts(Classes{0, 1}, Classes{0, 5}, Classes{0, 1}, 2);
               }),
               {"clean predictions", "image 1", "got 5"});
  expect_words(error_of([] { scan_lifts(victim, defended, triggered, 2); }),
               {"victim's predictions", "got 2", "0 to 1"});
}

}  // namespace
}  // namespace refine::metrics
