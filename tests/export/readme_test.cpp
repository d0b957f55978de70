// The example of refine/export/README.md.

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/export/export.hpp>
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
