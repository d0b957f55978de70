#pragma once

#include <fmt/core.h>

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include <refine/backbones/normalized.hpp>
#include <refine/data/dataset.hpp>
#include <refine/training/recipe.hpp>
#include <refine/triggers/stamped.hpp>

namespace refine::scenarios {

/// One attack on one network.
struct Scenario {
  std::string attack;   ///< name, as of `attacks::by_name`, or "Stamped"
  std::string network;  ///< name, as of `backbones::network_by_name`
  /// False for benign victims of which only the accuracy is measured. Those that are named are defended.
  bool defended = true;
  std::optional<double> rate = std::nullopt;  ///< poisoning rate; empty: the attack's default
  /// The defense that the attacker has in mind (`adversaries::train_against`): "Student", "REFINE", or "REFINE-known",
  /// whose permutation is known; empty: none, and images are poisoned.
  std::string against = {};

  /// Returns "attack/network" or "attack/network@rate"; the attack may be "attack-against-defense".
  std::string name() const { return attack_name() + "/" + network + rate_suffix(); }

  /// Returns "attack" or "attack-against-defense".
  std::string attack_name() const { return against.empty() ? attack : attack + "-against-" + against; }

  /// Returns "@rate"; empty for the attack's default.
  std::string rate_suffix() const { return rate ? fmt::format("@{}", *rate) : std::string(); }
};

/// The amount of work in each scenario.
struct Size {
  std::string name;      ///< "full", "small", "quick" or "tiny"
  std::int64_t images;   ///< number of training images; 0: all
  std::int64_t tests;    ///< number of test images; 0: all
  int transform_width;   ///< width of the U-Net
  int victim_epochs;     ///< epochs of a victim
  int slow_epochs;       ///< epochs of victims that need longer to learn the trigger or the images
  int late_epochs;       ///< epochs of victims that learn the attack late, or are trained against a defense
  int corner_epochs;     ///< epochs of a victim that hardly sees a trigger in the corner
  int defense_epochs;    ///< epochs of a defense
  double adaptive_rate;  ///< poisoning rate of Adaptive-Patch, in [0, 1]; twice as many images are covers
  std::int64_t alarms;   ///< number of test images that alarms are measured on, at most
  int wake_steps;        ///< gradient steps of an adversary who looks for a change that wakes the backdoor
  bool narrow;           ///< use networks of a fraction of the authors' width
  int width_divisor;     ///< divides that width further, where the network allows it

  /// Returns the width of a network.
  int network_width(const std::string& network) const;

  /// Returns the recipe of the scenario's victim.
  ClassifierRecipe victim_recipe(const Scenario& scenario, std::uint64_t seed) const;

  /// Returns the recipe of a defense.
  Recipe defense_recipe(std::uint64_t seed) const;
};

/// Returns a size by its name: "full", "small", "quick" or "tiny", or "auto", which is full with CUDA and
/// small without.
///
/// \throws Error for another name
Size size_by_name(const std::string& name);

/// Returns every attack on ResNet-18, and BadNets on every network. A benign victim comes before
/// the victims that are compared with it.
///
/// \param with_stamped whether there are stamped images, for the attack "Stamped"
std::vector<Scenario> all_scenarios(bool with_stamped);

/// Returns the scenarios with these names, each as `Scenario::name` returns it, with or without a rate. Those that are
/// named are defended.
///
/// \param names if there are none, all of `all` whose attackers have no defense in mind
/// \param all the scenarios that may be named
/// \throws Error for an unknown name, or a rate that is not a share above 0
std::vector<Scenario> scenarios_by_name(const std::vector<std::string>& names,
                                        const std::vector<Scenario>& all);

/// What all scenarios have in common.
struct Setting {
  std::string dataset;          ///< name of the data set
  data::Split split;            ///< training and test images
  Normalization normalization;  ///< of the victims' inputs
  Size size;                    ///< amount of work
  std::uint64_t seed;           ///< of all random choices
  std::filesystem::path out;    ///< folder for all results
  /// Copies of all images that another program has stamped, for the attack "Stamped".
  std::optional<triggers::Stamped> stamped = std::nullopt;
  std::string fingerprint = {};          ///< SHA-256 of `split`
  std::string stamped_fingerprint = {};  ///< SHA-256 of `stamped`; empty without

  /// Returns the scenario's folder, `<out>/<dataset>/<network>/<attack name>`, with `@<rate>` if it has one.
  std::filesystem::path folder(const Scenario& scenario) const;
};

/// Checks a scenario before any work.
///
/// \throws Error if the network or the attack does not fit the images
void check_possible(const Scenario& scenario, const Setting& setting);

/// Checks before any work that no results of another setting, or of `refine attack`, would be replaced: neither those of
/// the scenarios, nor of the victims that are trained for them, nor the table.
///
/// \param with_refine whether the scenarios are defended by REFINE
/// \param baselines names of the baselines that defend them
/// \throws Error naming the folder and what differs
void check_folders(const std::vector<Scenario>& scenarios, bool with_refine,
                   const std::vector<std::string>& baselines, const Setting& setting);

/// Checks that a table has rows.
///
/// \throws Error naming the settings that have results in the folder, if there are no rows
void check_any_finished(const nlohmann::ordered_json& rows, const Setting& setting);

/// Trains and measures the victim, then the defense. Keeps what an earlier run with the same
/// setting finished.
void run(const Scenario& scenario, const Setting& setting);

/// Measures the scenario's trigger on the defended benign victim of the same network, if both are
/// finished.
void measure_zero_point(const Scenario& scenario, const Setting& setting);

/// Returns the scenarios that `measure_waking` can measure once they are defended: with one target for all images, and
/// a benign victim that is defended, too. Says which are skipped.
///
/// \param scenarios that are run
/// \param with_refine whether they are defended by REFINE in this run
/// \throws Error if a defense that is needed is neither finished nor made by this run
std::vector<Scenario> wakeable(const std::vector<Scenario>& scenarios, bool with_refine,
                               const Setting& setting);

/// Looks for one faint change of all images that wakes the scenario's backdoor behind the finished defense, by
/// gradient steps through the defense itself and through another one of the same victim. The zero point is what the
/// same adversary reaches with the same trigger behind the defended benign victim.
///
/// \pre the scenario is one of `wakeable`, and both defenses are finished
void measure_waking(const Scenario& scenario, const Setting& setting);

/// Makes baselines, as of `baselines::by_name`, and measures them: on the victim of each scenario,
/// and, as zero point, on the benign victim of the same network, which is trained if there is none.
/// Keeps what an earlier run with the same setting finished.
void run_baselines(const std::vector<Scenario>& scenarios, const std::vector<std::string>& names,
                   const Setting& setting);

/// Returns the scenarios, each once. A rate that the attack has anyway is left out.
std::vector<Scenario> without_default_rates(const std::vector<Scenario>& scenarios, const Setting& setting);

/// Returns the scenarios and those with other rates that have a folder, each after the one with the default rate.
std::vector<Scenario> with_other_rates(const std::vector<Scenario>& all, const Setting& setting);

/// The results of a scenario; null where it is not finished.
struct Results {
  nlohmann::ordered_json victim;         ///< of the victim's training
  nlohmann::ordered_json defense;        ///< of the defense's training
  nlohmann::ordered_json zero_point;     ///< of the trigger on the defended benign victim
  nlohmann::ordered_json benign_victim;  ///< of the benign victim's training
  nlohmann::ordered_json waking = {};    ///< of the adversary who wakes the backdoor
};

/// Reads the results of a scenario with this setting.
Results read_results(const Scenario& scenario, const Setting& setting);

/// Reads the results of a baseline instead of the defense.
Results read_results(const Scenario& scenario, const std::string& baseline, const Setting& setting);

}  // namespace refine::scenarios
