// Runs the scenarios program as a user does, at its smallest size.

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
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
/// \param count of each class, at most 200, for training and for tests
void write_images(const ScratchFolder& scratch, std::uint8_t count = 12) {
  for (const char* part : {"train", "test"}) {
    for (std::uint8_t c = 0; c < 3; ++c) {
      for (std::uint8_t i = 0; i < count; ++i) {
        const auto v = static_cast<std::uint8_t>(40 + (count > 12 ? 1 : 8) * i);
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

  // The attack's default rate is no other scenario.
  const Outcome usual = scenarios(scratch, "--data shades --only BadNets/ResNet18@0.1");
  EXPECT_EQ(usual.status, 0) << usual.err;
  EXPECT_EQ(usual.err.find("epoch"), std::string::npos) << usual.err;
  EXPECT_FALSE(fs::exists(root / "ResNet18/BadNets@0.1"));

  // Another seed is another setting: it has no table, and replaces nothing.
  const std::string tables = content(root / "scenarios.json"), picture = content(root / "scenarios.svg");
  const Outcome empty = scenarios(scratch, "--data shades --seed 1 --table");
  EXPECT_EQ(empty.status, 2);
  testing::expect_words(empty.err, {"--table", "tiny, seed 1, CPU", "there: tiny, seed 666, CPU"});
  const Outcome other = scenarios(scratch, command + "--seed 1");
  EXPECT_EQ(other.status, 2);
  testing::expect_words(other.err, {"seed 1", "there: seed 666", "use another --out"});
  // The scenario is not there, but the table is, and the benign victim.
  EXPECT_EQ(scenarios(scratch, "--data shades --only SIG/ResNet18 --seed 1").status, 2);
  EXPECT_FALSE(fs::exists(root / "ResNet18/SIG"));
  EXPECT_EQ(content(root / "scenarios.json"), tables);
  EXPECT_EQ(content(root / "scenarios.svg"), picture);
  EXPECT_EQ(fs::last_write_time(folder / "victim.safetensors"), written);
}

/// Returns the part of a setting's description that all scenarios of a run share.
std::string shared_setting(const ScratchFolder& scratch, const std::string& options) {
  const Outcome outcome =
      testing::run_by_shell(scratch, "benchmarks/scenarios", options + " --table --out none");
  EXPECT_EQ(outcome.status, 2);
  const auto begin = outcome.err.find("(got ") + 5, end = outcome.err.find(", there", begin);
  return outcome.err.substr(begin, end - begin);
}

TEST(Scenarios, ResultsOfAnotherSetting_AreNotReplaced) {
  const ScratchFolder scratch;
  write_images(scratch);
  const std::string quick = "--data shades --size quick", setting = shared_setting(scratch, quick);
  int runs = 0;
  const auto expect_refused = [&](const std::string& scenario, const std::string& there,
                                  const std::string& only, std::initializer_list<std::string_view> words) {
    const std::string out = "out" + std::to_string(++runs);
    const std::string name = scenario.substr(0, scenario.find('/')),
                      network = scenario.substr(name.size() + 1);
    const auto file = scratch.write(out + "/shades/" + network + "/" + name + "/trained.json",
                                    json{{"setting", scenario + ", " + there}}.dump());
    const std::string before = content(file);
    const Outcome outcome =
        testing::run_by_shell(scratch, "benchmarks/scenarios", quick + " --out " + out + " --only " + only);
    EXPECT_EQ(outcome.status, 2) << outcome.err;
    EXPECT_EQ(std::ranges::count(outcome.err, '\n'), 1) << outcome.err;
    testing::expect_words(outcome.err, words);
    EXPECT_EQ(content(file), before);
    EXPECT_EQ(std::distance(fs::recursive_directory_iterator(scratch.path / out), {}), 4) << "nothing new";
  };
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string other = setting;
    return other.replace(other.find(from), from.size(), to);
  };
  const std::string badnets = "BadNets/ResNet18", benign = "Benign/ResNet18", any = ", width 8; {}";
  expect_refused(badnets, with("seed 666", "seed 1") + any, badnets,
                 {"seed 666", "there: seed 1", "another --out"});
  expect_refused(badnets, with("quick", "small") + any, badnets, {"quick", "there: small", "another --out"});
  expect_refused(badnets, with("CPU", "CUDA") + any, badnets, {"CPU", "there: CUDA", "another --out"});
  expect_refused(badnets, with("SHA-256 ", "SHA-256 0") + any, badnets,
                 {"there: 36 + 36 images", "another --out"});
  // Victims that are not named.
  const std::string seed_1 = with("seed 666", "seed 1") + any;
  expect_refused(benign, seed_1, "LabelConsistent/ResNet18", {"Benign", "seed 1", "another --out"});
  expect_refused(benign, seed_1, badnets + " --defense blur", {"Benign", "seed 1", "another --out"});
  // What is not set on the command line: half of a narrow width of 16.
  expect_refused("BadNets/PreActResNet18", setting + ", width 99; {}", "BadNets/PreActResNet18",
                 {"now: width 8", "there: width 99", "move or remove"});
}

TEST(Scenarios, DefaultRate_IsNoRate) {
  const ScratchFolder scratch;
  write_images(scratch);
  // The rates in the README of the attacks, and those of this size.
  for (const char* scenario : {"Blended/ResNet18@0.1", "SIG/ResNet18@0.3", "LabelConsistent/ResNet18@0.25",
                               "SourceSpecific/ResNet18@0.5", "Adaptive-Patch/ResNet18@0.03",
                               "Narcissus/ResNet18@0.3", "LIRA/ResNet18@0.1"}) {
    const std::string name = scenario, attack = name.substr(0, name.find('/'));
    scratch.write(attack + "/shades/ResNet18/" + attack + "/attack.json", "{}");
    const Outcome outcome = scenarios(scratch, "--data shades --out " + attack + " --only " + name);
    EXPECT_EQ(outcome.status, 2);
    testing::expect_words(outcome.err, {"refine attack", "ResNet18/" + attack + " has"});
  }
}

TEST(Scenarios, NamedBenignVictims_AreDefended) {
  const ScratchFolder scratch;
  write_images(scratch);
  const Outcome run =
      scenarios(scratch, "--data shades --only Benign/VGG16,BadNets/VGG16 --defense REFINE,blur");
  ASSERT_EQ(run.status, 0) << run.err;
  const auto rows = json::parse(content(scratch.path / "scenarios/shades/scenarios.json"))["scenarios"];
  ASSERT_EQ(rows.size(), 4u);
  for (const auto& row : rows) {
    EXPECT_TRUE(row.contains("after")) << row;
    EXPECT_EQ(row.contains("zero_point"), row["attack"] == "BadNets") << row;
  }
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

  // Results of another victim's weights are in no row.
  const auto rows_with = [&](const fs::path& victim) {
    const std::string before = content(victim);
    json changed = json::parse(before);
    changed["weights"] = "of another victim";
    std::ofstream(victim) << changed;
    EXPECT_EQ(scenarios(scratch, "--data shades --table").status, 0);
    std::ofstream(victim) << before;
    auto found = json::parse(content(root / "scenarios.json"))["scenarios"];
    std::erase_if(found.get_ref<json::array_t&>(),
                  [](const json& row) { return row["attack"] != "BadNets" || !row["rate"].is_null(); });
    return found;
  };
  for (const auto& row : rows_with(root / "ResNet18/Benign/trained.json"))
    EXPECT_FALSE(row.contains("zero_point")) << row;
  EXPECT_EQ(rows_with(folder / "trained.json").size(), 1u) << "the victim's own row";

  // What belongs to the old weights goes with them.
  scratch.write("scenarios/shades/ResNet18/BadNets/report.html", "of the old weights");
  fs::remove(folder / "trained.json");
  EXPECT_EQ(scenarios(scratch, "--data shades --only BadNets/ResNet18 --defense STRIP").status, 0);
  for (const char* file : {"FineTuning.json", "FineTuning_zero_point.json", "ShrinkPad.json", "report.html"})
    EXPECT_FALSE(fs::exists(folder / file)) << file;
  EXPECT_TRUE(fs::exists(folder / "STRIP.json"));
  for (const auto& entry : fs::recursive_directory_iterator(root))
    EXPECT_EQ(entry.path().filename().string().find("checkpoints"), std::string::npos) << entry.path();
}

TEST(Scenarios, SignalDuringBaseline_IsContinued) {
  const ScratchFolder scratch;
  write_images(scratch, /*count=*/40);
  const std::string folder = "'" + scratch.path.string() + "'",
                    program = "'" + fs::absolute("benchmarks/scenarios").string() + "'",
                    arguments = "--data shades --only Benign/ResNet18 --defense student";
  const fs::path results = scratch.path / "scenarios/shades/ResNet18/Benign";
  // SIGTERM once the student is trained or measured.
  const int result = std::system(
      ("cd " + folder + "; BUILD_WORKING_DIRECTORY=" + folder + " " + program + " --size tiny " + arguments +
       " >out.txt 2>err.txt & while kill -0 $! && ! grep student err.txt; do sleep 0.02; done >/dev/null 2>&1; "
       "kill $! 2>/dev/null; wait $!")
          .c_str());
  if (fs::exists(results / "Student.json")) GTEST_SKIP() << "measured before the signal";
  EXPECT_EQ(WEXITSTATUS(result), 143);
  testing::expect_words(content(scratch.path / "err.txt"),
                        {"stopped: ", "saved", "go on with: the same command"});
  const Outcome again = scenarios(scratch, arguments);
  EXPECT_EQ(again.status, 0) << again.err;
  testing::expect_words(again.err, {"resumed after step", "student"});
  EXPECT_TRUE(fs::exists(results / "Student.json"));
  for (const auto& entry : fs::directory_iterator(results))
    EXPECT_EQ(entry.path().filename().string().find("checkpoints"), std::string::npos) << entry.path();
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
  // The benign victim is trained for these, too.
  scratch.write("benign/shades/ResNet18/Benign/attack.json", "{}");
  for (const char* only : {"LabelConsistent/ResNet18", "BadNets/ResNet18 --defense blur"})
    expect_error(std::string("--data shades --out benign --only ") + only,
                 {"refine attack", "Benign", "--out"});
  scratch.write("attackers/attacker/shades/ResNet18/Benign/attack.json", "{}");
  expect_error("--data shades --out attackers --only Narcissus/ResNet18",
               {"refine attack", "Benign", "--out"});

  scratch.write("fashion/train-images-idx3-ubyte", "");
  expect_error("--data fashion --image 32", {"--image", "32", "Fashion-MNIST"});
  scratch.write("cifar/train/airplane/1.jpg", "");
  expect_error("--data cifar --image 32", {"--image", "32", "CIFAR-10"});
  expect_error("--data shades --table --only BadNets/ResNet18", {"--only", "--table"});
  expect_error("--data shades --table --defense blur", {"--defense", "--table"});
  expect_error("--data shades --table --wake", {"--wake", "--table"});
  expect_error("--data shades --out none --table", {"--table", "none", "nothing", "--out"});
  EXPECT_FALSE(fs::exists(scratch.path / "none"));
}

}  // namespace
}  // namespace refine
