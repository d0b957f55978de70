// Runs the scenarios program as a user does, at its smallest size.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/data/image_bytes.hpp"
#include "tests/support/error_of.hpp"
#include "tests/support/run_program.hpp"
#include "tests/support/scratch_folder.hpp"

namespace refine {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::content;
using testing::Outcome;
using testing::ScratchFolder;

Outcome scenarios(const ScratchFolder& scratch, const std::string& arguments) {
  return testing::run_by_shell(scratch, "benchmarks/scenarios", "--size tiny " + arguments);
}

/// Writes images of three classes, each of one color.
void write_images(const ScratchFolder& scratch) {
  for (const char* part : {"train", "test"}) {
    for (std::uint8_t c = 0; c < 3; ++c) {
      for (std::uint8_t i = 0; i < 12; ++i) {
        const auto v = static_cast<std::uint8_t>(40 + 8 * i);
        scratch.write(fs::path("shades") / part / std::string(1, static_cast<char>('a' + c)) /
                          (std::to_string(i) + ".jpg"),
                      testing::jpeg(32, 32,
                                    {c == 0 ? v : std::uint8_t{0}, c == 1 ? v : std::uint8_t{0},
                                     c == 2 ? v : std::uint8_t{0}}));
      }
    }
  }
}

TEST(Scenarios, RunAndRerun_WriteOneTable) {
  const ScratchFolder scratch;
  write_images(scratch);
  const std::string command = "--data shades --only Benign/ResNet18,BadNets/ResNet18 ";
  const Outcome first = scenarios(scratch, command);
  ASSERT_EQ(first.status, 0) << first.err;
  testing::expect_words(first.err,
                        {"scenario 1 of 2", "scenario 2 of 2: BadNets on ResNet18", "victim", "defense"});

  const fs::path root = scratch.path / "scenarios/shades", folder = root / "ResNet18/BadNets";
  const auto table = json::parse(content(root / "scenarios.json"));
  ASSERT_EQ(table["scenarios"].size(), 2u);
  const auto& row = table["scenarios"][1];
  EXPECT_EQ(row["attack"], "BadNets");
  EXPECT_EQ(row["poisoned"], 4);  // a tenth of 36
  EXPECT_EQ(row["before"]["ba"]["n"], 36);
  EXPECT_EQ(row["after"]["asr"]["n"], 24);
  EXPECT_EQ(row["benign_ba"], table["scenarios"][0]["before"]["ba"]);
  EXPECT_TRUE(row["zero_point"].contains("value"));
  EXPECT_GT(row["seconds"]["defense"], 0);
  testing::expect_words(content(root / "scenarios.md"), {"| BadNets | ResNet18 |"});
  testing::expect_words(content(root / "scenarios.svg"), {"<svg", "BadNets, ResNet18", "</svg>"});
  EXPECT_TRUE(fs::exists(folder / "report.html"));
  for (const auto& entry : fs::directory_iterator(folder))
    EXPECT_EQ(entry.path().filename().string().find("checkpoints"), std::string::npos) << entry.path();

  // A second run finds all results and trains nothing. A missing result is made again from the same
  // victim.
  testing::expect_words(first.err, {"epoch 1/1"});
  const auto written = fs::last_write_time(folder / "victim.safetensors");
  const Outcome again = scenarios(scratch, command);
  EXPECT_EQ(again.status, 0);
  EXPECT_EQ(again.err.find("epoch"), std::string::npos) << again.err;
  EXPECT_EQ(json::parse(content(root / "scenarios.json")), table);
  fs::remove(folder / "defended.json");
  const Outcome rest = scenarios(scratch, command);
  EXPECT_EQ(rest.status, 0) << rest.err;
  EXPECT_EQ(fs::last_write_time(folder / "victim.safetensors"), written);
  auto remade = json::parse(content(root / "scenarios.json"))["scenarios"][1];
  EXPECT_EQ(remade["after"], row["after"]);

  // An adversary who looks for changes that wake the backdoor.
  const Outcome woken = scenarios(scratch, command + "--wake");
  ASSERT_EQ(woken.status, 0) << woken.err;
  testing::expect_words(woken.out,
                        {"| the adversary knows |", "| another defense of the victim | the target | 8 |",
                         "| the defense | the victim's answer | 2 |"});
  const auto waking = json::parse(content(root / "scenarios.json"))["scenarios"][1]["waking"];
  ASSERT_EQ(waking.size(), 12u);
  for (const auto& one : waking) {
    EXPECT_EQ(one["figures"]["asr"]["n"], 24);
    EXPECT_EQ(one["zero_point"]["asr"]["n"], 24);
  }
  const Outcome kept = scenarios(scratch, command + "--wake");
  EXPECT_EQ(kept.out, woken.out);
  EXPECT_EQ(kept.err.find("epoch"), std::string::npos) << kept.err;
  const Outcome alone = scenarios(scratch, "--data shades --out alone --only BadNets/ResNet18 --wake");
  EXPECT_EQ(alone.status, 2);
  testing::expect_words(alone.err, {"--wake", "needs Benign/ResNet18 defended", "--only"});
  EXPECT_FALSE(fs::exists(scratch.path / "alone")) << "refused before any work";

  // Another seed is another setting: it has no results yet, and takes none of the old ones.
  EXPECT_EQ(scenarios(scratch, command + "--seed 1 --table").status, 0);
  EXPECT_EQ(json::parse(content(root / "scenarios.json"))["scenarios"].size(), 0u);
  EXPECT_EQ(scenarios(scratch, command + "--seed 1").status, 0);
  remade = json::parse(content(root / "scenarios.json"))["scenarios"][1];
  EXPECT_NE(remade["setting"].get<std::string>().find("seed 1"), std::string::npos);
  EXPECT_NE(fs::last_write_time(folder / "victim.safetensors"), written);
}

TEST(Scenarios, LabelConsistent_TrainsItsBenignModel) {
  const ScratchFolder scratch;
  write_images(scratch);
  const Outcome run = scenarios(scratch, "--data shades/ --only LabelConsistent/ResNet18");
  ASSERT_EQ(run.status, 0) << run.err;
  const fs::path root = scratch.path / "scenarios/shades/ResNet18";
  EXPECT_TRUE(fs::exists(root / "Benign/victim.safetensors"));
  EXPECT_TRUE(fs::exists(root / "LabelConsistent/perturbed.safetensors"));
  EXPECT_TRUE(fs::exists(root / "LabelConsistent/defended.json"));
}

TEST(Scenarios, LearntTriggers_AreKeptAndTheSameAfterwards) {
  const ScratchFolder scratch;
  write_images(scratch);
  const std::string command =
      "--data shades --only Narcissus/ResNet18,Input-aware/ResNet18,LIRA/ResNet18 --defense blur";
  const Outcome run = scenarios(scratch, command);
  ASSERT_EQ(run.status, 0) << run.err;
  const fs::path root = scratch.path / "scenarios/shades/ResNet18";
  EXPECT_TRUE(fs::exists(root / "Benign/victim.safetensors")) << "Narcissus' own classifier";
  const auto figures = content(root / "LIRA/Blur.json");
  std::map<std::string, fs::file_time_type> written;
  for (const char* attack : {"Narcissus", "Input-aware", "LIRA"}) {
    const json victim = json::parse(content(root / attack / "trained.json"));
    EXPECT_GT(victim["poisoned"], 0) << attack;
    EXPECT_EQ(victim["figures"]["asr"]["n"], 24) << attack;
    written[attack] = fs::last_write_time(root / attack / "trigger.safetensors");
  }
  // What is missing is made again, with the same trigger.
  fs::remove(root / "LIRA/Blur.json");
  EXPECT_EQ(scenarios(scratch, command).status, 0);
  EXPECT_EQ(json::parse(content(root / "LIRA/Blur.json"))["after"], json::parse(figures)["after"]);
  for (const auto& [attack, time] : written)
    EXPECT_EQ(fs::last_write_time(root / attack / "trigger.safetensors"), time) << attack;
  // A lost trigger is not replaced by another one in silence.
  fs::remove(root / "LIRA/Blur.json");
  fs::remove(root / "LIRA/trigger.safetensors");
  const Outcome lost = scenarios(scratch, command);
  EXPECT_EQ(lost.status, 2);
  testing::expect_words(lost.err, {"trigger.safetensors"});
}

TEST(Scenarios, Baselines_HaveRowsWithTheSameMetrics) {
  const ScratchFolder scratch;
  write_images(scratch);
  const std::string command = "--data shades --only BadNets/ResNet18 --defense shrinkpad,STRIP,fine-tuning ";
  const Outcome first = scenarios(scratch, command);
  ASSERT_EQ(first.status, 0) << first.err;
  const fs::path root = scratch.path / "scenarios/shades", folder = root / "ResNet18/BadNets";
  const auto table = json::parse(content(root / "scenarios.json"))["scenarios"];
  std::vector<std::string> defenses;
  for (const auto& row : table) {
    if (row["attack"] == "BadNets") defenses.push_back(row["defense"]);
  }
  EXPECT_EQ(defenses, (std::vector<std::string>{"REFINE", "ShrinkPad", "FineTuning", "STRIP"}));
  for (const auto& row : table) {
    if (row["attack"] != "BadNets") continue;
    const bool measured = row["defense"] == "ShrinkPad" || row["defense"] == "FineTuning";
    EXPECT_EQ(row.contains("after"), measured) << row;  // a detector answers as the victim
    EXPECT_EQ(row.contains("zero_point"), measured) << row;
    EXPECT_EQ(row.contains("alarm"), row["defense"] != "REFINE") << row;  // which was not run
    if (measured) {
      EXPECT_EQ(row["after"]["asr"]["n"], 24);
    }
    if (row.contains("alarm")) {
      EXPECT_EQ(row["alarm"]["triggered"], 24);
    }
  }
  testing::expect_words(content(root / "scenarios.md"), {"| BadNets | ResNet18 | STRIP |", "AUROC"});
  EXPECT_FALSE(fs::exists(folder / "defended.json"));

  // A second run measures nothing again. Other rates have rows of their own.
  const auto written = fs::last_write_time(folder / "FineTuning.json");
  EXPECT_EQ(scenarios(scratch, "--data shades --only BadNets/ResNet18@0.5 --defense blur").status, 0);
  EXPECT_EQ(scenarios(scratch, command).status, 0);
  testing::expect_words(content(root / "scenarios.md"), {"| BadNets, 50 % | ResNet18 | Blur |"});
  const auto rows = json::parse(content(root / "scenarios.json"))["scenarios"];
  EXPECT_TRUE(std::ranges::any_of(rows, [](const auto& row) { return row["rate"] == 0.5; }));
  for (const auto& row : rows) {
    if (row["rate"] == 0.5) {
      EXPECT_EQ(row["poisoned"], 18);
    }
  }
  EXPECT_EQ(fs::last_write_time(folder / "FineTuning.json"), written);
}

TEST(Scenarios, AttackersWhoKnowTheDefense_HaveRows) {
  const ScratchFolder scratch;
  write_images(scratch);
  const std::string command =
      "--data shades --only BadNets-against-Student/ResNet18,BadNets-against-REFINE/ResNet18,"
      "BadNets-against-REFINE-known/ResNet18 --defense blur";
  const Outcome first = scenarios(scratch, command);
  ASSERT_EQ(first.status, 0) << first.err;
  testing::expect_words(first.err, {"BadNets-against-REFINE-known on ResNet18", "victim"});
  const fs::path root = scratch.path / "scenarios/shades";
  std::vector<std::string> attacks;
  const auto rows = json::parse(content(root / "scenarios.json"))["scenarios"];
  for (const auto& row : rows) {
    if (row["attack"] == "Benign" || row["defense"] != "Blur") continue;
    attacks.push_back(row["attack"]);
    EXPECT_EQ(row["after"]["asr"]["n"], 24) << row;
    EXPECT_TRUE(row.contains("zero_point")) << row;
  }
  EXPECT_EQ(attacks, (std::vector<std::string>{"BadNets-against-Student", "BadNets-against-REFINE",
                                               "BadNets-against-REFINE-known"}));
  const auto written = fs::last_write_time(root / "ResNet18/BadNets-against-Student/victim.safetensors");
  EXPECT_EQ(scenarios(scratch, command).status, 0);
  EXPECT_EQ(fs::last_write_time(root / "ResNet18/BadNets-against-Student/victim.safetensors"), written);
}

TEST(Scenarios, StampedImages_AreAnAttack) {
  const ScratchFolder scratch;
  write_images(scratch);
  // Turns the classes by one: the copy of each image has another colour.
  fs::copy(scratch.path / "shades", scratch.path / "stamped", fs::copy_options::recursive);
  for (const char* part : {"train", "test"}) {
    fs::copy(scratch.path / "shades" / part / "b", scratch.path / "stamped" / part / "a",
             fs::copy_options::overwrite_existing);
  }
  const Outcome run =
      scenarios(scratch, "--data shades --stamped stamped --only Stamped/ResNet18 --defense blur");
  ASSERT_EQ(run.status, 0) << run.err;
  const auto rows = json::parse(content(scratch.path / "scenarios/shades/scenarios.json"))["scenarios"];
  EXPECT_EQ(rows.back()["attack"], "Stamped");
  EXPECT_EQ(rows.back()["poisoned"], 4);
  fs::remove_all(scratch.path / "stamped/test/c");
  const Outcome missing = scenarios(scratch, "--data shades --stamped stamped --only Stamped/ResNet18");
  EXPECT_EQ(missing.status, 2);
  testing::expect_words(missing.err, {"--stamped"});
}

TEST(Scenarios, BadInput_EndsWithOneLine) {
  const ScratchFolder scratch;
  const auto expect_error = [&](const std::string& arguments, std::initializer_list<std::string_view> words) {
    const Outcome outcome = scenarios(scratch, arguments);
    EXPECT_EQ(outcome.status, 2) << outcome.err;
    EXPECT_EQ(std::ranges::count(outcome.err, '\n'), 1) << outcome.err;
    testing::expect_words(outcome.err, words);
  };
  expect_error("--data nowhere", {"nowhere", "--data"});
  expect_error("--only BadNets/AlexNet", {"BadNets/AlexNet", "BadNets/ResNet18"});
  for (const char* rate : {"0", "1.5", "-0.1", "nan", "0.1x", ""})
    expect_error(std::string("--only BadNets/ResNet18@") + rate, {"--only", "rate", "BadNets/ResNet18@0.01"});
  expect_error("--only Benign/ResNet18@0.1", {"Benign/ResNet18@0.1"});
  expect_error("--only BadNets-against-REFINE/ResNet18@0.1",
               {"BadNets-against-REFINE/ResNet18", "rate", "0.1"});
  expect_error("--only BadNets-against-Blur/ResNet18", {"BadNets-against-Blur", "BadNets-against-Student"});
  expect_error("--device tpu", {"tpu"});
  expect_error("--defense magic", {"magic", "ShrinkPad", "STRIP"});

  write_images(scratch);
  scratch.write("scenarios/shades/ResNet18/BadNets/attack.json", "{}");
  expect_error("--data shades", {"refine attack", "--out"});
}

}  // namespace
}  // namespace refine
