#include <refine/report/render.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "tests/report/examples.hpp"
#include "tests/support/error_of.hpp"
#include "tests/support/scratch_folder.hpp"

namespace refine::report {
namespace {

using refine::testing::error_of;
using refine::testing::expect_words;
using refine::testing::ScratchFolder;
using Json = nlohmann::ordered_json;

/// Ten images of three classes, target 0, as in tests/metrics/attack_metrics_test.cpp.
DefenseReport complete_report() {
  DefenseReport r = unlabelled();
  r.dataset = "CIFAR-3";
  r.attack = "BadNets";
  r.before = metrics::attack_metrics({.truth = {0, 0, 0, 1, 1, 1, 1, 2, 2, 2},
                                      .clean = {0, 0, 1, 1, 1, 1, 0, 2, 2, 1},
                                      .triggered = {0, 0, 0, 0, 0, 1, 0, 2, 0, 2},
                                      .classes = 3,
                                      .target = 0});
  r.after = metrics::attack_metrics({.truth = {0, 0, 0, 1, 1, 1, 1, 2, 2, 2},
                                     .clean = {0, 0, 1, 1, 1, 1, 0, 2, 2, 2},
                                     .triggered = {0, 0, 1, 1, 1, 1, 0, 2, 2, 1},
                                     .classes = 3,
                                     .target = 0});
  r.alarm->detections = metrics::Proportion{6, 7};
  r.alarm->auroc = metrics::Auroc{.wins = 65.5, .triggered = 7, .clean = 10};
  r.alarm->detected_at_1 = metrics::Proportion{5, 7};
  r.alarm->detected_at_5 = metrics::Proportion{6, 7};
  r.curves = {{"loss", "nats", "epoch", {1, 2, 3}, {2.5, std::nan(""), 0.25}}};
  r.facts = {{"seed", "666"}, {"permutation", "1 2 0"}};
  return r;
}

/// Many classes with three images each; most predictions are right.
DefenseReport many_classes_report(int classes) {
  metrics::Predictions before, after;
  for (int c = 0; c < classes; ++c) {
    for (int i = 0; i < 3; ++i) {
      for (auto* p : {&before, &after}) {
        p->truth.push_back(c);
        p->clean.push_back(i == 2 ? (7 * c + 1) % classes : c);
      }
      before.triggered.push_back(i == 0 ? c : 5);
      after.triggered.push_back(c);
    }
  }
  before.classes = after.classes = classes;
  before.target = after.target = 5;
  DefenseReport r{.title = "many classes", .dataset = "ImageNet", .model = "m", .attack = "BadNets"};
  r.before = metrics::attack_metrics(before);
  r.after = metrics::attack_metrics(after);
  for (int t = 0; t < 14; ++t) {
    const std::vector<std::int64_t> per_class(static_cast<std::size_t>(classes), 3);
    r.scan.push_back({"trigger", guessed(per_class, t, 0.9), guessed(per_class, t, 0.1)});
  }
  return r;
}

TEST(MetricsJson, ManyClasses_GrowsWithImagesNotWithClassesSquared) {
  const DefenseReport r = many_classes_report(1000);
  const std::string text = metrics_text(r);
  EXPECT_LT(text.size(), 1'500'000u);
  EXPECT_LT(std::count(text.begin(), text.end(), '\n'), 60'000);
  const ScratchFolder folder;
  const auto file = folder.write("metrics.json", text);
  const DefenseReport reread = read_metrics(file);
  EXPECT_EQ(metrics_text(reread), text);
  EXPECT_EQ(reread.before.clean, r.before.clean);
  EXPECT_EQ(reread.before.lifts, r.before.lifts);
  EXPECT_EQ(reread.before.unchanged, r.before.unchanged);
  EXPECT_EQ(reread.before.largest_pair_lift.pairs, 999'000);
  EXPECT_EQ(reread.scan[3].before, r.scan[3].before);
}

TEST(MetricsJson, ManyClassesOfWhichAllImagesMove_AreReadBack) {
  metrics::Predictions all{
      .truth = {7, 8}, .clean = {7, 8}, .triggered = {5, 6}, .classes = 101, .target = 5};
  DefenseReport r{.title = "moved"};
  r.before = r.after = metrics::attack_metrics(all);
  ASSERT_EQ(r.before.unchanged.sum(), 0);
  const ScratchFolder folder;
  EXPECT_EQ(read_metrics(folder.write("metrics.json", metrics_text(r))).before.unchanged, r.before.unchanged);
}

// 30,000 classes would take 7 GB a matrix.
TEST(MetricsJson, MatricesThatAFewBytesClaim_AreRefused) {
  const ScratchFolder folder;
  Json json = Json::parse(metrics_text(many_classes_report(101)));
  json["classes"] = 30'000;
  const auto file = folder.write("metrics.json", json.dump());
  expect_words(error_of([&] { read_metrics(file); }), {"before.confusion.clean", "30000 classes"});
}

TEST(MetricsJson, ManyClasses_WrongEntriesAreNamed) {
  const ScratchFolder folder;
  const Json json = Json::parse(metrics_text(many_classes_report(101)));
  EXPECT_EQ(json["schema"], 2);
  EXPECT_EQ(json["before"]["confusion"]["clean"][0], Json({0, 0, 2}));
  EXPECT_EQ(json["before"]["confusion"]["clean"][1], Json({0, 1, 1}));
  const std::vector<std::pair<std::function<void(Json&)>, std::string>> wrong = {
      {[](Json& j) { j["before"]["confusion"]["clean"][1][1] = 0; }, "clean[1]: is not in row order"},
      {[](Json& j) { j["before"]["confusion"]["clean"][0].push_back(1); },
       "clean[0]: must have 3 entries, got 4"},
      {[](Json& j) { j["before"]["confusion"]["clean"][0][0] = 101; }, "clean[0][0]"},
      {[](Json& j) { j["before"]["lifts"][4][2] = 1; }, "before.lifts[4]"},
      {[](Json& j) { j["scan"][0]["after"]["lifts"].erase(9); }, "one lift for each of 101 classes, got 100"},
      {[](Json& j) { j["classes"] = 9'000'000; }, "classes"},
      {[](Json& j) { j["schema"] = 3; }, "schema: must be 1 or 2, got 3"}};
  for (const auto& [change, words] : wrong) {
    Json changed = json;
    change(changed);
    const auto bad = folder.write("bad.json", changed.dump());
    expect_words(error_of([&] { read_metrics(bad); }), {"bad.json", words});
  }
}

TEST(ReadMetrics, WrittenReport_GivesTheSameOutputs) {
  const ScratchFolder folder;
  DefenseReport without_trigger = complete_report();
  without_trigger.before = without_trigger.after = metrics::AttackMetrics{.classes = 3};
  for (auto* f : {&without_trigger.before, &without_trigger.after}) {
    f->clean = complete_report().before.clean;
    f->ba = {7, 10};
  }
  DefenseReport without_target = complete_report();
  for (auto* f : {&without_target.before, &without_target.after}) {
    *f = metrics::attack_metrics(
        {.truth = {0, 1, 2}, .clean = {0, 1, 1}, .triggered = {2, 1, 1}, .classes = 3});
  }
  DefenseReport all_to_all = complete_report();
  for (auto* f : {&all_to_all.before, &all_to_all.after}) {
    *f = metrics::attack_metrics({.truth = {0, 1, 2},
                                  .clean = {0, 1, 1},
                                  .triggered = {1, 2, 1},
                                  .classes = 3,
                                  .target = metrics::Target::of_classes({1, 2, {}})});
  }
  for (const DefenseReport& r :
       {complete_report(), unlabelled(), without_trigger, without_target, all_to_all,
        gated_report(Answer::gated), DefenseReport{.agreement = metrics::Proportion{1, 2}}}) {
    write_report(r, folder.path);
    const DefenseReport reread = read_metrics(folder.path / "metrics.json");
    EXPECT_EQ(html(reread), html(r));
    EXPECT_EQ(metrics_text(reread), metrics_text(r));
    EXPECT_EQ(terminal_table(reread), terminal_table(r));
    EXPECT_EQ(reread.after.target, r.after.target);
    EXPECT_EQ(reread.after.largest_pair_lift, r.after.largest_pair_lift);
    EXPECT_EQ(reread.scan, r.scan);
    EXPECT_EQ(reread.alarm, r.alarm);
    EXPECT_EQ(reread.answer, r.answer);
    ASSERT_EQ(reread.gated.has_value(), r.gated.has_value());
    if (r.gated) {
      EXPECT_EQ(reread.gated->curve, r.gated->curve);
    }
  }
}

TEST(ReadMetrics, CalibrationAndGatedScan_AreReadAndShown) {
  DefenseReport r = unlabelled();
  r.alarm->calibration_images = 600;
  r.alarm->calibration_groups = 500;
  r.scan[0].gated = guessed({1000, 1000, 1000}, 2, 0.02);
  r.scan[1].gated = guessed({1000, 1000, 1000}, 1, 0.5);
  const ScratchFolder folder;
  const DefenseReport reread = read_metrics(folder.write("m.json", metrics_text(r)));
  EXPECT_EQ(reread.alarm, r.alarm);
  EXPECT_EQ(reread.scan, r.scan);
  // 25 of 501, and the quantiles of Beta(25, 476) of tests/metrics/roc_test.cpp.
  expect_words(terminal_table(r), {"  expected              500", "4.99 %", "3.26 to 7.06"});
  expect_words(html(r), {"600 other clean images in 500 groups", "expect 5.0"});
  expect_words(terminal_table(r), {"With the gated answer", "50.0 points, at “ship”"});
}

TEST(ReadMetrics, EarlierAndLaterVersions_AreRead) {
  const ScratchFolder folder;
  Json j = metrics_json(complete_report());
  for (const char* key : {"alarm", "agreement", "scan"}) j.erase(key);
  j["of a later version"] = {1, 2};
  const DefenseReport r = read_metrics(folder.write("m.json", j.dump()));
  EXPECT_EQ(r.before.asr, (metrics::Proportion{4, 7}));
  EXPECT_FALSE(r.alarm || r.agreement);
  EXPECT_TRUE(r.scan.empty());
}

// Files of earlier versions have neither the moved share nor the lifts of pairs.
TEST(ReadMetrics, NoPairs_AreNotMeasured) {
  const ScratchFolder folder;
  const DefenseReport complete = complete_report();
  Json j = metrics_json(complete);
  j.erase("targets");
  for (const char* side : {"before", "after"}) {
    j[side].erase("moved");
    j[side].erase("largest_pair_lift");
    j[side]["confusion"].erase("unchanged");
  }
  for (const char* key : {"detected_at_1", "detected_at_5"}) j["alarm"].erase(key);
  const DefenseReport r = read_metrics(folder.write("m.json", j.dump()));
  EXPECT_EQ(r.before.lifts, complete.before.lifts);
  EXPECT_EQ(r.before.largest_lift, complete.before.largest_lift);
  EXPECT_EQ(r.before.moved.n, 0);
  EXPECT_EQ(r.before.largest_pair_lift.lift.n, 0);
  EXPECT_FALSE(r.alarm->detected_at_1 || r.alarm->detected_at_5);
  EXPECT_EQ(r.alarm->auroc, complete.alarm->auroc);
  expect_words(terminal_table(r),
               {"Not in this file of an earlier version: moved share, largest pair lift."});
  EXPECT_EQ(terminal_table(r).find("nan"), std::string::npos);
  EXPECT_EQ(html(r).find("Largest pair lift"), std::string::npos);
}

TEST(ReadMetrics, ContradictoryFile_IsRefused) {
  const ScratchFolder folder;
  struct Case {
    std::function<void(Json&)> spoil;
    std::vector<std::string_view> words;
  };
  const std::vector<Case> cases = {
      {[](Json& j) { j["schema"] = 3; }, {"schema: must be 1 or 2, got 3"}},
      {[](Json& j) { j.erase("schema"); }, {"has no key 'schema'"}},
      {[](Json& j) { j["title"] = 3; }, {"title: not a string"}},
      {[](Json& j) { j["target"] = 3; }, {"target: must be between 0 and 2, got 3"}},
      {[](Json& j) { j["classes"] = 4; },
       {"before.confusion.clean: must have one row for each of 4 classes, got 3"}},
      {[](Json& j) { j["before"]["ba"]["hits"] = 11; }, {"before.ba.hits: must be between 0 and 10, got 11"}},
      {[](Json& j) { j["before"]["ba"]["hits"] = -1; }, {"before.ba.hits: must be between", "got -1"}},
      {[](Json& j) { j["before"]["ba"]["hits"] = 1.5; }, {"before.ba.hits: not an integer"}},
      {[](Json& j) { j["before"]["ba"]["hits"] = 18446744073709551615u; },
       {"before.ba.hits: must be between", "got 18446744073709551615"}},
      {[](Json& j) { j["before"]["ba"]["value"] = 0.8; },
       {"before.ba.value: is 0.8, but the counts give 0.7"}},
      {[](Json& j) { j["before"]["asr"]["value"] = nullptr; }, {"before.asr.value: is nan"}},
      {[](Json& j) { j["before"]["asr"]["hits"] = 3, j["before"]["asr"]["value"] = 3.0 / 7; },
       {"before.asr: is 3 of 7, but the confusion matrices give 4 of 7"}},
      {[](Json& j) { j["after"]["confusion"]["triggered"][1][1] = 9; },
       {"after.asr: is 1 of 7, but the confusion matrices give 1 of 13"}},
      {[](Json& j) { j["after"]["confusion"]["clean"][1].erase(0); }, {"after.confusion.clean[1]"}},
      {[](Json& j) { j["after"]["confusion"]["clean"][1][0] = std::int64_t{1} << 40; },
       {"clean[1][0]: must be between 0 and 4294967296, got 1099511627776"}},
      {[](Json& j) { j["before"]["lifts"][1]["gained"] = 1; }, {"before.lifts[1]: gains 1 and loses 3"}},
      {[](Json& j) { j["before"]["lifts"].erase(1); },
       {"before.lifts: must have one lift for each of 3 classes, got 2"}},
      {[](Json& j) { std::swap(j["before"]["lifts"][0], j["before"]["lifts"][1]); },
       {"lifts[0].class: must be 0, got 1"}},
      {[](Json& j) { j["before"]["largest_lift"] = j["before"]["lifts"][1]; },
       {"is not the largest of the lifts"}},
      {[](Json& j) { j["before"]["moved"]["hits"] = 5, j["before"]["moved"]["value"] = 5.0 / 7; },
       {"before.moved: is 5 of 7, but the confusion matrices give 4 of 7"}},
      {[](Json& j) { j["before"]["confusion"].erase("unchanged"); }, {"has no key 'unchanged'"}},
      {[](Json& j) { j["before"]["confusion"]["unchanged"][0][0] = 3; },
       {"before.confusion.unchanged: counts images that are not in the other matrices"}},
      {[](Json& j) { j["before"]["confusion"]["unchanged"][1][0] = 0; },
       {"before.lifts[0]: contradicts the confusion matrices"}},
      {[](Json& j) { j["before"].erase("largest_pair_lift"); }, {"has no key 'largest_pair_lift'"}},
      {[](Json& j) { j["before"]["largest_pair_lift"]["truth"] = 2; },
       {"before.largest_pair_lift: is not the largest lift of a pair"}},
      {[](Json& j) { j["before"]["largest_pair_lift"]["pairs"] = 1; },
       {"before.largest_pair_lift: is not the largest lift of a pair"}},
      {[](Json& j) { j["before"]["largest_pair_lift"]["truth"] = 3; },
       {"before.largest_pair_lift.truth: must be between 0 and 2, got 3"}},
      {[](Json& j) {
         j["targets"] = {1, 2, 0};
       },
       {"targets: must be null beside a target of all classes"}},
      {[](Json& j) {
         j["target"] = nullptr, j["targets"] = {1, 2};
       },
       {"targets: must have one target for each of 3 classes, got 2"}},
      {[](Json& j) {
         j["target"] = nullptr, j["targets"] = {1, 2, 3};
       },
       {"targets[2]: must be between 0 and 2, got 3"}},
      {[](Json& j) {
         j["target"] = nullptr, j["targets"] = {1, 2, 0};
       },
       {"before.asr: is 4 of 7"}},
      {[](Json& j) { j["alarm"]["detected_at_1"]["hits"] = 8; },
       {"alarm.detected_at_1.hits: must be between 0 and 7, got 8"}},
      {[](Json& j) { j["der"] = 0.5; }, {"der: is 0.5"}},
      {[](Json& j) { j["before"] = nullptr; }, {"der: is"}},
      {[](Json& j) { j["alarm"]["wanted_rate"] = 1; },
       {"alarm.wanted_rate: must be a rate in [0, 1), got 1"}},
      {[](Json& j) { j["alarm"]["auroc"]["wins"] = 71; },
       {"alarm.auroc.wins: must be between 0 and 70, got 71"}},
      {[](Json& j) { j["alarm"]["auroc"]["value"] = 0.5; }, {"alarm.auroc.value: is 0.5"}},
      {[](Json& j) { j["scan"][1]["before"]["lifts"][1]["n"] = 1999; }, {"scan[1].before.lifts[1]"}},
      {[](Json& j) { j["scan"] = "none"; }, {"scan: not an array"}},
      {[](Json& j) { j["curves"][0]["y"].erase(0); }, {"'loss'", "3 x and 2 y", "m.json"}},
      {[](Json& j) { j["class_names"].erase(0); }, {"2 class names for 3 classes", "m.json"}},
      {[](Json& j) {
         j["lost_classes"] = {0, 3};
       },
       {"lost_classes must be classes of the report, which has 3, got 3", "m.json"}},
      {[](Json& j) { j = Json::array(); }, {"not a JSON object"}},
  };
  for (const Case& c : cases) {
    Json j = metrics_json(complete_report());
    c.spoil(j);
    const auto file = folder.write("m.json", j.dump());
    const std::string line = error_of([&] { read_metrics(file); });
    EXPECT_NE(line.find("m.json"), std::string::npos) << line;
    for (const auto word : c.words) expect_words(line, {word});
  }
}

TEST(ReadMetrics, OtherFile_IsRefused) {
  const ScratchFolder folder;
  expect_words(error_of([&] { read_metrics(folder.path / "absent.json"); }), {"absent.json", "No such file"});
  const std::string complete = metrics_text(complete_report());
  for (const std::string& bytes : {std::string(), std::string("{"), complete.substr(0, complete.size() / 2),
                                   std::string(100'000, '['), std::string("\0\xff", 2)}) {
    expect_words(error_of([&] { read_metrics(folder.write("m.json", bytes)); }),
                 {"m.json", "not a JSON object"});
  }
}

TEST(ReadMetrics, FileLongerThanTheLimit_IsRefusedBeforeItIsRead) {
  const ScratchFolder folder;
  const std::string complete = metrics_text(complete_report());
  const auto file = folder.write("m.json", complete + std::string((64 << 20) - complete.size(), ' '));
  EXPECT_EQ(read_metrics(file).attack, "BadNets");
  std::filesystem::resize_file(file, (64 << 20) + 1);
  expect_words(error_of([&] { read_metrics(file); }), {"m.json", "67108865 bytes", "more than the 67108864"});
}

TEST(ComparisonMarkdown, NamesOfStrangers_AreText) {
  DefenseReport r = unlabelled();
  r.model = "<img src=x> &amp; `x` *b* [l](u) a_b";
  expect_words(comparison_markdown({r}), {R"(\<img src=x> \&amp; \`x\` \*b\* \[l](u) a_b)"});
}

// After the defense, the largest lift is 1 of 7: of the images of other classes, the trigger moves
// the last to class 1. Of its class, it is one of three.
TEST(ComparisonMarkdown, Reports_AreAlignedRows) {
  DefenseReport other = unlabelled();
  other.model = "a|b\nc";
  EXPECT_EQ(
      comparison_markdown({complete_report(), other}),
      "| attack  | model         |       BA, % |      ASR, % |       RA, % | largest lift |   pair lift | DER, % |   n |\n"
      "| ------- | ------------- | ----------: | ----------: | ----------: | -----------: | ----------: | -----: | --: |\n"
      "| BadNets | classifier.pt | 70.0 → 80.0 | 57.1 → 14.3 | 42.9 → 71.4 |  42.9 → 14.3 | 50.0 → 33.3 |   71.4 |  10 |\n"
      "| –       | a\\|b\\\\x0ac    |           – |           – |           – |            – |           – |      – |   – |\n");
}

TEST(ComparisonMarkdown, NoReports_IsTheHeader) {
  EXPECT_EQ(comparison_markdown({}),
            "| attack | model | BA, % | ASR, % | RA, % | largest lift | pair lift | DER, % |   n |\n"
            "| ------ | ----- | ----: | -----: | ----: | -----------: | --------: | -----: | --: |\n");
}

}  // namespace
}  // namespace refine::report
