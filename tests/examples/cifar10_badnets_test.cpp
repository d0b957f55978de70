// Runs the example program on real images, as a user does, and reads its results.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

#include <refine/refine.hpp>

#include "tests/support/error_of.hpp"
#include "tests/support/fashion_mnist_part.hpp"
#include "tests/support/run_program.hpp"
#include "tests/support/scratch_folder.hpp"

namespace refine {
namespace {

namespace fs = std::filesystem;
using testing::content;
using testing::Outcome;
using testing::ScratchFolder;

constexpr const char* fashion = "/usr/share/datasets/fashion-mnist";

/// Runs the example in a user's folder. Its proxy does not answer, so that it cannot download
/// anything.
Outcome run_example(const ScratchFolder& scratch, const std::string& arguments,
                    const std::string& before = "") {
  return testing::run_by_shell(scratch, "examples/cifar10_badnets", arguments,
                               "export https_proxy=http://127.0.0.1:9; " + before);
}

/// Checks that a run ended with an error of one line.
void expect_error(const Outcome& outcome, std::initializer_list<std::string_view> words) {
  EXPECT_EQ(outcome.status, 2);
  EXPECT_EQ(std::ranges::count(outcome.err, '\n'), 1) << outcome.err;
  testing::expect_words(outcome.err, words);
}

TEST(Cifar10BadNets, RealImages_AreDefendedAfterAnInterruption) {
  const ScratchFolder scratch;
  testing::write_fashion_mnist_part(scratch.path / "images", 3'000, 2'000);
  const std::string arguments = "--budget tiny --data images --output results --sync_batch_norm off";
  const Outcome stopped =
      testing::run_and_signal(scratch, "examples/cifar10_badnets", arguments, "TERM",
                              "[ -s results/attack/FashionMNIST/ResNet18/BadNets/log.jsonl ]");
  ASSERT_EQ(stopped.status, 143) << stopped.err;
  testing::expect_words(stopped.err,
                        {"stopped: training the victim ended after step", "go on with: ", "--resume"});
  const Outcome run = run_example(scratch, arguments + " --resume");
  ASSERT_EQ(run.status, 0) << run.err;
  testing::expect_words(run.err, {"resumed after step"});
  testing::expect_words(run.out, {"3000 training images", "largest lift", "The trigger is disarmed"});
  testing::expect_words(run.err, {"victim", "defense", "evaluation", "img/s"});
  EXPECT_EQ(run.err.find('\r'), std::string::npos) << "a log has complete lines";

  const fs::path attack_folder = scratch.path / "results/attack/FashionMNIST/ResNet18/BadNets";
  const fs::path defense_folder = scratch.path / "results/refine_res/FashionMNIST/ResNet18/BadNets";
  const auto metrics = nlohmann::json::parse(content(defense_folder / "metrics.json"));
  const double ba = metrics["before"]["ba"]["value"], defended = metrics["after"]["ba"]["value"];
  EXPECT_GE(ba, 0.80);
  EXPECT_GE(metrics["before"]["asr"]["value"], 0.99);
  EXPECT_LE(metrics["after"]["largest_lift"]["value"], 0.02);
  EXPECT_GE(defended, ba - 0.06);

  const std::string page = content(defense_folder / "report.html");
  testing::expect_words(page, {"The trigger is disarmed", "data:image/png;base64,", "</html>"});
  EXPECT_EQ(content(defense_folder / "images.png").substr(1, 3), "PNG");
  for (const auto& folder : {attack_folder, defense_folder}) {
    std::ifstream log(folder / "log.jsonl");
    int epochs = 0;
    for (std::string line; std::getline(log, line); ++epochs) {
      EXPECT_EQ(nlohmann::json::parse(line)["epoch"], epochs + 1);
    }
    EXPECT_GT(epochs, 0);
    EXPECT_FALSE(fs::exists(folder / "checkpoints")) << "removed after success";
  }

  // The saved weights give the same counts in new networks.
  constexpr Task task = tasks::fashion_mnist;
  const auto [train, test] = data::fashion_mnist(scratch.path / "images");
  const attacks::BadNets<task> attack{.target = 0, .rate = 0.1};
  auto victim =
      backbones::Normalized{backbones::ResNet18<task>{.width = 8, .seed = 1}, normalizations::fashion_mnist};
  load(victim, attack_folder / "victim.safetensors");
  auto defense = Pipeline{transforms::UNet<task>{.width = 8, .seed = 1}, freeze(victim),
                          remaps::Derangement<task>{.seed = 1}};
  load(defense, defense_folder / "defense.safetensors");
  const Evaluation reloaded = evaluate(defense, test, attack);
  EXPECT_EQ(reloaded.before.ba.hits, metrics["before"]["ba"]["hits"]);
  EXPECT_EQ(reloaded.before.asr.hits, metrics["before"]["asr"]["hits"]);
  EXPECT_EQ(reloaded.after.ba.hits, metrics["after"]["ba"]["hits"]);
  EXPECT_EQ(reloaded.after.largest_lift.with_trigger, metrics["after"]["largest_lift"]["with_trigger"]);

  for (const auto& file : {attack_folder / "victim.safetensors", defense_folder / "defense.safetensors"}) {
    const auto recipe = nlohmann::json::parse(formats::read_safetensors(file).metadata.at("recipe"));
    EXPECT_EQ(recipe["optimization"]["sync_batch_norm"], false) << file;
  }
  EXPECT_GT(fs::file_size(defense_folder / "defended.pt"), 100'000u);

  // The selection of poisoned images is reproducible.
  const auto poison = formats::read_safetensors(attack_folder / "poison.safetensors");
  EXPECT_EQ(detail::to_vector(poison.tensors.at("indices")), attack.poison(train).indices);
}

TEST(Cifar10BadNets, Help_ListsOptions) {
  const ScratchFolder scratch;
  const Outcome help = run_example(scratch, "--help");
  EXPECT_EQ(help.status, 0);
  testing::expect_words(
      help.out, {"--device", "--budget", "--seed", "--data", "--output", "--resume", "--sync_batch_norm"});
}

TEST(Cifar10BadNets, BadInput_EndsWithOneLine) {
  const ScratchFolder scratch;
  expect_error(run_example(scratch, "--data nowhere"), {"nowhere"});
  expect_error(run_example(scratch, "--device tpu --data nowhere"), {"tpu", "cpu"});
  expect_error(run_example(scratch, "--device cuda:99 --data nowhere"), {"cuda:99"});
  EXPECT_EQ(run_example(scratch, "--budget huge").status, 2);
  EXPECT_EQ(run_example(scratch, "--sync_batch_norm no").status, 2);
  EXPECT_EQ(run_example(scratch, "--sed 3").status, 2);
  EXPECT_EQ(run_example(scratch, "--seed many").status, 2);
  EXPECT_EQ(run_example(scratch, "--seed -1").status, 2);

  scratch.write("file", "");
  const std::string images = std::string("--data ") + fashion + " ";
  expect_error(run_example(scratch, images + "--output file"), {"file", "Not a directory"});

  scratch.write("cut/data_batch_1.bin", std::string(3073, '\0').substr(0, 3000));
  expect_error(run_example(scratch, "--data cut"), {"data_batch"});
}

TEST(Cifar10BadNets, FullDisk_LeavesNoPartialFile) {
  const ScratchFolder scratch;
  // No file may exceed 2 kB (blocks of 512 bytes). The first that does is the list of poisoned
  // images. There is no CIFAR-10 to be found.
  const Outcome full = run_example(scratch, "--budget tiny", "ulimit -f 4; ");
  EXPECT_EQ(full.status, 2);
  testing::expect_words(full.out, {"running on Fashion-MNIST"});
  testing::expect_words(full.err, {"poison.safetensors"});
  EXPECT_FALSE(fs::exists(scratch.path / "data")) << "a download that did not start leaves no folder";
  for (const auto& entry : fs::recursive_directory_iterator(scratch.path)) {
    if (!entry.is_regular_file()) continue;
    const std::string name = entry.path().filename().string();
    EXPECT_TRUE(name == "out.txt" || name == "err.txt" || name == "log.jsonl") << name;
  }
}

}  // namespace
}  // namespace refine
