#include <refine/evaluation/gated.hpp>

#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <refine/evaluation/scan.hpp>
#include <refine/pipeline/gated.hpp>

#include "tests/evaluation/two_bytes.hpp"
#include "tests/support/error_of.hpp"

namespace refine {
namespace {

using testing::error_of;
using testing::expect_words;
using testing::two_bytes;
using testing::TwoBytes;

static_assert(DefendedClassifier<Gated<TwoBytes>>);

/// The alarm score of two one-hot logits of three classes that differ: the softmax has e / (e + 2) at
/// the one and 1 / (e + 2) at the others, so that three times the latter is shared.
const double differs = 1 - 3 / (std::exp(1.0) + 2);

TEST(Gated, Forward_IsTheVictimsUnlessTheAlarmIsRaised) {
  const at::Tensor images = two_bytes({0, 1, 2}, {0, 2, 2}).to(at::kFloat) / 255;
  const TwoBytes defense;
  const auto forward = [&](double threshold) { return Gated{defense, threshold}.forward(images); };
  EXPECT_TRUE(at::equal(forward(differs + 0.01), defense.undefended(images)));
  EXPECT_TRUE(at::equal(forward(differs - 0.01), defense.forward(images)));
  EXPECT_FALSE(at::equal(defense.forward(images), defense.undefended(images)));
  const Gated gated{defense, 0.5};
  EXPECT_EQ(gated.task(), defense.task());
  EXPECT_TRUE(at::equal(gated.alarm(images), defense.alarm(images)));
  EXPECT_TRUE(at::equal(gated.transformed(images), images));
}

TEST(Gated, NanScore_GivesTheDefendedAnswer) {
  const at::Tensor nan = at::tensor({std::nan(""), 0.0}).view({1, 2}),
                   fine = at::tensor({0.0, 1.0}).view({1, 2});
  EXPECT_TRUE(at::equal(gated_answer(nan, fine, 1), fine));
}

// So that `score > threshold` raises the alarm, whatever the threshold is.
TEST(AlarmScore, AnswersThatAreNotFinite_ScoreInfinity) {
  const at::Tensor fine = at::tensor({0.0, 1.0}).view({1, 2});
  for (const double bad : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    const at::Tensor answer = at::tensor({bad, 0.0}).view({1, 2});
    EXPECT_EQ(alarm_score(answer, fine).item<double>(), std::numeric_limits<double>::infinity());
    EXPECT_EQ(alarm_score(fine, answer).item<double>(), std::numeric_limits<double>::infinity());
  }
  EXPECT_NEAR(alarm_score(fine, fine).item<double>(), 0, 1e-6);
}

TEST(Gated, ThresholdOutOfRange_IsRefused) {
  for (const double threshold : {-0.1, 1.5, std::nan("")})
    expect_words(error_of([&] { Gated(TwoBytes{}, threshold); }), {"Gated", "[0, 1]"});
}

TEST(PairedAnswers, Classes_AreThoseOfBothModels) {
  const metrics::PairedAnswers answers =
      paired_answers(TwoBytes{}, two_bytes({0, 1, 2}, {0, 2, 2}), [](std::int64_t) {});
  EXPECT_EQ(answers.victim, (std::vector<std::int64_t>{0, 1, 2}));
  EXPECT_EQ(answers.defended, (std::vector<std::int64_t>{0, 2, 2}));
  EXPECT_NEAR(answers.scores[0], 0, 1e-6);
  EXPECT_NEAR(answers.scores[1], differs, 1e-6);
  EXPECT_TRUE(paired_answers(TwoBytes{}, two_bytes({}, {}), [](std::int64_t) {}).victim.empty());
}

/// Writes class 1 into the victim's byte, and keeps the defended model's.
struct ToOne {
  ImageShape image = {1, 1, 2};
  at::Tensor apply(const at::Tensor& images) const {
    at::Tensor changed = images.clone();
    changed.select(3, 0).fill_(1 / 255.0);
    return changed;
  }
};

TEST(Scan, AlarmThreshold_AddsTheLiftsOfTheGatedAnswer) {
  const at::Tensor images = two_bytes({0, 0, 2, 2, 1}, {0, 0, 2, 2, 1});
  const std::vector<NamedTrigger> catalogue = {{"to one", ToOne{}, true}};
  EXPECT_TRUE(scan(TwoBytes{}, images, catalogue).front().gated.empty());
  const auto blind = scan(TwoBytes{}, images, catalogue, false, 1.0).front();
  EXPECT_EQ(blind.before[1].gained, 4);
  EXPECT_EQ(blind.after[1].gained, 0);
  EXPECT_EQ(blind.gated, blind.before) << "no score is above 1";
  const auto strict = scan(TwoBytes{}, images, catalogue, false, 0.1).front();
  EXPECT_EQ(strict.gated, strict.after) << "each trigger raises the alarm";
}

}  // namespace
}  // namespace refine
