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

TEST(Html, Figures_AreInTheirColumns) {
  const std::string page = html(gated_report());
  // ASR: 50 of 50 before, 10 after, 20 gated.
  expect_words(page,
               {"data-k=\"before\">100.00 %<small>92.87 to 100.00</small></td><td data-k=\"after\">20.00 %",
                "data-k=\"victim\">100.00 %<small>92.87 to 100.00</small></td><td data-k=\"defended\">20.00 %"
                "<small>11.24 to 33.04</small></td><td data-k=\"gated\">40.00 %"});
  const auto row = page.find("Largest lift");
  EXPECT_LT(page.find("data-k=\"before\">100.00 pt", row), page.find("data-k=\"after\">", row));
}

TEST(Html, LiftBars_AreBeforeAboveAfter) {
  // Of class 1, in halves of 1000 units from −100 to 100 points: 100 points before, none after.
  expect_words(html(gated_report()), {"<rect class=\"b\" x=\"500.0\" y=\"2\" width=\"500.0\" height=\"7\"/>"
                                      "<rect class=\"a\" x=\"500.0\" y=\"11\" width=\"0.0\" height=\"7\"/>",
                                      "<span class=\"b\">+100.0</span><span class=\"a\">0.0</span>"});
}

TEST(Html, ConfusionMatrices_AreBeforeAndAfter) {
  const std::string page = html(gated_report());
  const auto counts_ten = [&](const char* caption) {
    const auto begin = page.find(caption);
    return page.substr(begin, page.find("</figure>", begin) - begin).find(">10</td>") != std::string::npos;
  };
  EXPECT_FALSE(counts_ten("Clean images, before"));
  EXPECT_TRUE(counts_ten("Clean images, after"));
  EXPECT_FALSE(counts_ten("Triggered images, before"));
  EXPECT_TRUE(counts_ten("Triggered images, after"));
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

TEST(Verdict, BothAnswersArmed_IsRetrained) {
  DefenseReport r = gated_report(Answer::gated);
  r.after = r.gated->metrics = r.before;
  EXPECT_EQ(verdict(r).decision, Verdict::Decision::retrain);
}

TEST(Verdict, GatedAnswerThatTheScanArms_IsArmed) {
  DefenseReport r = unlabelled();
  r.scan[1].gated = guessed({1000, 1000, 1000}, 1, 0.97);
  r.gated = metrics::GatedMetrics{.agreement = *r.agreement};
  EXPECT_EQ(verdict(r).kind, Verdict::Kind::disarmed);
  r.answer = Answer::gated;
  EXPECT_EQ(verdict(r).kind, Verdict::Kind::armed);
}

TEST(Verdict, GatedAnswer_IsNamedWhereItsFiguresAre) {
  DefenseReport r = unlabelled();
  r.scan[1].gated = guessed({1000, 1000, 1000}, 1, 0.97);
  r.gated = metrics::GatedMetrics{.agreement = {996, 1000}};
  const std::string defended = verdict(r).paragraph + verdict(r).finding;
  EXPECT_EQ(defended.find("gated"), std::string::npos) << defended;
  r.answer = Answer::gated;
  const Verdict gated = verdict(r);
  expect_words(gated.paragraph,
               {"The gated answer agrees with the victim on 99.6 %", "with the gated answer"});
  expect_words(gated.finding, {"97.0 points with the gated answer"});
  EXPECT_EQ(gated.paragraph.find("after the defense"), std::string::npos) << gated.paragraph;
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

TEST(CheckComplete, OtherImagesOrClasses_AreRefused) {
  DefenseReport r = gated_report();
  r.gated.reset();
  r.after.ba.n = 99;
  expect_words(error_of([&] { check_complete(r); }), {"100 images before", "99 after"});
  r = gated_report();
  r.gated.reset();
  r.class_names.clear();
  r.after.classes = 3;
  expect_words(error_of([&] { check_complete(r); }), {"2 classes", "3 and 100 after"});
  r = unlabelled();
  r.scan[1].gated = guessed({1000, 1000}, 1, 0.5);
  expect_words(error_of([&] { check_complete(r); }), {"checkerboard", "3 classes"});
}

}  // namespace
}  // namespace refine::report
