#include <refine/defend/measure.hpp>

#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/one_hot.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <refine/data/dataset.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/report/defense_report.hpp>
#include <refine/report/verdict.hpp>

#include "tests/support/error_of.hpp"

namespace refine {
namespace {

using testing::error_of;
using testing::expect_words;

/// Four classes by the byte in the middle of the image. The defense answers as the victim.
struct MiddleByte {
  Task task() const { return {ImageShape{1, 16, 16}, 4}; }
  at::Device device() const { return at::kCPU; }
  at::Tensor undefended(const at::Tensor& images) const {
    const at::Tensor middle = images.select(1, 0).select(1, 8).select(1, 8);
    return at::one_hot((middle * 255).round().clamp(0, 3).to(at::kLong), 4).to(at::kFloat);
  }
  at::Tensor transformed(const at::Tensor& images) const { return images; }
  at::Tensor forward(const at::Tensor& images) const { return undefended(images); }
  at::Tensor alarm(const at::Tensor& images) const { return at::zeros({images.size(0)}); }
};
static_assert(DefendedClassifier<MiddleByte>);

/// 20 images of each class, in the order of the classes, as a folder's.
at::Tensor folder_images() {
  at::Tensor images = at::zeros({80, 1, 16, 16}, at::kByte);
  for (int i = 0; i < 80; ++i) images[i].fill_(i / 20);
  return images;
}

TEST(MeasureDefense, ScanOfSomeImages_TakesThemFromAllClasses) {
  for (const std::int64_t scanned : {40, 80, 1000}) {
    report::DefenseReport report;
    measure_defense(MiddleByte{}, {.clean = folder_images(), .scanned = scanned}, report);
    ASSERT_FALSE(report.scan.empty());
    const std::int64_t images = std::min<std::int64_t>(scanned, 80);
    EXPECT_EQ(report.scan.front().images(), images);
    for (const metrics::Lift& lift : report.scan.front().before)
      EXPECT_EQ(lift.n, images * 3 / 4) << scanned << ", class " << lift.cls;
  }
}

/// Answers as the victim; its alarm is raised by images of class 3.
struct Detector : MiddleByte {
  at::Tensor alarm(const at::Tensor& images) const { return undefended(images).select(1, 3); }
};

TEST(MeasureDefense, AlarmThatIsAnotherScore_IsMeasuredWithoutAGatedAnswer) {
  const Evidence evidence{.clean = folder_images(), .alarm = AlarmSetting{.threshold = 0.5}, .scanned = 0};
  report::DefenseReport of_detector, of_disagreement;
  measure_defense(Detector{}, evidence, of_detector);
  EXPECT_EQ(of_detector.alarm->false_alarms, (metrics::Proportion{20, 80}));
  EXPECT_FALSE(of_detector.gated);
  measure_defense(MiddleByte{}, evidence, of_disagreement);
  EXPECT_EQ(of_disagreement.alarm->false_alarms, (metrics::Proportion{0, 80}));
  EXPECT_TRUE(of_disagreement.gated);
}

// The trigger makes every image one of class 2; the victim is right about the clean ones.
TEST(MeasureDefense, TriggerWithoutLabels_IsMeasuredByTheVictimsAnswers) {
  const at::Tensor triggered = at::full({80, 1, 16, 16}, 2, at::kByte);
  report::DefenseReport report{.class_names = {"a", "b", "c", "d"}};
  measure_defense(MiddleByte{}, {.clean = folder_images(), .triggered = triggered, .target = 2}, report);
  EXPECT_EQ(report.before.asr, (metrics::Proportion{60, 60}));
  EXPECT_EQ(report.after.largest_lift.cls, 2);
  EXPECT_EQ(report.after.largest_lift.gained, 60);
  EXPECT_EQ(report.after.ba.n, 0) << "the victim's answers say nothing of accuracy";
  EXPECT_EQ(report::verdict(report).kind, report::Verdict::Kind::armed);
  EXPECT_EQ(report.sheet.columns.size(), 4u) << "clean and triggered, each with what the transform draws";

  expect_words(error_of([&] {
                 measure_defense(MiddleByte{}, {.clean = folder_images(), .triggered = triggered.slice(0, 7)},
                                 report);
               }),
               {"one for each test image, in the same order", "got 73 triggered images for 80 test images"});
}

// The trigger turns images of class 2, the target, into ones that raise the alarm: they are no detections.
TEST(MeasureDefense, Detections_AreOfImagesThatTheAttackMoves) {
  const at::Tensor clean = folder_images(), triggered = clean.clone();
  triggered.slice(0, 40, 60).fill_(3);
  const Evidence evidence{.clean = clean,
                          .test = data::Dataset{.images = clean,
                                                .labels = at::arange(80).div(20, "floor"),
                                                .classes = {"a", "b", "c", "d"}},
                          .triggered = triggered,
                          .target = 2,
                          .alarm = AlarmSetting{.threshold = 0.5}};
  report::DefenseReport report;
  measure_defense(Detector{}, evidence, report);
  EXPECT_EQ(report.alarm->detections, (metrics::Proportion{20, 60}));
  EXPECT_EQ(report.alarm->false_alarms, (metrics::Proportion{20, 80}));
}

/// Answers images of the classes 2 and 3 as ones of class 1.
struct TwoClassesLost : MiddleByte {
  at::Tensor forward(const at::Tensor& images) const { return undefended(images.clamp_max(1.0 / 255)); }
};

TEST(MeasureDefense, LostClass_HasTenImagesOrMore) {
  const at::Tensor nine = folder_images().slice(0, 0, 69);  // of class 3
  for (const auto& [images, lost] :
       {std::pair{nine, std::vector<int>{2}}, {folder_images().slice(0, 0, 70), std::vector<int>{2, 3}}}) {
    report::DefenseReport report;
    measure_defense(TwoClassesLost{}, {.clean = images, .scanned = 0}, report);
    EXPECT_EQ(report.lost_classes, lost);
  }
}

TEST(MeasureDefense, SheetWithoutLabels_ShowsSeveralClasses) {
  report::DefenseReport report;
  measure_defense(MiddleByte{}, {.clean = folder_images(), .scanned = 0}, report);
  std::vector<std::string> captions;
  for (const auto& row : report.sheet.rows) captions.push_back(row.captions.front());
  ASSERT_FALSE(captions.empty());
  EXPECT_NE(captions.front(), captions.back());
}

}  // namespace
}  // namespace refine
