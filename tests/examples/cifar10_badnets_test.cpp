// Runs the example as a user does: the program itself, on real images, and reads what it leaves.

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

#include <refine/refine.hpp>

#include "tests/support/error_of.hpp"
#include "tests/support/scratch_folder.hpp"

namespace refine {
namespace {

namespace fs = std::filesystem;
using testing::content;
using testing::ScratchFolder;

constexpr const char* fashion = "/usr/share/datasets/fashion-mnist";

struct Outcome {
  int status;
  std::string out, err;
};

/// The example, started where a user stands. No proxy and no name server answers, so nothing can be
/// downloaded.
Outcome example(const ScratchFolder& here, const std::string& arguments, const std::string& before = "") {
  const std::string folder = "'" + here.path.string() + "'";
  const std::string program = "'" + fs::absolute("examples/cifar10_badnets").string() + "'";
  const int result =
      std::system((before + "cd " + folder + " && BUILD_WORKING_DIRECTORY=" + folder +
                   " https_proxy=http://127.0.0.1:9 " + program + " " + arguments + " >out.txt 2>err.txt")
                      .c_str());
  return {WIFEXITED(result) ? WEXITSTATUS(result) : -1, content(here.path / "out.txt"),
          content(here.path / "err.txt")};
}

void expect_refusal(const Outcome& outcome, std::initializer_list<std::string_view> words) {
  EXPECT_EQ(outcome.status, 2);
  EXPECT_EQ(std::ranges::count(outcome.err, '\n'), 1) << outcome.err;
  testing::expect_words(outcome.err, words);
}

TEST(Cifar10BadNets, RunsTheWholePathOnRealImagesAndReachesItsFigures) {
  const ScratchFolder here;
  const Outcome run = example(here, "--budget tiny --output results");  // finds no CIFAR-10: Fashion-MNIST
  ASSERT_EQ(run.status, 0) << run.err;
  testing::expect_words(run.out, {"running on Fashion-MNIST", "largest lift", "The trigger is disarmed"});
  EXPECT_FALSE(fs::exists(here.path / "data")) << "a download that never began leaves no folder";
  testing::expect_words(run.err, {"victim", "defense", "evaluation", "img/s"});
  EXPECT_EQ(run.err.find('\r'), std::string::npos) << "a log has whole lines";

  const fs::path attack_folder = here.path / "results/attack/FashionMNIST/ResNet18/BadNets";
  const fs::path defense_folder = here.path / "results/refine_res/FashionMNIST/ResNet18/BadNets";
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
  }

  // What was saved is what was measured: loaded into fresh networks, it counts the same.
  constexpr Task task = tasks::fashion_mnist;
  const auto [train, all] = data::fashion_mnist(fashion);
  const data::Dataset test = all.sample(2'000, default_seed);
  const attacks::BadNets<task> attack{.target = 0, .rate = 0.1};
  auto victim =
      backbones::Normalized{backbones::ResNet18<task>{.width = 8, .seed = 1}, normalizations::fashion_mnist};
  load(victim, attack_folder / "victim.safetensors");
  auto defense = Pipeline{transforms::UNet<task>{.width = 8, .seed = 1}, freeze(victim),
                          remaps::Derangement<task>{.seed = 1}};
  load(defense, defense_folder / "defense.safetensors");
  const Evaluation again = evaluate(defense, test, attack);
  EXPECT_EQ(again.before.ba.hits, metrics["before"]["ba"]["hits"]);
  EXPECT_EQ(again.before.asr.hits, metrics["before"]["asr"]["hits"]);
  EXPECT_EQ(again.after.ba.hits, metrics["after"]["ba"]["hits"]);
  EXPECT_EQ(again.after.largest_lift.with_trigger, metrics["after"]["largest_lift"]["with_trigger"]);

  EXPECT_GT(fs::file_size(defense_folder / "defended.pt"), 100'000u);

  // The choice of poisoned images can be made again.
  const auto poison = formats::read_safetensors(attack_folder / "poison.safetensors");
  EXPECT_EQ(to_vector(poison.tensors.at("indices")),
            attack.poison(train.sample(4'000, default_seed)).indices);
}

TEST(Cifar10BadNets, TellsItsOptions) {
  const ScratchFolder here;
  const Outcome help = example(here, "--help");
  EXPECT_EQ(help.status, 0);
  testing::expect_words(help.out, {"--device", "--budget", "--seed", "--data", "--output"});
}

TEST(Cifar10BadNets, RefusesBadInputInOneLineBeforeAnyTraining) {
  const ScratchFolder here;
  expect_refusal(example(here, "--data nowhere"), {"nowhere"});
  expect_refusal(example(here, "--device tpu --data nowhere"), {"tpu", "cpu"});
  expect_refusal(example(here, "--device cuda:99 --data nowhere"), {"cuda:99"});
  EXPECT_EQ(example(here, "--budget huge").status, 2);
  EXPECT_EQ(example(here, "--sed 3").status, 2);
  EXPECT_EQ(example(here, "--seed many").status, 2);
  EXPECT_EQ(example(here, "--seed -1").status, 2);

  here.write("file", "");
  const std::string images = std::string("--data ") + fashion + " ";
  expect_refusal(example(here, images + "--output file"), {"file", "Not a directory"});

  here.write("cut/data_batch_1.bin", std::string(3073, '\0').substr(0, 3000));
  expect_refusal(example(here, "--data cut"), {"data_batch"});
}

TEST(Cifar10BadNets, LeavesNothingHalfWrittenWhenTheDiskIsFull) {
  const ScratchFolder here;
  // No file may grow beyond 2 kB (blocks of 512 bytes): the first to be too large is the list of poisoned
  // images.
  const Outcome full = example(here, std::string("--budget tiny --data ") + fashion, "ulimit -f 4; ");
  expect_refusal(full, {"poison.safetensors"});
  for (const auto& entry : fs::recursive_directory_iterator(here.path)) {
    if (!entry.is_regular_file()) continue;
    const std::string name = entry.path().filename().string();
    EXPECT_TRUE(name == "out.txt" || name == "err.txt" || name == "log.jsonl") << name;
  }
}

}  // namespace
}  // namespace refine
