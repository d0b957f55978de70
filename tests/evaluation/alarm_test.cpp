#include <ATen/TensorOperators.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <refine/evaluation/alarm.hpp>
#include <refine/evaluation/evaluate.hpp>

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

/// Images that `TwoBytes` scores with byte / 255.
at::Tensor images_with_scores(const std::vector<int>& bytes) {
  return two_bytes(bytes, std::vector<int>(bytes.size(), 0));
}

TEST(AlarmScores, Values_AreTheDefenses) {
  std::int64_t seen = 0;
  const auto scores = alarm_scores(TwoBytes{}, images_with_scores({0, 51, 255}),
                                   [&](std::int64_t images) { seen += images; });
  ASSERT_EQ(scores.size(), 3u);
  EXPECT_EQ(scores[0], 0);
  EXPECT_FLOAT_EQ(scores[1], 0.2f);
  EXPECT_EQ(scores[2], 1);
  EXPECT_EQ(seen, 3);
  EXPECT_TRUE(alarm_scores(TwoBytes{}, images_with_scores({})).empty());
  EXPECT_EQ(alarm_scores(TwoBytes{}, images_with_scores(std::vector<int>(600, 255))),
            std::vector<double>(600, 1));
}

/// A defense whose scores are not finite, as for a blank image that is standardized.
struct NotFinite : TwoBytes {
  at::Tensor alarm(const at::Tensor& images) const {
    return TwoBytes::alarm(images) * std::numeric_limits<double>::quiet_NaN();
  }
};

TEST(AlarmScores, Nan_RaisesTheAlarmAtAnyThreshold) {
  EXPECT_EQ(alarm_scores(NotFinite{}, images_with_scores({0, 1})),
            std::vector<double>(2, std::numeric_limits<double>::infinity()));
  EXPECT_EQ(measure_alarm(NotFinite{}, 1, 0.05, images_with_scores({0, 1, 2})).false_alarms,
            (metrics::Proportion{3, 3}));
}

struct TwoScores : TwoBytes {
  at::Tensor alarm(const at::Tensor& images) const {
    return TwoBytes::alarm(images).unsqueeze(1).expand({-1, 2});
  }
};

struct OneAnswer : TwoBytes {
  at::Tensor forward(const at::Tensor& images) const { return TwoBytes::forward(images).mean(0, true); }
};

TEST(AlarmScores, AnswersOfAnotherShape_Throw) {
  const at::Tensor images = images_with_scores({0, 1, 2});
  expect_words(error_of([&] { alarm_scores(TwoScores{}, images); }), {"alarm", "got 3×2, expected 3"});
  expect_words(error_of([&] { label_agreement(OneAnswer{}, images); }),
               {"forward (the defense)", "got 1×", "expected 3×"});
}

TEST(EvaluateAlarm, NanOfCalibrationImages_KeepsTheThresholdInRange) {
  const auto alarm = evaluate_alarm(NotFinite{}, images_with_scores({0, 1}), images_with_scores({2, 3, 4}));
  EXPECT_EQ(alarm.threshold, 1);
  EXPECT_EQ(alarm.false_alarms, (metrics::Proportion{3, 3}));
}

TEST(EvaluateAlarm, Threshold_DependsOnCalibrationImagesOnly) {
  // A further image may be among the two largest of six, so the second largest score of five, 40, is the
  // threshold. Above it are 50 and 41 of the four clean images, and 99 and 50 of the three
  // triggered ones.
  const auto figures =
      evaluate_alarm(TwoBytes{}, images_with_scores({10, 50, 30, 40, 20}),
                     images_with_scores({50, 40, 41, 0}), images_with_scores({40, 99, 50}), 0.34);
  EXPECT_FLOAT_EQ(figures.threshold, 40 / 255.0);
  EXPECT_EQ(figures.wanted_rate, 0.34);
  EXPECT_EQ(figures.false_alarms, (metrics::Proportion{2, 4}));
  EXPECT_EQ(figures.detections, (metrics::Proportion{2, 3}));
  // 40 beats 0 and ties with 40, 99 beats all four, 50 beats three and ties with 50.
  EXPECT_EQ(figures.auroc, (metrics::Auroc{.wins = 1.5 + 4 + 3.5, .triggered = 3, .clean = 4}));
  // Of four clean images, none may raise an alarm at 1 % or 5 %: only 99 exceeds 50.
  EXPECT_EQ(figures.detected_at_1, (metrics::Proportion{1, 3}));
  EXPECT_EQ(figures.detected_at_5, (metrics::Proportion{1, 3}));
}

TEST(EvaluateAlarm, WithoutTriggeredImages_MeasuresFalseAlarmsOnly) {
  const auto figures =
      evaluate_alarm(TwoBytes{}, images_with_scores({10, 20}), images_with_scores({15, 25, 5}));
  EXPECT_EQ(figures.wanted_rate, 0.05);
  EXPECT_EQ(figures.false_alarms, (metrics::Proportion{1, 3}));
  EXPECT_FALSE(figures.detections || figures.auroc);
  EXPECT_FALSE(figures.detected_at_1 || figures.detected_at_5);
}

TEST(EvaluateAlarm, BadImagesOrRate_AreRefused) {
  const at::Tensor images = images_with_scores({1, 2});
  expect_words(error_of([&] { evaluate_alarm(TwoBytes{}, images_with_scores({}), images); }),
               {"no clean images to calibrate the threshold on"});
  expect_words(error_of([&] { evaluate_alarm(TwoBytes{}, images, images, std::nullopt, 1.5); }),
               {"rate of 1.5"});
  expect_words(error_of([&] {
                 evaluate_alarm(TwoBytes{}, images, at::zeros({2, 1, 1, 3}, at::kByte));
               }),
               {"clean images", "got 1x1x3", "expected 1x1x2"});
  expect_words(error_of([&] { evaluate_alarm(TwoBytes{}, images.to(at::kFloat), images); }),
               {"calibration images", "bytes"});
  expect_words(error_of([&] { evaluate_alarm(TwoBytes{}, images, images, at::Tensor{}); }),
               {"triggered images"});
}

TEST(LabelAgreement, EqualAnswers_AreCounted) {
  EXPECT_EQ(label_agreement(TwoBytes{}, two_bytes({0, 1, 2, 2, 1}, {0, 1, 1, 2, 0})),
            (metrics::Proportion{3, 5}));
  EXPECT_EQ(label_agreement(TwoBytes{}, two_bytes({}, {})), (metrics::Proportion{0, 0}));
  expect_words(error_of([] { label_agreement(TwoBytes{}, at::zeros({2, 2}, at::kByte)); }), {"N×C×H×W"});
}

// truth      0 1 2 2      clean: victim 0 1 2 0, defended 0 1 1 2
// triggered: victim 1 1 1 1, defended 0 1 2 1. Three images are of another class than 1; behind the
// defense, one of them is classified as 1.
const data::Dataset four{.images = two_bytes({0, 1, 2, 0}, {0, 1, 1, 2}),
                         .labels = at::tensor(std::vector<std::int64_t>{0, 1, 2, 2}),
                         .classes = {"a", "b", "c"}};
const at::Tensor four_triggered = two_bytes({1, 1, 1, 1}, {0, 1, 2, 1});

TEST(Evaluate, TriggeredImages_ReplaceAnAttack) {
  const Evaluation result = evaluate(TwoBytes{}, four, four_triggered, 1);
  EXPECT_EQ(result.before.ba, (metrics::Proportion{3, 4}));
  EXPECT_EQ(result.before.asr, (metrics::Proportion{3, 3}));
  EXPECT_EQ(result.after.ba, (metrics::Proportion{3, 4}));
  EXPECT_EQ(result.after.asr, (metrics::Proportion{1, 3}));
  EXPECT_EQ(result.after.ra, (metrics::Proportion{2, 3}));
  EXPECT_EQ(evaluate(TwoBytes{}, four, four_triggered, std::nullopt).after.ra, (metrics::Proportion{3, 4}));
}

TEST(Evaluate, TriggeredImagesOfOtherData_AreRefused) {
  expect_words(error_of([] { evaluate(TwoBytes{}, four, four_triggered.slice(0, 0, 3), 1); }),
               {"3 triggered images for 4 test images"});
  expect_words(error_of([] {
                 evaluate(TwoBytes{}, four, at::zeros({4, 1, 2, 2}, at::kByte), 1);
               }),
               {"triggered images", "got 1x2x2", "expected 1x1x2"});
  expect_words(error_of([] { evaluate(TwoBytes{}, four, four_triggered, 3); }),
               {"attack's target", "3", "0 to 2"});
}

TEST(EvaluateClean, Result_HasAccuracyOnly) {
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
