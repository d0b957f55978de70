#include <refine/metrics/roc.hpp>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "tests/support/error_of.hpp"

namespace refine::metrics {
namespace {

using refine::testing::error_of;
using refine::testing::expect_words;

using List = std::vector<double>;

TEST(Auroc, SmallCase_CountsPairsAsByHand) {
  // 0.9 beats all three, 0.5 beats 0.2 and 0.4 and ties with 0.5, 0.1 beats none: 3 + 2.5 + 0 of 9 pairs.
  const Auroc area = auroc(List{0.5, 0.1, 0.9}, List{0.4, 0.5, 0.2});
  EXPECT_EQ(area, (Auroc{.wins = 5.5, .triggered = 3, .clean = 3}));
  EXPECT_DOUBLE_EQ(area.value(), 5.5 / 9);
  EXPECT_EQ(auroc(List{1, 1, 1}, List{0, 0}).value(), 1);
  EXPECT_EQ(auroc(List{0, 0}, List{1, 1, 1}).value(), 0);
  EXPECT_EQ(auroc(List{0.5, 0.5}, List{0.5, 0.5, 0.5}).value(), 0.5);
}

TEST(Auroc, ManyScores_EqualsTheDefinitionOverAllPairs) {
  List triggered, clean;
  for (int i = 0; i < 97; ++i) triggered.push_back(i * 37 % 50 / 49.0);
  for (int i = 0; i < 113; ++i) clean.push_back(i * 53 % 31 / 40.0);
  double wins = 0;
  for (double t : triggered) {
    for (double c : clean) wins += t > c ? 1 : t == c ? 0.5 : 0;
  }
  EXPECT_EQ(wins, 6794);  // scikit-learn's area, times 97 · 113
  EXPECT_EQ(auroc(triggered, clean).wins, wins);
}

// Hanley and McNeil (1982): an area of 0.893 from 51 abnormal and 58 normal images has a standard
// error of 0.032.
TEST(Auroc, StandardError_EqualsThePublishedOne) {
  EXPECT_NEAR((Auroc{.triggered = 51, .clean = 58}.standard_error(0.893)), 0.032, 6e-4);
}

TEST(Auroc, IntervalEnds_AreTheAreasThatAreJustRejected) {
  for (const Auroc area : {Auroc{90, 10, 10}, Auroc{55, 10, 10}, Auroc{2641.5, 51, 58}, Auroc{9, 3000, 2000},
                           Auroc{5'999'000, 3000, 2000}}) {
    for (const double z : {1.0, z95, 3.0}) {
      const Interval i = area.interval(z);
      EXPECT_LT(0, i.low);
      EXPECT_LT(i.low, area.value());
      EXPECT_LT(area.value(), i.high);
      EXPECT_LT(i.high, 1);
      EXPECT_NEAR(area.value() - i.low, z * area.standard_error(i.low), 1e-12);
      EXPECT_NEAR(i.high - area.value(), z * area.standard_error(i.high), 1e-12);
    }
  }
}

TEST(Auroc, IntervalAtZeroAndOne_KeepsItsWidth) {
  const Auroc all{.wins = 100, .triggered = 10, .clean = 10};
  EXPECT_EQ(all.interval().high, 1);
  EXPECT_LT(all.interval().low, 0.9);
  EXPECT_GT(all.interval().low, 0.5);
  const Auroc none{.wins = 0, .triggered = 10, .clean = 10};
  EXPECT_EQ(none.interval().low, 0);
  EXPECT_NEAR(none.interval().high, 1 - all.interval().low, 1e-12);
}

TEST(Auroc, NoImages_IsNaN) {
  for (const Auroc area : {auroc(List{}, List{1}), auroc(List{1}, List{}), Auroc{}}) {
    EXPECT_TRUE(std::isnan(area.value()));
    EXPECT_TRUE(std::isnan(area.interval().low) && std::isnan(area.interval().high));
  }
}

TEST(ThresholdFor, SmallCases_AreExact) {
  const List five = {0.3, 0.1, 0.5, 0.2, 0.4};
  EXPECT_EQ(threshold_for(five, 0), 0.5);     // none above
  EXPECT_EQ(threshold_for(five, 0.19), 0.5);  // a fifth is too many
  EXPECT_EQ(threshold_for(five, 0.2), 0.4);
  EXPECT_EQ(threshold_for(five, 0.5), 0.3);  // two fifths
  EXPECT_EQ(threshold_for(five, 0.99), 0.1);
  // Equal scores all raise an alarm or none does: one of four is above 0.7, all are above anything less.
  EXPECT_EQ(threshold_for(List{0.7, 0.9, 0.7, 0.7}, 0.5), 0.7);
  EXPECT_EQ(threshold_for(List{0.7, 0.9, 0.7, 0.7}, 0.2), 0.9);
  EXPECT_EQ(threshold_for(List{0.25}, 0.9), 0.25);
}

TEST(ThresholdFor, AnyRate_SmallestThatKeepsIt) {
  List scores;
  for (int i = 0; i < 100; ++i) scores.push_back(i * 61 % 100 / 100.0);
  for (int percent = 0; percent < 100; ++percent) {  // 0.07 · 100 and 0.29 · 100 are not whole in binary
    const double rate = percent / 100.0, threshold = threshold_for(scores, rate);
    EXPECT_EQ(std::ranges::count_if(scores, [&](double s) { return s > threshold; }), percent);
  }
}

// The definition: a further image has each rank among n + 1 with the same probability.
TEST(CalibrateThreshold, FurtherImage_ExceedsItAsRarelyAsAsked) {
  for (const int n : {1, 5, 19, 20, 39, 99, 100, 199, 300}) {
    List scores;
    for (int i = 0; i < n; ++i) scores.push_back(i * 61 % n / static_cast<double>(n));
    std::ranges::sort(scores);
    for (const int percent : {0, 1, 5, 7, 29, 50, 99}) {
      const double threshold = calibrate_threshold(scores, percent / 100.0);
      const auto above = std::ranges::count_if(scores, [&](double s) { return s > threshold; });
      // Of the n + 1 places that a further image may have among the scores, `above` + 1 raise the alarm.
      if (100 > percent * (n + 1)) {  // no score can keep the rate
        EXPECT_EQ(above, 0);
        continue;
      }
      EXPECT_LE(100 * (above + 1), percent * (n + 1)) << n << " images, " << percent << " %";
      EXPECT_GT(100 * (above + 2), percent * (n + 1)) << "a lower threshold keeps it, too";
    }
  }
  EXPECT_EQ(calibrate_threshold(List{0.3, 0.1, 0.5, 0.2, 0.4}, 0.34), 0.4);  // two of six
  EXPECT_EQ(calibrate_threshold(List{0.3, 0.1, 0.5, 0.2, 0.4}, 0.2), 0.5);   // one of six
}

// Quantiles of Beta(k, n + 1 − k), k the whole part of rate · (n + 1), from scipy.stats.beta.ppf.
TEST(PromisedRate, IsTheIntervalOfTheBetaDistribution) {
  const auto expect = [](double rate, std::int64_t n, double low, double high) {
    const Interval found = AlarmMetrics{.wanted_rate = rate, .calibration_groups = n}.promised_rate();
    EXPECT_NEAR(found.low, low, 1e-8) << n;
    EXPECT_NEAR(found.high, high, 1e-8) << n;
  };
  expect(0.05, 500, 0.03261518, 0.0705808);
  expect(0.05, 23, 0.00110017, 0.14818513);
  expect(0.05, 19, 0.00133163, 0.17646691);
  expect(0.05, 1000, 0.0373354, 0.06426605);
  expect(0, 20, 0.00126509, 0.16843347);  // no score keeps the rate: the largest one
  EXPECT_TRUE(std::isnan(AlarmMetrics{.wanted_rate = 0.05}.promised_rate().low));
  // Numbers of a damaged file.
  const auto of_many = [](double rate) {
    return AlarmMetrics{.wanted_rate = rate, .calibration_groups = std::numeric_limits<std::int64_t>::max()}
        .promised_rate();
  };
  EXPECT_NEAR(of_many(0.05).low, 0.05, 1e-3);
  EXPECT_NEAR(of_many(0.05).high, 0.05, 1e-3);
  EXPECT_TRUE(std::isnan(of_many(std::nan("")).low));
  for (const double rate : {1.0, 1e300, -1.0}) EXPECT_LE(of_many(rate).low, of_many(rate).high) << rate;
}

// The mean of Beta(k, n + 1 − k) is k / (n + 1).
TEST(ExpectedRate, IsTheMeanOfTheBetaDistribution) {
  const auto expected = [](double rate, std::int64_t n) {
    return AlarmMetrics{.wanted_rate = rate, .calibration_groups = n}.expected_rate();
  };
  EXPECT_NEAR(expected(0.05, 500), 25.0 / 501, 1e-12);
  EXPECT_NEAR(expected(0.05, 19), 0.05, 1e-12);
  EXPECT_NEAR(expected(0.05, 1), 0.5, 1e-12);  // too few: one image in two exceeds the only score
  EXPECT_NEAR(expected(0.05, 2), 1.0 / 3, 1e-12);
  EXPECT_TRUE(std::isnan(expected(0.05, 0)));
  EXPECT_TRUE(std::isnan(expected(std::nan(""), 10)));
}

// The definition: the share of calibrations whose rate is in the interval is 95 %.
TEST(PromisedRate, CoversTheRateOfRandomCalibrations) {
  std::mt19937 random(5);
  std::uniform_real_distribution<double> uniform;
  const std::size_t n = 60;
  const Interval promised = AlarmMetrics{.wanted_rate = 0.1, .calibration_groups = n}.promised_rate();
  int covered = 0;
  constexpr int trials = 4000;
  for (int trial = 0; trial < trials; ++trial) {
    List scores(n);
    for (double& score : scores) score = uniform(random);
    const double rate = 1 - calibrate_threshold(scores, 0.1);  // of uniform scores
    covered += promised.low <= rate && rate <= promised.high;
  }
  EXPECT_NEAR(covered / static_cast<double>(trials), 0.95, 0.014);  // four standard errors
}

// Clean scores 0.00, 0.01, …, 0.99: at 1 %, only scores above 0.98 are detected, at 5 %, above 0.94.
TEST(DetectedAt, HandWorkedCase_IsReadOffTheRocCurve) {
  List clean;
  for (int i = 0; i < 100; ++i) clean.push_back(i * 61 % 100 / 100.0);
  const List triggered = {0.5, 0.94, 0.945, 0.98, 0.985, 1};
  EXPECT_EQ(detected_at(triggered, clean, 0.01), (Proportion{2, 6}));
  EXPECT_EQ(detected_at(triggered, clean, 0.05), (Proportion{4, 6}));
  EXPECT_EQ(detected_at(triggered, clean, 0), (Proportion{1, 6}));
  EXPECT_EQ(detected_at(List{}, clean, 0.05), (Proportion{0, 0}));
  // Fewer than 100 images: no false alarm is allowed at 1 %.
  EXPECT_EQ(detected_at(List{0.2, 0.4}, List{0.1, 0.3}, 0.01), (Proportion{1, 2}));
}

// 20 scores at a rate of 10 %: the second largest is the threshold, and one exceeds it.
TEST(KeepsPromise, EqualOrInfiniteScores_DoNot) {
  std::vector<double> scores;
  for (int i = 0; i < 20; ++i) scores.push_back(i / 20.0);
  const auto promise = [&](double threshold) { return keeps_promise(scores, threshold, 0.1); };
  EXPECT_TRUE(promise(calibrate_threshold(scores, 0.1)));
  scores[19] = scores[18];
  EXPECT_FALSE(promise(calibrate_threshold(scores, 0.1)));
  scores[19] = scores[18] = std::numeric_limits<double>::infinity();
  EXPECT_FALSE(promise(1));  // lowered, so that infinite scores raise the alarm: two exceed it
  EXPECT_TRUE(keeps_promise(std::vector<double>{0.5}, 0.5, 0));
}

TEST(AlarmMetrics, NanScore_Throws) {
  const std::vector<double> bad = {std::nan(""), 0.2};
  expect_words(error_of([&] { alarm_metrics(bad, std::nullopt, 0.5, 0.05); }), {"clean images", "NaN"});
}

TEST(AlarmMetrics, HandWorkedCase_AllMetrics) {
  List clean;
  for (int i = 0; i < 100; ++i) clean.push_back(i / 100.0);
  const List triggered = {0.5, 0.945, 0.985, 1};
  const AlarmMetrics m = alarm_metrics(clean, Scores(triggered), 0.9, 0.1);
  EXPECT_EQ(m.threshold, 0.9);
  EXPECT_EQ(m.wanted_rate, 0.1);
  EXPECT_EQ(m.false_alarms, (Proportion{9, 100}));  // 0.91 to 0.99
  EXPECT_EQ(m.detections, (Proportion{3, 4}));
  EXPECT_EQ(m.detected_at_1, (Proportion{2, 4}));  // above 0.98
  EXPECT_EQ(m.detected_at_5, (Proportion{3, 4}));  // above 0.94
  // 0.5 is above 50 clean scores and ties with one.
  EXPECT_EQ(m.auroc, (Auroc{.wins = 50.5 + 95 + 99 + 100, .triggered = 4, .clean = 100}));
}

TEST(Scores, NaNEmptyOrBadRate_Throws) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  expect_words(error_of([&] { auroc(List{0, nan}, List{0}); }), {"triggered images", "score 1", "NaN"});
  expect_words(error_of([&] { threshold_for(List{nan}, 0.1); }), {"clean images", "score 0", "NaN"});
  expect_words(error_of([] { threshold_for(List{}, 0.1); }), {"no clean images"});
  expect_words(error_of([] { calibrate_threshold(List{}, 0.1); }), {"no clean images"});
  expect_words(error_of([] { detected_at(List{1}, List{}, 0.1); }), {"no clean images"});
  expect_words(error_of([&] { detected_at(List{nan}, List{1}, 0.1); }), {"triggered images", "score 0"});
  for (double rate : {-0.1, 1.0, nan}) {
    expect_words(error_of([&] { threshold_for(List{0.5}, rate); }),
                 {"false-alarm rate", fmt::format("of {} ", rate), "below 1"});
    expect_words(error_of([&] { calibrate_threshold(List{0.5}, rate); }), {"false-alarm rate", "below 1"});
  }
}

}  // namespace
}  // namespace refine::metrics
