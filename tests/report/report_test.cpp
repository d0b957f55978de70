#include <refine/report/detail/html_parts.hpp>
#include <refine/report/report.hpp>

#include <gtest/gtest.h>
#include <png.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <fstream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "tests/support/error_of.hpp"
#include "tests/support/scratch_folder.hpp"

namespace refine::report {
namespace {

using refine::testing::error_of;
using refine::testing::expect_words;

namespace fs = std::filesystem;

/// Returns the number of occurrences of `part`.
int occurrences(const std::string& text, std::string_view part) {
  int count = 0;
  for (auto i = text.find(part); i != std::string::npos; i = text.find(part, i + part.size())) ++count;
  return count;
}

/// Expands groups of {count, truth, clean prediction, triggered prediction}.
metrics::Predictions predictions(const std::vector<std::array<int, 4>>& groups, std::optional<int> target) {
  metrics::Predictions p{.classes = 3, .target = target};
  for (auto [count, truth, clean, triggered] : groups) {
    p.truth.insert(p.truth.end(), static_cast<std::size_t>(count), truth);
    p.clean.insert(p.clean.end(), static_cast<std::size_t>(count), clean);
    p.triggered.insert(p.triggered.end(), static_cast<std::size_t>(count), triggered);
  }
  return p;
}

/// 3000 images of three classes, target 0. Before: 2700 are right, and the trigger sends 1950 of
/// 2000 to the target. After: 2640 are right; 40 of 2000 are predicted as the target, 20 of them
/// without the trigger, too.
DefenseReport example_report() {
  DefenseReport r;
  r.title = "REFINE against BadNets";
  r.dataset = "CIFAR-3";
  r.model = "ResNet-18";
  r.attack = "BadNets";
  r.class_names = {"cat", "dog", "frog"};
  r.before = metrics::attack_metrics(predictions({{900, 0, 0, 0},
                                                  {100, 0, 1, 0},
                                                  {900, 1, 1, 0},
                                                  {100, 1, 2, 0},
                                                  {900, 2, 2, 0},
                                                  {50, 2, 1, 0},
                                                  {50, 2, 1, 2}},
                                                 0));
  r.after = metrics::attack_metrics(predictions({{900, 0, 0, 0},
                                                 {100, 0, 1, 0},
                                                 {870, 1, 1, 1},
                                                 {20, 1, 1, 0},
                                                 {90, 1, 2, 2},
                                                 {20, 1, 0, 0},
                                                 {850, 2, 2, 2},
                                                 {150, 2, 1, 1}},
                                                0));
  r.curves = {{"defense loss", "nats", "epoch", {1, 2, 3}, {2.5, std::nan(""), 0.25}}};
  r.facts = {{"seed", "666"}, {"permutation", "1 2 0"}};
  r.sheet = {
      .channels = 3,
      .height = 1,
      .width = 2,
      .columns = {"clean", "triggered"},
      .rows = {{.images = {{1, 2, 3, 4, 5, 6}, {10, 20, 30, 40, 50, 60}}, .captions = {"cat", "dog"}}}};
  return r;
}

/// Returns the first error in the nesting of the tags, or an empty text.
std::string imbalance(const std::string& html) {
  const std::set<std::string> empty = {"meta", "img", "br", "!doctype"};
  std::vector<std::string> open;
  std::size_t begin = 0;
  while ((begin = html.find('<', begin)) != std::string::npos) {
    const auto end = html.find('>', begin);
    if (end == std::string::npos) return "a tag without end";
    const std::string tag = html.substr(begin + 1, end - begin - 1);
    if (occurrences(tag, "<") != 0) return "a tag in a tag: " + tag;
    if (occurrences(tag, "\"") % 2 != 0) return "an open quote: " + tag;
    begin = end + 1;
    const bool closing = tag.starts_with("/");
    std::string name;
    for (char c : tag.substr(closing ? 1 : 0)) {
      if (std::isspace(static_cast<unsigned char>(c)) || c == '/') break;
      name += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    }
    if (closing) {
      if (open.empty() || open.back() != name)
        return "</" + name + "> closes " + (open.empty() ? "" : open.back());
      open.pop_back();
    } else if (!tag.ends_with("/") && !empty.contains(name)) {
      open.push_back(name);
    }
  }
  return open.empty() ? "" : open.back() + " is left open";
}

TEST(TerminalTable, Report_HasHandComputedMetrics) {
  const auto text = terminal_table(example_report());
  // BA: 2700 and 2640 of 3000; ASR: 1950 and 40 of 2000; DER = (0.955 - 0.02 + 1) / 2.
  std::istringstream lines(text);
  std::vector<std::vector<std::string>> words;
  for (std::string line; std::getline(lines, line);) {
    EXPECT_LE(std::count_if(line.begin(), line.end(), [](char c) { return (c & 0xC0) != 0x80; }), 100)
        << line;
    EXPECT_FALSE(line.ends_with(' ')) << line;
    std::istringstream in(line);
    words.emplace_back(std::istream_iterator<std::string>(in), std::istream_iterator<std::string>());
  }
  using Words = std::vector<std::string>;
  ASSERT_EQ(words.size(), 16u) << text;
  EXPECT_EQ(words[0], (Words{"REFINE", "against", "BadNets"}));
  EXPECT_EQ(words[3], (Words{"BA", "3,000", "90.00", "%", "88.87", "to", "91.02", "88.00", "%", "86.79", "to",
                             "89.11", "−2.00"}));
  EXPECT_EQ(words[4], (Words{"ASR", "2,000", "97.50", "%", "96.72", "to", "98.10", "2.00", "%", "1.47", "to",
                             "2.71", "−95.50"}));
  EXPECT_EQ(words[5][2], "2.50");
  EXPECT_EQ(words[5][7], "86.00");
  EXPECT_EQ(words[6][0] + words[6][1] + words[6][3] + words[6][4], "largestlift97.50pt");
  EXPECT_EQ(words[6][8] + words[6][9], "1.00pt");
  EXPECT_EQ(words[7], (Words{"at", "class", "cat", "cat"}));
  // The trigger changes all 2000 predictions before, 20 after. Of the 1000 dogs, 1000 become cats
  // before, 20 after. Six pairs, so the quantile is 2.638. The interval of 1000 gained is 1000/1002 ±
  // 2.638 · sqrt((1 − (1000/1002)²) / 1002), that of 20 gained is 20/1002 ± 2.638 · sqrt((22/1002 −
  // (20/1002)²) / 1002).
  EXPECT_EQ(words[8], (Words{"moved", "share", "2,000", "100.00", "%", "99.81", "to", "100.00", "1.00", "%",
                             "0.65", "to", "1.54", "−99.00"}));
  EXPECT_EQ(words[9], (Words{"largest", "pair", "lift", "1,000", "100.00", "pt", "99.27", "to", "100.00",
                             "2.00", "pt", "0.77", "to", "3.22", "−98.00"}));
  EXPECT_EQ(words[10], (Words{"from", "class", "dog", "dog"}));
  EXPECT_EQ(words[11], (Words{"to", "class", "cat", "cat"}));
  EXPECT_EQ(words[12], (Words{"DER", "96.75", "%"}));
  EXPECT_EQ(words[14], (Words{"The", "trigger", "is", "disarmed."}));
  EXPECT_EQ(words[15][0] + words[15][1], "Serveit:");
  std::ostringstream out;
  out << example_report();
  EXPECT_EQ(out.str(), text);
}

TEST(TerminalTable, NoTargetAndLongNames_IsReadable) {
  DefenseReport r = example_report();
  r.before.target = r.after.target = std::nullopt;
  r.before.asr = r.after.asr = {};
  r.class_names = {std::string(60, 'x') + "é", "dög", "frog"};
  const auto text = terminal_table(r);
  EXPECT_EQ(text.find("nan"), std::string::npos) << text;
  EXPECT_NE(text.find("ASR                       –           –"), std::string::npos) << text;
  EXPECT_NE(text.find("xxxxxxxxxxxxxxxx…  "), std::string::npos) << text;
}

TEST(Format, Numbers_AreRounded) {
  EXPECT_EQ(format::count(0), "0");
  EXPECT_EQ(format::count(999), "999");
  EXPECT_EQ(format::count(1000), "1,000");
  EXPECT_EQ(format::count(-1234567), "-1,234,567");
  EXPECT_EQ(format::signed_hundredths(0.00001), "0.00");
  EXPECT_EQ(format::signed_hundredths(-0.00001), "0.00");
  EXPECT_EQ(format::signed_hundredths(0.004), "+0.40");
  EXPECT_EQ(format::signed_hundredths(-1), "−100.00");
  EXPECT_EQ(format::percent(std::nan("")), "–");
}

TEST(Format, ClassWithoutAName_IsNumbered) {
  EXPECT_EQ(format::class_name({"cat", ""}, 0), "cat");
  EXPECT_EQ(format::class_name({"cat", ""}, 1), "class 1");
  EXPECT_EQ(format::class_name({"cat", ""}, 2), "class 2");
}

TEST(Verdict, LargestLift_DecidesKind) {
  using Kind = Verdict::Kind;
  DefenseReport r = example_report();
  EXPECT_EQ(verdict(r).kind, Kind::disarmed);

  const auto with = [&](std::int64_t gained, int cls, std::int64_t n) {
    r.after.largest_lift = {.cls = cls, .with_trigger = gained, .gained = gained, .n = n};
    return verdict(r);
  };
  EXPECT_EQ(with(1500, 0, 2000).headline, "The trigger still works");
  EXPECT_EQ(with(1500, 2, 2000).headline, "The attack was moved, not stopped");
  EXPECT_EQ(with(140, 2, 2000).headline, "Disarmed, or nearly so");  // 7 points, 5.9 to 8.2
  EXPECT_EQ(with(140, 2, 2000).kind, Kind::uncertain);
  EXPECT_EQ(with(140, 0, 2000).kind, Kind::armed) << "a lift of the attacked class is the attack";
  EXPECT_EQ(with(200, 2, 2000).kind, Kind::armed);
  EXPECT_NE(with(1500, 2, 2000).paragraph.find("lifts “frog” by 75.0 points"), std::string::npos);
  EXPECT_EQ(with(1, 0, 20).kind, Kind::uncertain);
  // Of many classes, the interval of the largest is wider: 7 points, 5.9 to 8.2 alone and 4.8 to 9.2 of 1,000.
  r.after.largest_lift = {.cls = 0, .with_trigger = 140, .gained = 140, .n = 2000, .candidates = 1000};
  EXPECT_EQ(verdict(r).kind, Kind::uncertain);
  EXPECT_EQ(with(0, 0, 0).kind, Kind::unmeasured);
  r = example_report();
  r.after.ba.hits = 2401;  // 90 % before, 80.03 % after; below, more than ten points less
  EXPECT_EQ(verdict(r).headline, "The trigger is disarmed");
  r.after.ba.hits = 2399;
  EXPECT_EQ(verdict(r).headline, "The trigger is disarmed, and the defense costs much accuracy");
  r = example_report();
  r.before = r.after;
  EXPECT_EQ(verdict(r).kind, Kind::harmless);
}

TEST(Verdict, LabelsShowCostlyDefense_IsNotServed) {
  DefenseReport r;
  r.before = r.after = {.classes = 2, .ba = {900, 1000}};
  r.after.ba = {790, 1000};
  EXPECT_EQ(verdict(r).decision, Verdict::Decision::improve);
  expect_words(verdict(r).reason, {"90.0 %", "79.0 %"});
  r.after.ba = {810, 1000};
  EXPECT_EQ(verdict(r).decision, Verdict::Decision::serve);
}

/// Returns the report of an attack, 1000 images for each of three classes, all predicted correctly
/// without the trigger.
///
/// \param before,after  groups of {count, class, class predicted with the trigger}; the other images
///   keep their prediction
DefenseReport attack_report(const std::vector<std::array<int, 3>>& before,
                            const std::vector<std::array<int, 3>>& after, const metrics::Target& target) {
  const auto measured = [&](const std::vector<std::array<int, 3>>& groups) {
    std::array<int, 3> left = {1000, 1000, 1000};
    std::vector<std::array<int, 4>> all;
    for (const auto& [count, truth, triggered] : groups) {
      all.push_back({count, truth, truth, triggered});
      left[static_cast<std::size_t>(truth)] -= count;
    }
    for (int c = 0; c < 3; ++c) all.push_back({left[static_cast<std::size_t>(c)], c, c, c});
    metrics::Predictions p = predictions(all, std::nullopt);
    p.target = target;
    return metrics::attack_metrics(p);
  };
  return {.class_names = {"cat", "dog", "frog"}, .before = measured(before), .after = measured(after)};
}

const std::vector<std::array<int, 3>> all_to_all = {{950, 0, 1}, {940, 1, 2}, {930, 2, 0}};
const metrics::Target next_class = metrics::Target::of_classes({1, 2, 0});

TEST(Verdict, AllToAll_IsArmedByItsPairs) {
  const DefenseReport undefended = attack_report(all_to_all, all_to_all, next_class);
  EXPECT_LT(undefended.after.largest_lift.value(), 0.01);
  const Verdict v = verdict(undefended);
  EXPECT_EQ(v.kind, Verdict::Kind::armed);
  EXPECT_EQ(v.headline, "The trigger still works");
  expect_words(v.paragraph,
               {"Before the defense, the trigger moves “cat” to “dog” by 95.0 points, the largest of 3 pairs",
                "it still moves “cat” to “dog” by 95.0 points, the largest of 3 pairs (95 % interval 9",
                "corrected for 6 pairs)", "Do not rely on this model"});
  EXPECT_EQ(v.paragraph.find("No target class"), std::string::npos);

  const Verdict disarmed = verdict(attack_report(all_to_all, {{20, 0, 1}, {15, 2, 1}}, next_class));
  EXPECT_EQ(disarmed.kind, Verdict::Kind::disarmed);
  expect_words(disarmed.paragraph,
               {"moves “cat” to “dog” by 95.0 points, the largest of 3 pairs",
                "The largest lift of a pair is “cat” to “dog” by 2.0 points (95 % interval"});

  // A fifth of one class still follows the trigger.
  const Verdict partly = verdict(attack_report(all_to_all, {{200, 0, 1}, {200, 1, 0}}, next_class));
  EXPECT_EQ(partly.kind, Verdict::Kind::armed);
  expect_words(partly.paragraph, {"it still moves “cat” to “dog” by 20.0 points (95 % interval"});
}

TEST(Verdict, AllToAllOnOtherPairs_WasMoved) {
  const Verdict v = verdict(attack_report(all_to_all, {{800, 0, 2}, {800, 1, 0}, {800, 2, 1}}, next_class));
  EXPECT_EQ(v.kind, Verdict::Kind::armed);
  EXPECT_EQ(v.headline, "The attack was moved, not stopped");
  expect_words(v.paragraph,
               {"after the defense, it moves “cat” to “frog” by 80.0 points, the largest of 3 pairs"});
}

TEST(Verdict, SourceSpecific_NamesItsPair) {
  const metrics::Target target = metrics::Target::of_classes({0, 0, {}});
  const std::vector<std::array<int, 3>> one = {{970, 1, 0}};
  const Verdict v = verdict(attack_report(one, one, target));
  EXPECT_EQ(v.kind, Verdict::Kind::armed);
  expect_words(v.paragraph,
               {"the trigger moves “dog” to “cat” by 97.0 points; after the defense, it still moves “dog” "
                "to “cat” by 97.0 points (95 % interval"});
  EXPECT_EQ(verdict(attack_report(one, {{10, 1, 0}}, target)).kind, Verdict::Kind::disarmed);
}

// A trigger that changes the whole image moves similar classes into each other on any model.
TEST(Verdict, OtherPairsUnderTheWholeImage_AreUncertain) {
  const std::vector<std::array<int, 3>> swapped = {{180, 1, 2}, {180, 2, 1}};
  const Verdict v = verdict(attack_report({{980, 1, 0}, {980, 2, 0}}, swapped, 0));
  EXPECT_EQ(v.kind, Verdict::Kind::uncertain);
  EXPECT_EQ(v.headline, "Disarmed, or nearly so");
  expect_words(v.paragraph,
               {"the trigger lifts “cat” by 98.0 points",
                "it moves “dog” to “frog” by 18.0 points, the largest of 2 pairs", "on a benign model"});
  EXPECT_EQ(verdict(attack_report({}, {{300, 1, 2}, {300, 2, 1}}, 0)).kind, Verdict::Kind::armed)
      << "a defense that made a backdoor";
  EXPECT_EQ(verdict(attack_report(swapped, {}, std::nullopt)).kind, Verdict::Kind::harmless);
}

TEST(Verdict, FewImagesOfAClass_AreTooCloseToCall) {
  // Four of twenty frogs become cats: 20 points, but perhaps less than 10. No lift of a class shows it.
  const metrics::AttackMetrics after = metrics::attack_metrics(
      predictions({{2000, 0, 0, 0}, {2000, 1, 1, 1}, {16, 2, 2, 2}, {4, 2, 2, 0}}, std::nullopt));
  const metrics::AttackMetrics before =
      metrics::attack_metrics(predictions({{2000, 0, 0, 1}, {2000, 1, 1, 1}, {20, 2, 2, 2}}, std::nullopt));
  const Verdict v = verdict({.class_names = {"cat", "dog", "frog"}, .before = before, .after = after});
  EXPECT_EQ(v.kind, Verdict::Kind::uncertain);
  EXPECT_EQ(v.headline, "Too close to call");
  expect_words(v.paragraph, {"seems to move “frog” to “cat” by 20.0 points", "With 20 images of “frog”"});
}

/// Returns metrics of `per_class` images of each of `classes` classes, all recognised without the trigger. It moves
/// the first `moved` of each class to the next class.
metrics::AttackMetrics next_class_metrics(int classes, int per_class, int moved) {
  metrics::Predictions p{.classes = classes};
  std::vector<std::optional<int>> targets;
  for (int c = 0; c < classes; ++c) {
    const int next = (c + 1) % classes;
    targets.push_back(next);
    for (int i = 0; i < per_class; ++i) {
      p.truth.push_back(c);
      p.clean.push_back(c);
      p.triggered.push_back(i < moved ? next : c);
    }
  }
  p.target = metrics::Target::of_classes(targets);
  return metrics::attack_metrics(p);
}

// 100 classes of 10 images: all 10 of a pair move, and the lower end of its corrected interval is 10.5 points.
TEST(Verdict, AllToAllWithFewImagesOfEachClass_IsFound) {
  const auto judge = [](int before, int after) {
    return verdict(
        {.before = next_class_metrics(100, 10, before), .after = next_class_metrics(100, 10, after)});
  };
  const Verdict undefended = judge(10, 10);
  EXPECT_EQ(undefended.kind, Verdict::Kind::armed);
  EXPECT_EQ(undefended.headline, "The trigger still works");
  expect_words(undefended.paragraph,
               {"Before the defense, the trigger lifts the classes that the attacker wants by 100.0 points",
                "it still lifts the classes that the attacker wants by 100.0 points (95 % interval 99."});
  const Verdict disarmed = judge(10, 0);
  EXPECT_EQ(disarmed.kind, Verdict::Kind::disarmed) << "not harmless";
  EXPECT_EQ(judge(0, 0).kind, Verdict::Kind::harmless);
  const Verdict made = judge(0, 10);
  EXPECT_EQ(made.headline, "The trigger works on the defended model");
  EXPECT_EQ(judge(10, 1).kind, Verdict::Kind::uncertain) << "10 points of 1,000 images";
}

// A dormant backdoor: the victim ignores the trigger, and its defense obeys it.
TEST(Verdict, TriggerThatWorksOnlyAfterTheDefense_DoesNotStillWork) {
  metrics::Predictions p{.classes = 3, .target = 0};
  for (int i = 0; i < 3000; ++i) {
    for (auto* labels : {&p.truth, &p.clean, &p.triggered}) labels->push_back(i % 3);
  }
  const metrics::AttackMetrics dormant = metrics::attack_metrics(p);
  for (const int cls : {0, 2}) {
    for (std::size_t i = 0; i < p.triggered.size(); ++i) p.triggered[i] = i % 10 == 0 ? p.clean[i] : cls;
    const Verdict v = verdict({.before = dormant, .after = metrics::attack_metrics(p)});
    EXPECT_EQ(v.kind, Verdict::Kind::armed);
    EXPECT_EQ(v.headline, "The trigger works on the defended model");
    EXPECT_EQ(v.paragraph.find("still"), std::string::npos) << v.paragraph;
  }
}

// One changed image of five is a lift of 20 points for a pair. Over all classes, the trigger has no effect.
TEST(Verdict, ManyClassesOfFewImages_AreJudgedByWhatTheAttackerWants) {
  for (const int each : {1, 2, 5, 9, 10}) {
    constexpr int classes = 200;
    metrics::Predictions p{.classes = classes, .target = 0};
    for (int i = 0; i < classes * each; ++i) {
      p.truth.push_back(i % classes);
      p.clean.push_back(i % classes);
      p.triggered.push_back(0);
    }
    const metrics::AttackMetrics before = metrics::attack_metrics(p);
    for (int i = 0; i < classes * each; ++i)
      p.triggered[static_cast<std::size_t>(i)] = i < classes && i % 4 == 1 ? (i + 13) % classes : i % classes;
    const Verdict v = verdict({.before = before, .after = metrics::attack_metrics(p)});
    EXPECT_EQ(v.kind, Verdict::Kind::disarmed) << each << ": " << v.paragraph;
    // Without a target, a pair may be what the attacker wants.
    metrics::AttackMetrics unknown = metrics::attack_metrics({p.truth, p.clean, p.triggered, classes, {}});
    EXPECT_EQ(verdict({.before = before, .after = unknown}).kind == Verdict::Kind::disarmed, each == 10);
  }
}

// Class 3 has nine images. If all nine move to class 7, the lift is 9/11 ± 3.45 · √(11 − 81/11) / 11 with 90 pairs: its
// lower end is 22 points. If eight do, that is 8 points.
TEST(Verdict, PairOfNineImages_CountsWhereTheLowerEndIsAboveTheLimit) {
  metrics::Predictions p{.classes = 10, .target = 0};
  for (int c = 0; c < 10; ++c) {
    for (int i = 0; i < (c == 3 ? 9 : 200); ++i) {
      p.truth.push_back(c);
      p.clean.push_back(c);
      p.triggered.push_back(0);
    }
  }
  const metrics::AttackMetrics before = metrics::attack_metrics(p);
  const auto judge = [&](int moved) {
    p.triggered = p.clean;
    for (int i = 600; i < 600 + moved; ++i) p.triggered[static_cast<std::size_t>(i)] = 7;
    return verdict({.before = before, .after = metrics::attack_metrics(p)}).kind;
  };
  EXPECT_EQ(judge(9), Verdict::Kind::armed);
  EXPECT_EQ(judge(8), Verdict::Kind::disarmed);
}

// Of a source-specific attack, only images of its source tell anything: 0 of 20 may be 13 points, 0 of 40 at most 7.
TEST(Verdict, FewImagesOfTheSource_AreTooCloseToCall) {
  const auto judge = [](int of_source) {
    metrics::Predictions p{.classes = 3, .target = metrics::Target::of_classes({{}, 0, {}})};
    for (int i = 0; i < 2000 + of_source; ++i) {
      const int truth = i < 1000 ? 0 : i < 2000 ? 2 : 1;
      p.truth.push_back(truth);
      p.clean.push_back(truth);
      p.triggered.push_back(truth);
    }
    const metrics::AttackMetrics after = metrics::attack_metrics(p);
    for (std::size_t i = 2000; i < p.triggered.size(); ++i) p.triggered[i] = 0;
    return verdict({.before = metrics::attack_metrics(p), .after = after});
  };
  EXPECT_EQ(judge(20).kind, Verdict::Kind::uncertain);
  expect_words(judge(20).paragraph, {"With 20 images that the attack moves"});
  EXPECT_EQ(judge(40).kind, Verdict::Kind::disarmed);
}

TEST(Verdict, NoImageThatTheAttackMoves_IsNotMeasured) {
  // All images are of the target class; or none is of the source.
  const auto all_of_target = metrics::attack_metrics(
      {.truth = {0, 0, 0}, .clean = {0, 0, 0}, .triggered = {0, 0, 0}, .classes = 3, .target = 0});
  metrics::Predictions others{.classes = 3, .target = metrics::Target::of_classes({{}, 0, {}})};
  for (int i = 0; i < 2000; ++i) {
    for (auto* labels : {&others.truth, &others.clean, &others.triggered}) labels->push_back(2 * (i % 2));
  }
  for (const metrics::AttackMetrics& m : {all_of_target, metrics::attack_metrics(others)}) {
    DefenseReport r{.before = m, .after = m, .agreement = metrics::Proportion{100, 100}};
    const Verdict v = verdict(r);
    EXPECT_EQ(v.kind, Verdict::Kind::unmeasured);
    expect_words(v.headline, {"no image is of a class that the attack moves"});
    EXPECT_EQ(v.decision, Verdict::Decision::improve);
    expect_words(v.reason, {"add images"});
  }
  const std::string table = terminal_table({.before = all_of_target, .after = all_of_target});
  expect_words(table, {"Not measured without images that the attack moves: ASR"});
  EXPECT_EQ(table.find("without a trigger"), std::string::npos);
}

TEST(MetricsJson, Report_HasCountsAndMetrics) {
  const auto j = nlohmann::json::parse(metrics_text(example_report()));
  EXPECT_EQ(j["schema"], 1);
  EXPECT_EQ(j["target"], 0);
  EXPECT_EQ(j["verdict"], "disarmed");
  EXPECT_EQ(j["classes"], 3);
  EXPECT_EQ(j["class_names"][2], "frog");
  EXPECT_EQ(j["before"]["ba"]["hits"], 2700);
  EXPECT_EQ(j["before"]["ba"]["n"], 3000);
  EXPECT_DOUBLE_EQ(j["before"]["ba"]["value"], 0.9);
  EXPECT_NEAR(j["before"]["asr"]["interval"][0], 0.9672, 5e-5);
  EXPECT_EQ(j["after"]["asr"]["hits"], 40);
  EXPECT_EQ(j["after"]["lifts"].size(), 3u);
  EXPECT_EQ(j["after"]["largest_lift"]["gained"], 20);
  EXPECT_DOUBLE_EQ(j["after"]["largest_lift"]["value"], 0.01);
  EXPECT_EQ(j["before"]["confusion"]["clean"],
            nlohmann::json::parse("[[900,100,0],[0,900,100],[0,100,900]]"));
  EXPECT_EQ(j["before"]["confusion"]["triggered"],
            nlohmann::json::parse("[[1000,0,0],[1000,0,0],[950,0,50]]"));
  EXPECT_EQ(j["before"]["confusion"]["unchanged"], nlohmann::json::parse("[[900,0,0],[0,0,0],[0,0,0]]"));
  EXPECT_EQ(j["before"]["moved"]["hits"], 2000);
  EXPECT_EQ(j["after"]["moved"]["hits"], 20);
  EXPECT_EQ(j["after"]["moved"]["n"], 2000);
  const auto& pair = j["after"]["largest_pair_lift"];
  EXPECT_EQ(pair["truth"], 1);
  EXPECT_EQ(pair["class"], 0);
  EXPECT_EQ(pair["with_trigger"], 40);
  EXPECT_EQ(pair["without_trigger"], 20);
  EXPECT_EQ(pair["n"], 1000);
  EXPECT_EQ(pair["pairs"], 6);
  EXPECT_NEAR(pair["interval"][0], 20.0 / 1002 - 2.638257 * std::sqrt((22 - 400.0 / 1002) / 1002 / 1002),
              1e-6);
  EXPECT_TRUE(j["targets"].is_null());
  EXPECT_NEAR(j["der"], (0.955 - 0.02 + 1) / 2, 1e-12);
  EXPECT_EQ(j["facts"][1], (nlohmann::json{{"name", "permutation"}, {"value", "1 2 0"}}));
  EXPECT_TRUE(j["curves"][0]["y"][1].is_null());
}

TEST(MetricsJson, NanAndInvalidUtf8_AreWritten) {
  DefenseReport r = example_report();
  r.before.target = r.after.target = std::nullopt;
  r.before.asr = r.after.asr = {};
  r.title = "bad \xff utf-8";
  const auto j = nlohmann::json::parse(metrics_text(r));
  EXPECT_TRUE(j["target"].is_null());
  EXPECT_TRUE(j["der"].is_null());
  EXPECT_TRUE(j["after"]["asr"]["value"].is_null());
  EXPECT_EQ(j["after"]["asr"]["n"], 0);
}

TEST(SheetPng, Decoded_HasThePixelsOfTheSheet) {
  ImageSheet sheet = example_report().sheet;
  const auto bytes = sheet_png(sheet, 2);
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  ASSERT_TRUE(png_image_begin_read_from_memory(&image, bytes.data(), bytes.size())) << image.message;
  EXPECT_EQ(image.height, 1u * 2 + 2 * 8);
  EXPECT_EQ(image.width, 2u * (2 * 2) + 3 * 8);
  image.format = PNG_FORMAT_RGB;
  std::vector<std::uint8_t> pixels(PNG_IMAGE_SIZE(image));
  ASSERT_TRUE(png_image_finish_read(&image, nullptr, pixels.data(), 0, nullptr)) << image.message;
  const auto pixel = [&](std::size_t y, std::size_t x) {
    const auto* p = &pixels[(y * image.width + x) * 3];
    return std::vector<int>{p[0], p[1], p[2]};
  };
  using Rgb = std::vector<int>;
  EXPECT_EQ(pixel(8, 8), (Rgb{1, 3, 5}));
  EXPECT_EQ(pixel(9, 9), (Rgb{1, 3, 5}));
  EXPECT_EQ(pixel(9, 10), (Rgb{2, 4, 6}));
  EXPECT_EQ(pixel(8, 8 + 4 + 8), (Rgb{10, 30, 50}));
  EXPECT_EQ(pixel(9, 8 + 4 + 8 + 3), (Rgb{20, 40, 60}));
  for (auto [y, x] : {std::pair{0, 0}, {7, 8}, {8, 7}, {8, 12}, {10, 8}, {17, 31}}) {
    EXPECT_EQ(pixel(static_cast<std::size_t>(y), static_cast<std::size_t>(x)), (Rgb{255, 255, 255}))
        << y << ' ' << x;
  }
  EXPECT_EQ(detail::interleave_rgb({.channels = 1, .height = 1, .width = 2}, {7, 9}),
            (std::vector<std::uint8_t>{7, 7, 7, 9, 9, 9}));
}

TEST(Base64, TestVectors_MatchRfc4648) {
  for (auto [plain, coded] : {std::pair{"", ""},
                              {"f", "Zg=="},
                              {"fo", "Zm8="},
                              {"foo", "Zm9v"},
                              {"foob", "Zm9vYg=="},
                              {"fooba", "Zm9vYmE="},
                              {"foobar", "Zm9vYmFy"}}) {
    EXPECT_EQ(detail::base64(plain), coded);
  }
  EXPECT_EQ(detail::base64("\xff\xff\xfe"), "///+");
}

TEST(Html, Report_IsWellFormedAndSelfContained) {
  const auto page = html(example_report());
  EXPECT_EQ(imbalance(page), "");
  for (const char* part : {"http:", "https:", "<script", "<link", "@import", "url(", "nan", "inf "}) {
    EXPECT_EQ(occurrences(page, part), 0) << part;
  }
  EXPECT_EQ(occurrences(page, "<img"), 2);
  EXPECT_EQ(occurrences(page, "src=\"data:image/png;base64,iVBORw0KGgo"), 2);
  EXPECT_EQ(occurrences(page, "<svg class=\"chart\""), 1);
  EXPECT_EQ(occurrences(page, "class=\"heat\""), 4);
  EXPECT_EQ(occurrences(page, "The trigger is disarmed"), 1);
  for (const char* part :
       {"97.50 %", "2.00 %", "96.75 %", "+83.50", "−95.50", "1 2 0", "prefers-color-scheme:dark"}) {
    EXPECT_GE(occurrences(page, part), 1) << part;
  }
}

TEST(Html, TargetOfEachClass_IsFramedInTheMatrices) {
  const std::vector<std::array<int, 3>> all = {{1000, 0, 1}, {1000, 1, 2}, {1000, 2, 0}};
  DefenseReport r = attack_report(all, all, next_class);
  const auto page = html(r);
  EXPECT_EQ(imbalance(page), "");
  EXPECT_EQ(occurrences(page, "\"hi to\">1000"), 6);  // the triggered images of two matrices
  EXPECT_EQ(occurrences(page, "\"to\">"), 6);         // the clean ones
  EXPECT_GE(occurrences(page, "cat → dog"), 1);
  EXPECT_GE(occurrences(page, "predicted as the target of their class"), 1);
  r.before.target = r.after.target = metrics::Target::of_classes({1, 0});
  expect_words(error_of([&] { html(r); }), {"targets", "got 2", "expected 3"});
}

TEST(Html, MarkupInTexts_IsEscaped) {
  DefenseReport r = example_report();
  const std::string evil = "<script>alert('&\"')</script>";
  r.title = r.dataset = r.model = r.attack = evil;
  for (auto& name : r.class_names) name = evil;
  for (auto& column : r.sheet.columns) column = evil;
  for (auto& caption : r.sheet.rows[0].captions) caption = evil;
  r.curves[0].name = r.curves[0].unit = r.curves[0].x_label = evil;
  r.facts = {{evil, evil}};
  const auto page = html(r);
  EXPECT_EQ(imbalance(page), "");
  EXPECT_EQ(occurrences(page, "<script"), 0);
  EXPECT_EQ(occurrences(page, "alert("),
            occurrences(page, "&lt;script&gt;alert(&#39;&amp;&quot;&#39;)&lt;/script&gt;"));
  EXPECT_GE(occurrences(page, "alert("), 20);
}

TEST(HtmlEscape, ControlsAndDirections_AreShownAsOnATerminal) {
  EXPECT_EQ(html_escape("a\x01\x1b[31m\n\tb\x7f\r"), "a\\x01\\x1b[31m\n\tb\\x7f\\x0d");
  EXPECT_EQ(html_escape("é\u0080\u009f<\xff"), "é\\xc2\\x80\\xc2\\x9f&lt;\\xff");
  EXPECT_EQ(html_escape("\u202atp\u202e.\u2066\u2069"),
            "\\xe2\\x80\\xaatp\\xe2\\x80\\xae.\\xe2\\x81\\xa6\\xe2\\x81\\xa9");
  EXPECT_EQ(html_escape(""), "");
  EXPECT_EQ(html_escape("\n"), "\n");
  EXPECT_EQ(html_escape("a\n\nb"), "a\n\nb");
}

TEST(MetricsText, ControlsAndDirections_AreEscaped) {
  DefenseReport r = example_report();
  r.title = "é\u202etp\u009b\x7f\x1b";
  const std::string text = metrics_text(r);
  expect_words(text, {"\"é\\u202etp\\u009b\\u007f\\u001b\""});
  const testing::ScratchFolder scratch;
  EXPECT_EQ(read_metrics(scratch.write("metrics.json", text)).title, r.title);
}

TEST(FitField, WidthOrMoreCharacters_FitsOrIsCut) {
  using detail::fit_field;
  EXPECT_EQ(fit_field("äbç", 3), "äbç");
  EXPECT_EQ(fit_field("äbçd", 3), "äb…");
  EXPECT_EQ(fit_field("äbç", 5), "äbç  ");
  EXPECT_EQ(fit_field("äbç", 5, /*right=*/true), "  äbç");
  EXPECT_EQ(fit_field("ab", 1), "…");
  EXPECT_EQ(fit_field("a", 1), "a");
  EXPECT_EQ(fit_field("", 2), "  ");
}

TEST(TerminalTable, TitleOfAMegabyte_IsCut) {
  DefenseReport r = example_report();
  r.title = r.attack = r.model = std::string(1'000'000, 'a');
  EXPECT_TRUE(terminal_table(r).starts_with(std::string(98, 'a') + "…\n"));
  const std::string table = comparison_markdown({r, r, r});
  EXPECT_LT(table.size(), 2'000u);
  expect_words(table, {"| " + std::string(99, 'a') + "… |"});
}

TEST(Html, MetricsOnly_IsReadable) {
  DefenseReport r;
  r.before = r.after = metrics::attack_metrics(predictions({{10, 0, 0, 1}, {10, 1, 1, 1}}, std::nullopt));
  const auto page = html(r);
  EXPECT_EQ(imbalance(page), "");
  EXPECT_EQ(occurrences(page, "nan"), 0);
  EXPECT_EQ(occurrences(page, "not measured: no target class"), 1);
  EXPECT_EQ(occurrences(page, "<section>"), 3);  // metrics, lifts, matrices
  r.before = r.after = metrics::attack_metrics({.classes = 3, .target = 1});
  EXPECT_EQ(imbalance(html(r)), "");
  EXPECT_EQ(occurrences(html(r), "nan"), 0);
}

TEST(Html, ManyClasses_StaysSmall) {
  metrics::Predictions p{.classes = 200, .target = 7};
  for (int i = 0; i < 400; ++i) {
    p.truth.push_back(i % 200);
    p.clean.push_back(i % 200);
    p.triggered.push_back(7);
  }
  DefenseReport r;
  r.before = r.after = metrics::attack_metrics(p);
  const auto page = html(r);
  EXPECT_EQ(imbalance(page), "");
  EXPECT_LT(page.size(), 100'000u);
  EXPECT_EQ(occurrences(page, "<th scope=\"row\" title=\"class 7\">class 7<small>target"), 1);
}

TEST(SvgCurve, OnePointOrNone_IsDrawnOrEmpty) {
  EXPECT_EQ(detail::svg_curve({"a", "", "epoch", {}, {}}), "");
  EXPECT_EQ(detail::svg_curve({"a", "", "epoch", {1}, {std::numeric_limits<double>::infinity()}}), "");
  for (const Curve& curve :
       {Curve{"a", "", "epoch", {1}, {0}}, Curve{"a", "", "epoch", {1, 2}, {5, 5}},
        Curve{"a", "", "epoch", {0, 1e-9}, {-1e300, 1e300}}, Curve{"a", "", "epoch", {0, 1}, {0, 5e-324}},
        Curve{"a", "", "epoch", {0, 1}, {1, std::nextafter(1.0, 2.0)}},
        Curve{"a", "", "epoch", {0, 1, 2}, {1e308, -1e308, 1}}}) {
    const auto svg = detail::svg_curve(curve);
    EXPECT_EQ(imbalance(svg), "");
    EXPECT_EQ(occurrences(svg, "nan"), 0) << svg;
    EXPECT_EQ(occurrences(svg, "<circle"), 1);
    EXPECT_LT(svg.size(), 10'000u);
  }
}

TEST(SvgCurve, ValueThatIsNotFinite_LeavesAGap) {
  // x from 52 to 428, y from 186 up to 14, one tick a unit.
  expect_words(detail::svg_curve({"a", "", "epoch", {0, 1, 2, 3, 4}, {0, 4, std::nan(""), 2, 4}}),
               {"d=\"M52.0 186.0L146.0 14.0M334.0 100.0L428.0 14.0\""});
}

TEST(Ticks, Range_IsCoveredByRoundSteps) {
  const detail::Ticks ticks(3.2, 96.1, 4);
  EXPECT_EQ(ticks.first, 0);
  EXPECT_EQ(ticks.step, 50);
  EXPECT_EQ(ticks.count, 3);
}

TEST(WriteReport, Folder_GetsThreeFilesOrAnError) {
  const fs::path folder = fs::path(::testing::TempDir()) / fmt::format("report-{}", ::getpid());
  write_report(example_report(), folder / "deep");
  for (const char* name : {"metrics.json", "report.html", "images.png"}) {
    EXPECT_GT(fs::file_size(folder / "deep" / name), 100u) << name;
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(folder / "deep"), {}), 3);
  DefenseReport without_images = example_report();
  without_images.sheet = {};
  write_report(without_images, folder / "deep");
  EXPECT_FALSE(fs::exists(folder / "deep" / "images.png"));  // they were of another report
  std::ofstream(folder / "file") << "x";
  expect_words(error_of([&] { write_report(example_report(), folder / "file"); }),
               {"cannot write", (folder / "file").string(), "folder that is needed"});
  fs::remove_all(folder);
}

TEST(DefenseReport, MismatchedParts_AreRefused) {
  DefenseReport r = example_report();
  r.class_names.pop_back();
  expect_words(error_of([&] { html(r); }),
               {"DefenseReport", "2 class names for 3 classes", "one for each class, or none"});
  r = example_report();
  r.curves[0].y.pop_back();
  expect_words(error_of([&] { html(r); }), {"curve 'defense loss'", "got 3 x and 2 y"});
  r = example_report();
  r.sheet.rows[0].images[1].pop_back();
  expect_words(error_of([&] { html(r); }), {"image of row 0", "got 5 bytes", "expected 6", "3x1x2"});
  r = example_report();
  r.after.target = 1;
  expect_words(error_of([&] { html(r); }), {"target", "same test set under the same attack"});
}

}  // namespace
}  // namespace refine::report
