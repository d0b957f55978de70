// The program that checks a GPU, tried on the host at its smallest.

#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include <refine/data/sources.hpp>
#include <refine/distributed/c10d.hpp>
#include <refine/formats/safetensors.hpp>

#include "tests/support/error_of.hpp"
#include "tests/support/run_program.hpp"
#include "tests/support/scratch_folder.hpp"

namespace refine {
namespace {

using nlohmann::json;
using testing::content;
using testing::expect_words;
using testing::Outcome;
using testing::ScratchFolder;

Outcome gpu_check(const ScratchFolder& here, const std::string& arguments) {
  return testing::run_by_shell(
      here, "tools/gpu_check",
      "--width 4 --epoch_images 128 --check_images 64 --batches 64 --victim_epochs 1 "
      "--defense_epochs 1 --batch 64 " +
          arguments);
}

TEST(GpuCheck, OnTheHost_PassesAndWritesFigures) {
  const ScratchFolder here;
  const auto split = data::Synthetic{.task = tasks::cifar10, .train = 200, .test = 100}.make();
  formats::write_safetensors(here.path / "images.safetensors",
                             {.tensors = {{"train.images", split.train.images},
                                          {"train.labels", split.train.labels},
                                          {"test.images", split.test.images},
                                          {"test.labels", split.test.labels}}});
  const Outcome run = gpu_check(here, "--device cpu --images images.safetensors --json figures.json");
  ASSERT_EQ(run.status, 0) << run.err;
  const json figures = json::parse(content(here.path / "figures.json"));
  std::set<std::string> names;
  for (const json& check : figures["checks"]) {
    EXPECT_TRUE(check["passed"].get<bool>()) << check;
    names.insert(check["name"].get<std::string>());
  }
  EXPECT_GE(names.size(), 20u);
  EXPECT_TRUE(names.contains("U-Net, exported"));
  EXPECT_EQ(names.contains("two ranks, epoch 2"), distributed::C10d::is_available());
  ASSERT_FALSE(figures["epochs"].empty());
  EXPECT_EQ(figures["epochs"][0]["epoch_seconds"].size(), 3u);
  const json& trial = figures["trial"];
  EXPECT_EQ(trial["images"], 200);
  EXPECT_EQ(trial["defense_recipe"]["teacher"], "images");
  EXPECT_GE(trial["both_seconds"].get<double>(),
            trial["victim_seconds"].get<double>() + trial["defense_seconds"].get<double>());
  for (const char* side : {"before", "after"}) {
    EXPECT_GE(trial[side]["ba"].get<double>(), 0);
    EXPECT_LE(trial[side]["ba"].get<double>(), 1);
  }
}

TEST(GpuCheck, UnusableInputs_AreRefused) {
  const ScratchFolder here;
  formats::write_safetensors(here.path / "empty.safetensors", {});
  const Outcome empty = gpu_check(here, "--device cpu --images empty.safetensors");
  EXPECT_EQ(empty.status, 2);
  expect_words(empty.err, {"empty.safetensors", "no tensor 'train.images'", "pack_images"});
  const Outcome missing = gpu_check(here, "--device cpu --images nowhere.safetensors");
  EXPECT_EQ(missing.status, 2);
  expect_words(missing.err, {"nowhere.safetensors"});
  EXPECT_EQ(gpu_check(here, "--device cpu --batches 1").status, 2);
  EXPECT_EQ(gpu_check(here, "--device tpu").status, 2);
}

}  // namespace
}  // namespace refine
