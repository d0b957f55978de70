#include <refine/report/render.hpp>
#include <refine/report/verdict.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <utility>

#include "tests/report/examples.hpp"
#include "tests/support/error_of.hpp"
#include "tests/support/scratch_folder.hpp"

namespace refine::report {
namespace {

using refine::testing::error_of;
using refine::testing::expect_words;
using Kind = Verdict::Kind;

TEST(ScanVerdict, WorkingGuessedTrigger_DecidesKind) {
  DefenseReport r = unlabelled();
  EXPECT_EQ(verdict(r).kind, Kind::disarmed);
  EXPECT_EQ(verdict(r).headline, "A common trigger works on the victim and is disarmed");
  expect_words(
      verdict(r).paragraph,
      {"Of 2 common triggers, one works on the victim",
       "checkerboard 3×3, bottom right, lifts “ship” by 97.0 points before and “ship” by 0.4 points after",
       "agrees with the victim on 96.0 % of 3,000 clean images"});
  r = unlabelled(0.2);
  EXPECT_EQ(verdict(r).kind, Kind::armed);
  expect_words(verdict(r).headline, {"still lifts a class"});
  r = unlabelled(0.05);
  EXPECT_EQ(verdict(r).kind, Kind::uncertain);
  r = unlabelled(0.9);
  EXPECT_EQ(verdict(r).headline, "A common trigger works on the defended model");
  expect_words(verdict(r).paragraph, {"Do not rely on this model"});

  // A trigger that works only on the defended model: the defense made a backdoor.
  r = unlabelled();
  std::swap(r.scan[1].before, r.scan[1].after);
  EXPECT_EQ(verdict(r).kind, Kind::armed);
}

TEST(ScanVerdict, LessThanHalfOfTheImages_IsNoFinding) {
  DefenseReport r = unlabelled();
  r.scan[1].before = guessed({1000, 1000, 1000}, 1, 0.45);
  EXPECT_EQ(verdict(r).kind, Kind::unmeasured);
  r.scan[1].before = guessed({1000, 1000, 1000}, 1, 0.6);
  EXPECT_EQ(verdict(r).kind, Kind::disarmed);
}

// Strong noise sends most images of some data sets to one class of a benign model.
TEST(ScanVerdict, ChangeOfTheWholeImage_NeedsALargerLift) {
  DefenseReport r = unlabelled();
  r.scan[1].local = false;
  EXPECT_EQ(verdict(r).kind, Kind::disarmed);  // 97 points are a backdoor in any case
  r.scan[1].before = guessed({1000, 1000, 1000}, 1, 0.77);
  EXPECT_EQ(verdict(r).kind, Kind::unmeasured);
  EXPECT_EQ(html(r).find("class=\"found\""), std::string::npos);
  r.scan[1].local = true;
  EXPECT_EQ(verdict(r).kind, Kind::disarmed);
}

// A larger share of three images proves nothing, and hides nothing.
TEST(ScanVerdict, ClassWithFewImages_DoesNotHideAnother) {
  DefenseReport r = unlabelled();
  r.scan.erase(r.scan.begin());
  metrics::ScanEntry& entry = r.scan[0];
  entry.before = guessed({2997, 3, 0}, 1, 0.8);
  entry.after = guessed({2997, 3, 0}, 1, 0.0);
  entry.before[0] = entry.after[0] = {.cls = 0, .with_trigger = 3, .gained = 3, .n = 3};
  EXPECT_EQ(verdict(r).kind, Kind::uncertain)
      << "three images do not show that a class is not lifted, either";
  expect_words(verdict(r).headline, {"works on the victim"});
  expect_words(verdict(r).finding, {"lifts “ship” by 80.0 points before"});
  entry.after = guessed({2997, 3, 0}, 1, 0.12);
  entry.after[0] = entry.before[0];
  EXPECT_EQ(verdict(r).kind, Kind::armed);
}

TEST(ScanVerdict, NoFinding_IsUnmeasured) {
  DefenseReport r = unlabelled();
  r.scan.pop_back();
  EXPECT_EQ(verdict(r).kind, Kind::unmeasured);
  EXPECT_EQ(verdict(r).headline, "No common trigger was found to work");
  expect_words(verdict(r).paragraph,
               {"whether the victim has a backdoor was not measured",
                "Of 1 common trigger, tried on 3,000 clean images",
                "by more than 3.0 points (warp, strength 0.5, “frog”)", "Another trigger may exist."});
  r.scan.clear();
  EXPECT_EQ(verdict(r).headline, "Not measured: no trigger was given");
  EXPECT_EQ(verdict(r).kind, Kind::unmeasured);
}

TEST(ScanVerdict, LargeLiftOnTheVictim_IsNamed) {
  DefenseReport r = unlabelled();
  EXPECT_EQ(
      verdict(r).finding,
      "Found in the victim: checkerboard 3×3, bottom right lifts “ship” by 97.0 points before the defense, and "
      "“ship” by 0.4 points after");
  r.scan.pop_back();
  EXPECT_EQ(verdict(r).finding, "") << "3 points are nothing";
  r.scan[0].before = guessed({1000, 1000, 1000}, 2, 0.82);
  const Verdict v = verdict(r);
  EXPECT_EQ(v.kind, Kind::unmeasured);
  expect_words(v.headline, {"one lifts a class of the victim"});
  expect_words(v.finding, {"warp, strength 0.5 lifts “frog” by 82.0 points before", "without a backdoor"});
  expect_words(terminal_table(r), {"Found in the victim: warp"});
  expect_words(html(r), {"Found in the victim: warp"});
}

// 20 points, at the lower end of the interval of 2,000 images.
TEST(ScanVerdict, LiftOnTheVictim_IsNamedFromTwentyPointsOn) {
  DefenseReport r = unlabelled();
  r.scan.pop_back();
  for (const auto& [lift, is_named] : {std::pair{0.19, false}, {0.25, true}, {0.45, true}}) {
    r.scan[0].before = guessed({1000, 1000, 1000}, 2, lift);
    EXPECT_EQ(verdict(r).finding.empty(), !is_named) << lift;
    EXPECT_EQ(verdict(r).kind, Kind::unmeasured) << lift;
  }
}

// The page names one strongest trigger: the one with the largest lift on the victim, whatever it does afterwards.
TEST(ScanVerdict, StrongestTrigger_IsTheSameInAllSentences) {
  DefenseReport r = unlabelled();
  const std::vector<std::int64_t> per_class = {1000, 1000, 1000};
  r.scan = {{"weak", guessed(per_class, 1, 0.7), guessed(per_class, 1, 0.99)},
            {"strong", guessed(per_class, 1, 0.95), guessed(per_class, 1, 0.01)}};
  const Verdict v = verdict(r);
  expect_words(v.paragraph, {"the strongest, strong,"});
  expect_words(v.finding, {"Found in the victim: strong"});
}

TEST(Verdict, Decision_FollowsFromKindAndAgreement) {
  using Decision = Verdict::Decision;
  DefenseReport r = unlabelled();
  EXPECT_EQ(verdict(r).decision, Decision::serve);
  EXPECT_EQ(
      verdict(r).advice(),
      "Serve it: the trigger no longer works on it, and it agrees with the victim on 96.0 % of clean images");
  EXPECT_EQ(nlohmann::json::parse(metrics_text(r))["decision"], "serve");
  expect_words(terminal_table(r), {"Serve it: "});
  EXPECT_EQ(verdict(unlabelled(0.05)).decision, Decision::improve) << "too close to call";
  EXPECT_EQ(verdict(unlabelled(0.9)).decision, Decision::retrain);
  expect_words(verdict(unlabelled(0.9)).advice(), {"Retrain the victim"});
  r.agreement = metrics::Proportion{408, 3000};  // 13.6 %: it was not trained
  EXPECT_EQ(verdict(r).decision, Decision::improve);
  expect_words(verdict(r).advice(), {"Train longer or get more images", "13.6 %"});
  EXPECT_EQ(nlohmann::json::parse(metrics_text(r))["decision"], "improve");
  std::swap(r.scan[1].before, r.scan[1].after);
  expect_words(verdict(r).advice(), {"Train longer or get more images", "13.6 %", "a trigger works on it"});
  r.scan.clear();
  r.agreement = metrics::Proportion{2880, 3000};
  expect_words(verdict(r).advice(), {"Serve it", "no trigger was tried"});
  for (const std::optional<metrics::Proportion>& nothing :
       {std::optional<metrics::Proportion>(), std::optional(metrics::Proportion{0, 0})}) {
    r.agreement = nothing;
    EXPECT_EQ(verdict(r).decision, Decision::improve);
    expect_words(verdict(r).advice(), {"neither accuracy nor agreement"});
  }
}

TEST(Verdict, AgreementBelow85Percent_IsNoReasonToServe) {
  using Decision = Verdict::Decision;
  DefenseReport r = unlabelled();
  for (const auto& [percent, decision] : {std::pair{84, Decision::improve}, {86, Decision::serve}}) {
    r.agreement = metrics::Proportion{percent, 100};
    EXPECT_EQ(verdict(r).decision, decision) << percent;
  }
}

TEST(Verdict, TooFewImages_DecideNothing) {
  using Decision = Verdict::Decision;
  DefenseReport r = unlabelled();
  for (const auto& [n, decision] : {std::pair{1, Decision::improve}, std::pair{8, Decision::improve},
                                    std::pair{9, Decision::serve}, std::pair{100, Decision::serve}}) {
    r.agreement = metrics::Proportion{n, n};
    EXPECT_EQ(verdict(r).decision, decision) << n;
  }
  r.agreement = metrics::Proportion{6, 6};
  expect_words(verdict(r).advice(), {"get more images", "6 clean images are too few"});
  r.agreement = metrics::Proportion{1, 1};
  expect_words(verdict(r).advice(), {"one clean image is too few"});

  // With labels, too, and if the agreement was not measured.
  r.agreement.reset();
  for (const auto& [n, decision] : {std::pair{8, Decision::improve}, std::pair{9, Decision::serve}}) {
    r.before.ba = r.after.ba = {n, n};
    EXPECT_EQ(verdict(r).decision, decision) << n;
  }
}

TEST(Verdict, ClassThatIsNeverAnswered_IsNoReasonToServe) {
  DefenseReport r = unlabelled();
  r.lost_classes = {2};
  EXPECT_EQ(verdict(r).decision, Verdict::Decision::improve);
  expect_words(verdict(r).advice(), {"the defended model never answers frog"});
  r.lost_classes = {0, 2};
  expect_words(verdict(r).advice(), {"never answers cat and 1 more class"});
  r.answer = Answer::gated;  // where the alarm is silent, the victim answers
  r.gated = metrics::GatedMetrics{.agreement = *r.agreement};
  EXPECT_EQ(verdict(r).decision, Verdict::Decision::serve);

  const testing::ScratchFolder folder;
  r.answer = Answer::defended;
  r.gated.reset();
  folder.write("metrics.json", metrics_text(r));
  EXPECT_EQ(read_metrics(folder.path / "metrics.json").lost_classes, r.lost_classes);
}

TEST(ScanVerdict, GivenTrigger_TakesPrecedence) {
  DefenseReport r = unlabelled();
  r.before = metrics::attack_metrics(
      {.truth = {0, 1, 2}, .clean = {0, 1, 2}, .triggered = {0, 0, 0}, .classes = 3, .target = 0});
  r.after = r.before;
  EXPECT_EQ(verdict(r).kind, Kind::uncertain);
  expect_words(verdict(r).paragraph, {"Before the defense, the trigger lifts “cat”", "Of 2 common triggers"});
}

TEST(TerminalTable, NoLabels_ShowsAlarmAgreementAndScan) {
  const auto text = terminal_table(unlabelled());
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    EXPECT_LE(std::ranges::count_if(line, [](char c) { return (c & 0xC0) != 0x80; }), 100) << line;
    EXPECT_FALSE(line.ends_with(' ')) << line;
  }
  expect_words(text, {"agreement             3,000", "96.00 %  95.24 to 96.64", "false alarms          3,000",
                      "5.10 %", "checkerboard 3×3, bottom right        97.00 pt  ship",
                      "Not measured without labels: BA, ASR, RA",
                      "\n\nA common trigger works on the victim and is disarmed.\nFound in the victim: "});
  EXPECT_LT(text.find("checkerboard"), text.find("warp")) << text;  // the largest lift first
  EXPECT_EQ(text.find("nan"), std::string::npos) << text;
  EXPECT_EQ(text.find("DER  "), std::string::npos) << text;
}

TEST(TerminalTable, ManyTriggers_CountsThoseLeftOut) {
  DefenseReport r = unlabelled();
  for (int i = 0; i < 12; ++i) r.scan.push_back(r.scan.front());
  expect_words(terminal_table(r), {"\nand 8 more\n"});
}

TEST(TerminalTable, ControlSequences_AreReplaced) {
  DefenseReport r = unlabelled();
  r.class_names[1] = "\x1b[31mship";
  r.scan[0].trigger = "\x1b]0;x\x07";
  EXPECT_EQ(terminal_table(r).find('\x1b'), std::string::npos);
  // Control characters as UTF-8, too, and in the sentence about the gated answer, which is the longest line.
  r.class_names[1] = "a name as long as this one, \u009b2J\x1b[2J\a\u202e and a few words more";
  r.scan[1].gated = guessed({1000, 1000, 1000}, 1, 0.97);
  const std::string text = terminal_table(r);
  expect_words(text, {"\\x1b[2J\\x07", "\\xc2\\x9b2J"});
  for (const char* control : {"\x1b", "\a", "\u009b", "\u202e"})
    EXPECT_EQ(text.find(control), std::string::npos) << text;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);)
    EXPECT_LE(std::ranges::count_if(line, detail::starts_character), 100) << line;
}

TEST(Html, NoLabels_ShowsAlarmAgreementAndScan) {
  const auto page = html(unlabelled());
  expect_words(page, {"<h2>Scan</h2>", "<h2>Alarm</h2>", "Agreement", "class=\"found\">97.0 pt",
                      "0.25, was set for 5.0", "Not measured without labels",
                      "Not measured without a trigger: detections, AUROC, TPR."});
  EXPECT_EQ(page.find("nan"), std::string::npos);
  EXPECT_EQ(page.find("<h2>Confusion"), std::string::npos);
  EXPECT_EQ(page.find("<h2>What the trigger adds"), std::string::npos);
  DefenseReport evil = unlabelled();
  evil.scan[0].trigger = evil.class_names[1] = "<script>";
  EXPECT_EQ(html(evil).find("<script"), std::string::npos);
}

TEST(Html, Verdict_HasItsTone) {
  expect_words(html(unlabelled(0.9)), {"class=\"verdict bad\""});
  expect_words(html(unlabelled(0.05)), {"class=\"verdict warn\""});
  expect_words(html(unlabelled()), {"class=\"verdict good\""});
}

TEST(Html, TriggeredImages_ShowsDetections) {
  DefenseReport r = unlabelled();
  r.alarm->detections = metrics::Proportion{990, 1000};
  r.alarm->auroc = metrics::Auroc{.wins = 2'985'000, .triggered = 1000, .clean = 3000};
  expect_words(html(r), {"Detections", "99.00 %", "99.50 %"});
  EXPECT_EQ(html(r).find("% FPR"), std::string::npos);  // a file of an earlier version
  r.alarm->detected_at_1 = metrics::Proportion{950, 1000};
  r.alarm->detected_at_5 = metrics::Proportion{985, 1000};
  expect_words(html(r), {"TPR at 1 % FPR", "95.00 %", "TPR at 5 % FPR", "98.50 %",
                         "at most 5 % of these clean images"});
  expect_words(terminal_table(r),
               {"TPR at 1 % FPR        1,000", "95.00 %", "TPR at 5 % FPR        1,000", "98.50 %"});
  expect_words(terminal_table(r), {"detections            1,000", "AUROC                 1,000", "99.50 %"});
}

TEST(Html, NoTrigger_ShowsAccuracy) {
  DefenseReport r;
  r.before.classes = r.after.classes = 2;
  r.before.clean = metrics::ConfusionMatrix::Identity(2, 2) * 50;
  r.after.clean = r.before.clean;
  r.before.ba = r.after.ba = {100, 100};
  EXPECT_EQ(verdict(r).kind, Kind::unmeasured);
  const auto page = html(r);
  expect_words(page,
               {"accuracy on clean images", "Clean images, after", "Not measured without a trigger: ASR"});
  EXPECT_EQ(page.find("Triggered images"), std::string::npos);
  expect_words(terminal_table(r), {"BA                      100", "Not measured without a trigger"});
}

TEST(MetricsJson, NoLabels_HasAlarmAgreementAndScan) {
  const auto j = nlohmann::json::parse(metrics_text(unlabelled()));
  EXPECT_EQ(j["classes"], 3);
  EXPECT_EQ(j["verdict"], "disarmed");
  EXPECT_TRUE(j["before"].is_null() && j["after"].is_null() && j["der"].is_null() && j["target"].is_null());
  EXPECT_EQ(j["agreement"]["hits"], 2880);
  EXPECT_EQ(j["alarm"]["threshold"], 0.25);
  EXPECT_EQ(j["alarm"]["wanted_rate"], 0.05);
  EXPECT_EQ(j["alarm"]["false_alarms"]["n"], 3000);
  EXPECT_TRUE(j["alarm"]["detections"].is_null() && j["alarm"]["auroc"].is_null());
  ASSERT_EQ(j["scan"].size(), 2u);
  EXPECT_EQ(j["scan"][1]["trigger"], "checkerboard 3×3, bottom right");
  EXPECT_EQ(j["scan"][1]["before"]["largest_lift"]["class"], 1);
  EXPECT_DOUBLE_EQ(j["scan"][1]["before"]["largest_lift"]["value"], 0.97);
  EXPECT_EQ(j["scan"][1]["after"]["lifts"][1]["with_trigger"], 8);
}

TEST(DefenseReport, NothingMeasured_IsRefused) {
  expect_words(error_of([] { check_complete(DefenseReport{}); }), {"nothing was measured"});
  check_complete(DefenseReport{.agreement = metrics::Proportion{1, 2}});
  DefenseReport r = unlabelled();
  r.scan[1].after.pop_back();
  expect_words(error_of([&] { check_complete(r); }),
               {"'checkerboard 3×3, bottom right'", "each of 3 classes", "got 3 before and 2 after"});
  r = unlabelled();
  r.class_names.pop_back();
  expect_words(error_of([&] { check_complete(r); }), {"2 class names for 3 classes"});
}

}  // namespace
}  // namespace refine::report
