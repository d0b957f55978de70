#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include <refine/backbones/normalized.hpp>
#include <refine/data/dataset.hpp>
#include <refine/training/recipe.hpp>

namespace refine::scenarios {

/// One attack on one network.
struct Scenario {
  std::string attack, network;
  bool defended = true;  ///< a benign victim of most networks is there for its accuracy alone

  std::string name() const { return attack + "/" + network; }
};

/// How much work each scenario is.
struct Size {
  std::string name;
  std::int64_t images;  ///< of the training set; 0: all
  std::int64_t tests;   ///< of the test set; 0: all
  int transform_width;
  int victim_epochs;
  int slow_epochs;    ///< of victims that take longer to learn trigger or images
  int late_epochs;    ///< of victims whose attack is learnt late
  int corner_epochs;  ///< of a victim that hardly sees a trigger in the corner
  int defense_epochs;
  double adaptive_rate;  ///< of Adaptive-Patch, in [0, 1]; twice as many images are covers
  bool narrow;           ///< networks of a fraction of the published width

  int network_width(const std::string& network) const;
  ClassifierRecipe victim_recipe(const Scenario& scenario, std::uint64_t seed) const;
  Recipe defense_recipe(std::uint64_t seed) const;
};

/// "small", "full" or "tiny"; "auto": full with CUDA, else small. \throws Error for another name
Size size_of(const std::string& name);

/// Every attack on ResNet-18, and BadNets on every network; benign victims before those they are compared
/// with.
std::vector<Scenario> all_scenarios();

/// What all scenarios share.
struct Setting {
  std::string dataset;
  data::Split split;
  Normalization normalization;
  Size size;
  std::uint64_t seed;
  std::filesystem::path out;

  /// `<out>/<dataset>/<network>/<attack>`
  std::filesystem::path folder(const Scenario& scenario) const;
};

/// \throws Error when the network or the attack does not fit the images, before any work
void require_possible(const Scenario& scenario, const Setting& setting);

/// Does what is not done yet: trains the victim and measures it, trains the defense and measures it. What an
/// earlier run with the same setting left is taken as it is.
void run(const Scenario& scenario, const Setting& setting);

/// Measures the scenario's trigger on the defended benign victim of the same network, where both are done.
void measure_zero_point(const Scenario& scenario, const Setting& setting);

/// What a scenario has come to with this setting; null where it is not done.
struct Done {
  nlohmann::ordered_json victim, defense, zero_point, benign_victim;
};

Done look_up(const Scenario& scenario, const Setting& setting);

}  // namespace refine::scenarios
