#include <ATen/TensorOperators.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <refine/evaluation/alarm.hpp>
#include <refine/evaluation/evaluate.hpp>
#include <refine/evaluation/label_agreement.hpp>

#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "tests/evaluation/two_bytes.hpp"
#include "tests/support/error_of.hpp"

namespace refine {
namespace {

using testing::error_of;
using testing::expect_words;
using testing::two_bytes;
using testing::TwoBytes;

at::Tensor scored(const std::vector<int>& bytes) {
  return two_bytes(bytes, std::vector<int>(bytes.size(), 0));
}

TEST(AlarmScores, AreTheDefensesOwn) {
  std::int64_t seen = 0;
  const auto scores =
      alarm_scores(TwoBytes{}, scored({0, 51, 255}), [&](std::int64_t images) { seen += images; });
  ASSERT_EQ(scores.size(), 3u);
  EXPECT_EQ(scores[0], 0);
  EXPECT_FLOAT_EQ(scores[1], 0.2f);
  EXPECT_EQ(scores[2], 1);
  EXPECT_EQ(seen, 3);
  EXPECT_TRUE(alarm_scores(TwoBytes{}, scored({})).empty());
  EXPECT_EQ(alarm_scores(TwoBytes{}, scored(std::vector<int>(600, 255))), std::vector<double>(600, 1));
}

/// A defense whose answers are not finite, as those to a blank image that is standardised.
struct NotFinite : TwoBytes {
  at::Tensor alarm(const at::Tensor& images) const {
    return TwoBytes::alarm(images) * std::numeric_limits<double>::quiet_NaN();
  }
};

TEST(AlarmScores, NaN_IsAnAlarmAtAnyThreshold) {
  EXPECT_EQ(alarm_scores(NotFinite{}, scored({0, 1})),
            std::vector<double>(2, std::numeric_limits<double>::infinity()));
  EXPECT_EQ(measure_alarm(NotFinite{}, 1, 0.05, scored({0, 1, 2})).false_alarms, (metrics::Proportion{3, 3}));
}

TEST(EvaluateAlarm, SetsItsThresholdOnTheCalibrationImagesAlone) {
  // At most a fifth of five: the second largest, 40, is the threshold. Above it lie 50 and 41 of four clean
  // images, and all but 40 of three triggered ones.
  const auto figures = evaluate_alarm(TwoBytes{}, scored({10, 50, 30, 40, 20}), scored({50, 40, 41, 0}),
                                      scored({40, 99, 50}), 0.2);
  EXPECT_FLOAT_EQ(figures.threshold, 40 / 255.0);
  EXPECT_EQ(figures.wanted_rate, 0.2);
  EXPECT_EQ(figures.false_alarms, (metrics::Proportion{2, 4}));
  EXPECT_EQ(figures.detections, (metrics::Proportion{2, 3}));
  // 40 beats 0 and ties with 40, 99 beats all four, 50 beats three and ties with 50.
  EXPECT_EQ(figures.auroc, (metrics::Auroc{.wins = 1.5 + 4 + 3.5, .triggered = 3, .clean = 4}));
}

TEST(EvaluateAlarm, NeedsNoTriggeredImages) {
  const auto figures = evaluate_alarm(TwoBytes{}, scored({10, 20}), scored({15, 25, 5}));
  EXPECT_EQ(figures.wanted_rate, 0.05);
  EXPECT_EQ(figures.false_alarms, (metrics::Proportion{1, 3}));
  EXPECT_FALSE(figures.detections || figures.auroc);
}

TEST(EvaluateAlarm, RefusesWhatItCannotUse) {
  const at::Tensor images = scored({1, 2});
  expect_words(error_of([&] { evaluate_alarm(TwoBytes{}, scored({}), images); }),
               {"no clean images to set it on"});
  expect_words(error_of([&] { evaluate_alarm(TwoBytes{}, images, images, std::nullopt, 1.5); }),
               {"rate of 1.5"});
  expect_words(error_of([&] {
                 evaluate_alarm(TwoBytes{}, images, at::zeros({2, 1, 1, 3}, at::kByte));
               }),
               {"takes 1x1x2 images", "clean images are 1x1x3"});
  expect_words(error_of([&] { evaluate_alarm(TwoBytes{}, images.to(at::kFloat), images); }),
               {"calibration images", "bytes"});
  expect_words(error_of([&] { evaluate_alarm(TwoBytes{}, images, images, at::Tensor{}); }),
               {"triggered images"});
}

TEST(Agreement, CountsEqualAnswers) {
  EXPECT_EQ(agreement(TwoBytes{}, two_bytes({0, 1, 2, 2, 1}, {0, 1, 1, 2, 0})), (metrics::Proportion{3, 5}));
  EXPECT_EQ(agreement(TwoBytes{}, two_bytes({}, {})), (metrics::Proportion{0, 0}));
  expect_words(error_of([] { agreement(TwoBytes{}, at::zeros({2, 2}, at::kByte)); }), {"N×C×H×W"});
}

// truth      0 1 2 2      clean: victim 0 1 2 0, defended 0 1 1 2
// triggered: victim 1 1 1 1, defended 0 1 2 1; of the three that are no 1, one goes to 1 for the defense.
const data::Dataset four{.images = two_bytes({0, 1, 2, 0}, {0, 1, 1, 2}),
                         .labels = at::tensor(std::vector<std::int64_t>{0, 1, 2, 2}),
                         .classes = {"a", "b", "c"}};
const at::Tensor four_triggered = two_bytes({1, 1, 1, 1}, {0, 1, 2, 1});

TEST(Evaluate, TakesTriggeredImagesInsteadOfAnAttack) {
  const Evaluation result = evaluate(TwoBytes{}, four, four_triggered, 1);
  EXPECT_EQ(result.before.ba, (metrics::Proportion{3, 4}));
  EXPECT_EQ(result.before.asr, (metrics::Proportion{3, 3}));
  EXPECT_EQ(result.after.ba, (metrics::Proportion{3, 4}));
  EXPECT_EQ(result.after.asr, (metrics::Proportion{1, 3}));
  EXPECT_EQ(result.after.ra, (metrics::Proportion{2, 3}));
  EXPECT_EQ(evaluate(TwoBytes{}, four, four_triggered, std::nullopt).after.ra, (metrics::Proportion{3, 4}));
}

TEST(Evaluate, RefusesTriggeredImagesThatAreNotTheDatas) {
  expect_words(error_of([] { evaluate(TwoBytes{}, four, four_triggered.slice(0, 0, 3), 1); }),
               {"3 triggered images for 4 test images"});
  expect_words(error_of([] {
                 evaluate(TwoBytes{}, four, at::zeros({4, 1, 2, 2}, at::kByte), 1);
               }),
               {"triggered images are 1x2x2"});
  expect_words(error_of([] { evaluate(TwoBytes{}, four, four_triggered, 3); }), {"target class 3"});
}

TEST(EvaluateClean, MeasuresAccuracyAlone) {
  const Evaluation result = evaluate_clean(TwoBytes{}, four);
  EXPECT_EQ(result.classes, four.classes);
  EXPECT_EQ(result.before.ba, (metrics::Proportion{3, 4}));
  EXPECT_EQ(result.after.ba, (metrics::Proportion{3, 4}));
  EXPECT_EQ(result.after.clean(2, 1), 1);
  EXPECT_EQ(result.after.triggered.size(), 0);
  EXPECT_EQ(result.after.largest_lift.n, 0);
  EXPECT_TRUE(std::isnan(result.after.asr.value()) && std::isnan(result.der()));
}

}  // namespace
}  // namespace refine
