// The program that attacks and defends everything, as a user runs it, at its smallest.

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/data/image_bytes.hpp"
#include "tests/support/error_of.hpp"
#include "tests/support/scratch_folder.hpp"

namespace refine {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::content;
using testing::ScratchFolder;

struct Outcome {
  int status;
  std::string out, err;
};

Outcome scenarios(const ScratchFolder& here, const std::string& arguments) {
  const std::string folder = "'" + here.path.string() + "'";
  const std::string program = "'" + fs::absolute("benchmarks/scenarios").string() + "'";
  const int result = std::system(("cd " + folder + " && BUILD_WORKING_DIRECTORY=" + folder + " " + program +
                                  " --size tiny " + arguments + " >out.txt 2>err.txt")
                                     .c_str());
  return {WIFEXITED(result) ? WEXITSTATUS(result) : -1, content(here.path / "out.txt"),
          content(here.path / "err.txt")};
}

/// Three classes of one colour each.
void write_images(const ScratchFolder& here) {
  for (const char* part : {"train", "test"}) {
    for (std::uint8_t c = 0; c < 3; ++c) {
      for (std::uint8_t i = 0; i < 12; ++i) {
        const auto v = static_cast<std::uint8_t>(40 + 8 * i);
        here.write(fs::path("shades") / part / std::string(1, static_cast<char>('a' + c)) /
                       (std::to_string(i) + ".jpg"),
                   testing::jpeg(32, 32,
                                 {c == 0 ? v : std::uint8_t{0}, c == 1 ? v : std::uint8_t{0},
                                  c == 2 ? v : std::uint8_t{0}}));
      }
    }
  }
}

TEST(Scenarios, RunsResumesAndWritesOneTable) {
  const ScratchFolder here;
  write_images(here);
  const std::string command = "--data shades --only Benign/ResNet18,BadNets/ResNet18 ";
  const Outcome first = scenarios(here, command);
  ASSERT_EQ(first.status, 0) << first.err;
  testing::expect_words(first.err,
                        {"scenario 1 of 2", "scenario 2 of 2: BadNets on ResNet18", "victim", "defense"});

  const fs::path root = here.path / "scenarios/shades", folder = root / "ResNet18/BadNets";
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

  // Another run finds all there is and trains nothing; what is missing is made again from the same victim.
  testing::expect_words(first.err, {"epoch 1/1"});
  const auto written = fs::last_write_time(folder / "victim.safetensors");
  const Outcome again = scenarios(here, command);
  EXPECT_EQ(again.status, 0);
  EXPECT_EQ(again.err.find("epoch"), std::string::npos) << again.err;
  EXPECT_EQ(json::parse(content(root / "scenarios.json")), table);
  fs::remove(folder / "defended.json");
  const Outcome rest = scenarios(here, command);
  EXPECT_EQ(rest.status, 0) << rest.err;
  EXPECT_EQ(fs::last_write_time(folder / "victim.safetensors"), written);
  auto made = json::parse(content(root / "scenarios.json"))["scenarios"][1];
  EXPECT_EQ(made["after"], row["after"]);

  // Another seed is another setting: nothing of it is there yet, and nothing of the old one is mixed in.
  EXPECT_EQ(scenarios(here, command + "--seed 1 --table").status, 0);
  EXPECT_EQ(json::parse(content(root / "scenarios.json"))["scenarios"].size(), 0u);
  EXPECT_EQ(scenarios(here, command + "--seed 1").status, 0);
  made = json::parse(content(root / "scenarios.json"))["scenarios"][1];
  EXPECT_NE(made["setting"].get<std::string>().find("seed 1"), std::string::npos);
  EXPECT_NE(fs::last_write_time(folder / "victim.safetensors"), written);
}

TEST(Scenarios, TrainsTheBenignModelThatLabelConsistentNeeds) {
  const ScratchFolder here;
  write_images(here);
  const Outcome run = scenarios(here, "--data shades/ --only LabelConsistent/ResNet18");
  ASSERT_EQ(run.status, 0) << run.err;
  const fs::path root = here.path / "scenarios/shades/ResNet18";
  EXPECT_TRUE(fs::exists(root / "Benign/victim.safetensors"));
  EXPECT_TRUE(fs::exists(root / "LabelConsistent/perturbed.safetensors"));
  EXPECT_TRUE(fs::exists(root / "LabelConsistent/defended.json"));
}

TEST(Scenarios, RefusesBadInputInOneLine) {
  const ScratchFolder here;
  const auto refused = [&](const std::string& arguments, std::initializer_list<std::string_view> words) {
    const Outcome outcome = scenarios(here, arguments);
    EXPECT_EQ(outcome.status, 2) << outcome.err;
    EXPECT_EQ(std::ranges::count(outcome.err, '\n'), 1) << outcome.err;
    testing::expect_words(outcome.err, words);
  };
  refused("--data nowhere", {"nowhere", "--data"});
  refused("--only BadNets/AlexNet", {"BadNets/AlexNet", "BadNets/ResNet18"});
  refused("--device tpu", {"tpu"});

  write_images(here);
  here.write("scenarios/shades/ResNet18/BadNets/attack.json", "{}");
  refused("--data shades", {"refine attack", "--out"});
}

}  // namespace
}  // namespace refine
