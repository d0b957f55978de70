// The examples of refine/export/README.md and docs/guide/serving.md.

#include "tests/export/serving_example.inc"  // first: it must include what it needs

#include <ATen/ops/rand.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/export/export.hpp>
#include <refine/export/exported_classifier.hpp>
#include <refine/remaps/remaps.hpp>
#include <refine/training/recipe_json.hpp>
#include <refine/transforms/unet.hpp>

#include "tests/support/scratch_folder.hpp"

namespace export_readme {

using namespace refine;

namespace {

constexpr Task task{ImageShape{3, 16, 16}, 5};

auto make_defense(const std::filesystem::path& folder) {
  backbones::ResNet18<task> victim{.width = 4};
  load(victim, folder / "victim.safetensors");
  Pipeline defense{transforms::UNet<task>{.levels = 2, .width = 4}, freeze(victim),
                   remaps::Derangement<task>{}};
  const auto metadata = load(defense, folder / "defense.safetensors");  // sets the permutation as well
  const Recipe recipe = nlohmann::json::parse(metadata.at("recipe"));
  return std::pair{defense, recipe};
}

TEST(ServingGuide, ImagesAboveTheThreshold_AreSelected) {
  const refine::testing::ScratchFolder scratch;
  const Pipeline defense{transforms::UNet<task>{.levels = 2, .width = 4},
                         freeze(backbones::ResNet18<task>{.width = 4}), remaps::Derangement<task>{}};
  const at::Tensor images = at::rand({6, 3, 16, 16});
  const c10::NoGradGuard no_grad;
  const at::Tensor alarm = defense.alarm(images);
  const double threshold = alarm.mean().item<double>();
  for (const char* name : {"defended.pt2", "defended.pt"}) {
    export_defense(defense, scratch.path / name, {{"alarm", {{"threshold", threshold}}}});
    const at::Tensor found = suspicious(scratch.path / name, images);
    EXPECT_EQ(found.size(0), (alarm > threshold).sum().item<std::int64_t>());
  }
}

TEST(ExportReadme, SavedDefense_Loads) {
  const refine::testing::ScratchFolder scratch;
  const backbones::ResNet18<task> victim{.width = 4};
  const Pipeline defense{transforms::UNet<task>{.levels = 2, .width = 4, .seed = 3}, freeze(victim),
                         remaps::Derangement<task>{.seed = 3}};
  save(victim, scratch.path / "victim.safetensors");
  save(defense, scratch.path / "defense.safetensors", recipes::paper);
  const auto [loaded, recipe] = make_defense(scratch.path);
  EXPECT_EQ(loaded.remap().permutation, defense.remap().permutation);
  EXPECT_EQ(recipe, recipes::paper);
}

}  // namespace

}  // namespace export_readme
