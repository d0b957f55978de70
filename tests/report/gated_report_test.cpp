#include <refine/report/render.hpp>
#include <refine/report/verdict.hpp>

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "tests/report/examples.hpp"
#include "tests/support/error_of.hpp"

namespace refine::report {
namespace {

using refine::testing::error_of;
using refine::testing::expect_words;

// BA: 100 of 100 before, 90 defended and 90 gated. ASR: 50 of 50 before, 10 defended; 20 of 50 gated,
// since the alarm of another 10 is silent.
TEST(GatedReport, Terminal_HasBothAnswers) {
  const std::string text = terminal_table(gated_report());
  expect_words(text, {"BA                      100", "BA, gated               100", "90.00 %",
                      "ASR, gated               50", "40.00 %", "lift, gated              50", "20.00 pt",
                      "pair lift, gated         50", "agreement, gated        100",
                      "Gated: the victim's answer where the alarm is silent"});
  expect_words(terminal_table(gated_report(Answer::gated)), {"Gated (served): "});
}

TEST(GatedReport, Page_HasBothAnswersAndTheCurve) {
  const std::string page = html(gated_report());
  expect_words(page, {"<h2>Gated answer</h2>", "It trusts the alarm", "backdoor and all", "Gated: BA, %",
                      "Gated: largest lift, points", "none: always defended", "10.0 %"});
  EXPECT_EQ(page.find("nan"), std::string::npos);
  expect_words(html(gated_report(Answer::gated)), {"<h2>Gated answer (served)</h2>"});
}

TEST(GatedReport, Json_HasBothAnswersAndTheCurve) {
  const auto j = nlohmann::json::parse(metrics_text(gated_report(Answer::gated)));
  EXPECT_EQ(j["answer"], "gated");
  EXPECT_EQ(j["after"]["asr"]["hits"], 10);
  EXPECT_EQ(j["gated"]["threshold"], 0.5);
  EXPECT_EQ(j["gated"]["metrics"]["asr"]["hits"], 20);
  EXPECT_EQ(j["gated"]["alarms"]["hits"], 10);
  ASSERT_EQ(j["gated"]["curve"].size(), 3u);
  EXPECT_EQ(j["gated"]["curve"][0]["asr"]["hits"], 50) << "no clean image raises the alarm, and no other";
  EXPECT_EQ(j["gated"]["curve"][1]["asr"]["hits"], 20);
  EXPECT_EQ(j["gated"]["curve"][2]["asr"]["hits"], 10);
  EXPECT_EQ(j["gated"]["curve"][2]["threshold"], -1.0);
}

TEST(Verdict, ServedAnswer_IsJudged) {
  EXPECT_NE(verdict(gated_report()).kind, Verdict::Kind::armed);
  const Verdict gated = verdict(gated_report(Answer::gated));
  EXPECT_EQ(gated.kind, Verdict::Kind::armed);
  expect_words(gated.paragraph, {"“ship” by 20.0 points", "The gated answer is served"});
  EXPECT_EQ(gated.decision, Verdict::Decision::improve);
  expect_words(gated.reason, {"serve the defended one"});
}

// The gated answer agrees with the victim wherever the alarm is silent, however bad the defense is.
TEST(Verdict, GatedAnswerOfAnUntrainedDefense_IsNotServed) {
  for (const bool has_labels : {false, true}) {
    DefenseReport r{.agreement = metrics::Proportion{136, 1000},
                    .gated = metrics::GatedMetrics{.agreement = {960, 1000}},
                    .answer = Answer::gated};
    if (has_labels) {
      r.before = r.after = {.classes = 2, .ba = {970, 1000}};
      r.after.ba = {140, 1000};
      r.gated->metrics = {.classes = 2, .ba = {940, 1000}};
    }
    const Verdict v = verdict(r);
    EXPECT_EQ(v.decision, Verdict::Decision::improve) << has_labels;
    expect_words(v.reason, {"defended answer", "alarm", "13.6 %"});
    r.agreement = metrics::Proportion{900, 1000};
    EXPECT_EQ(verdict(r).decision, Verdict::Decision::serve) << has_labels;
  }
}

TEST(CheckComplete, GatedAnswerThatDoesNotFit_IsRefused) {
  DefenseReport r = gated_report(Answer::gated);
  r.gated->metrics.ba.n = 3;
  expect_words(error_of([&] { check_complete(r); }), {"gated", "3 images", "100"});
  r.gated.reset();
  expect_words(error_of([&] { check_complete(r); }), {"gated answer", "not measured"});
}

}  // namespace
}  // namespace refine::report
