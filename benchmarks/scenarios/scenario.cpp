#include "benchmarks/scenarios/scenario.hpp"

#include <fmt/core.h>

#include <cmath>
#include <sstream>
#include <utility>

#include <refine/artifacts/defense.hpp>
#include <refine/artifacts/victim.hpp>
#include <refine/attacks/by_name.hpp>
#include <refine/backbones/any_network.hpp>
#include <refine/core/atomic_file.hpp>
#include <refine/core/file_bytes.hpp>
#include <refine/evaluation/evaluate.hpp>
#include <refine/nn/device.hpp>
#include <refine/pipeline/any_pipeline.hpp>
#include <refine/remaps/derangement.hpp>
#include <refine/report/metrics_json.hpp>
#include <refine/report/sample_sheet.hpp>
#include <refine/report/write_report.hpp>
#include <refine/training/fit.hpp>
#include <refine/training/history.hpp>
#include <refine/training/network_recipes.hpp>
#include <refine/training/progress_bar.hpp>
#include <refine/training/train_classifier.hpp>
#include <refine/transforms/unet.hpp>

namespace refine::scenarios {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

/// What a file of figures must have been made with to be taken as it is.
std::string key_of(const Scenario& scenario, const Setting& setting) {
  std::ostringstream key;
  key << scenario.name() << ", " << setting.size.name << ", seed " << setting.seed << ", "
      << setting.split.train.size() << " + " << setting.split.test.size() << " images, width "
      << setting.size.network_width(scenario.network)
      << "; victim: " << setting.size.victim_recipe(scenario.network, scenario.attack) << "; defense: width "
      << setting.size.transform_width << ", " << setting.size.defense_recipe();
  return key.str();
}

bool is_done(const fs::path& file, const std::string& key) {
  if (!is_there(file)) return false;
  const auto json = Json::parse(file_bytes(file), nullptr, /*allow_exceptions=*/false);
  return json.is_object() && json.value("setting", "") == key;
}

void write_json(const fs::path& file, const Json& json) {
  write_file(file, json.dump(1) + "\n");
}

backbones::AnyBackbone network_of(const Scenario& scenario, const Setting& setting) {
  return backbones::AnyBackbone(backbones::Normalized{
      backbones::network_by_name(scenario.network, {.task = setting.split.train.task(),
                                                    .width = setting.size.network_width(scenario.network),
                                                    .seed = setting.seed}),
      setting.normalization});
}

backbones::AnyBackbone saved_victim(const Scenario& scenario, const Setting& setting) {
  auto victim = network_of(scenario, setting);
  load(victim, setting.folder(scenario) / "victim.safetensors");
  victim.module->to(default_device());
  return victim;
}

attacks::AttackOptions options_of(const Scenario& scenario, const Setting& setting) {
  attacks::AttackOptions options{.image = setting.split.train.image(), .target = 0, .seed = setting.seed};
  if (scenario.attack == "Adaptive-Patch") options.rate = setting.size.adaptive_rate;
  return options;
}

attacks::AnyAttack attack_of(const Scenario& scenario, const Setting& setting) {
  attacks::AttackOptions options = options_of(scenario, setting);
  if (scenario.attack == "LabelConsistent") {
    options.benign = freeze(saved_victim({"Benign", scenario.network}, setting));
    options.store = setting.folder(scenario) / "perturbed.safetensors";
    options.show = true;
  }
  return attacks::by_name(scenario.attack, options);
}

AnyPipeline pipeline_around(const backbones::AnyBackbone& victim, const Setting& setting) {
  const Task task = setting.split.train.task();
  return {
      transforms::UNet<>{.image = task.image, .width = setting.size.transform_width, .seed = setting.seed},
      freeze(victim), remaps::Derangement<>{.classes = task.classes, .seed = setting.seed}};
}

void train_victim(const Scenario& scenario, const Setting& setting, const std::string& key) {
  const auto attack = attack_of(scenario, setting);
  const auto recipe = setting.size.victim_recipe(scenario.network, scenario.attack);
  const auto poisoned = attack.poison(setting.split.train);
  History history;
  const auto victim =
      train_classifier(network_of(scenario, setting), poisoned, recipe, ProgressBar{}, history);
  const fs::path folder = setting.folder(scenario);
  save(victim, folder / "victim.safetensors");
  write_json(folder / "victim.json",
             {{"setting", key},
              {"seconds", history.epochs.back().seconds},
              {"poisoned", poisoned.indices.size()},
              {"figures", report::figures_json(evaluate(victim, setting.split.test, attack))}});
}

void train_defense(const Scenario& scenario, const Setting& setting, const std::string& key) {
  const auto attack = attack_of(scenario, setting);
  const Recipe recipe = setting.size.defense_recipe();
  auto defense = pipeline_around(saved_victim(scenario, setting), setting);
  History history;
  fit(defense, setting.split.train.images, recipe, ProgressBar{}, history);
  const fs::path folder = setting.folder(scenario);
  save(defense, folder / "defense.safetensors", recipe);
  const auto& test = setting.split.test;
  const Evaluation figures = evaluate(defense, test, attack, /*show=*/true);
  std::ostringstream recipe_text;
  recipe_text << recipe;
  report::write_report(
      {.title = scenario.attack + " on " + setting.dataset,
       .dataset = setting.dataset,
       .model = scenario.network,
       .attack = scenario.attack,
       .class_names = test.classes,
       .before = figures.before,
       .after = figures.after,
       .facts = {{"training images", std::to_string(setting.split.train.size())},
                 {"device", default_device().str()},
                 {"seed", std::to_string(setting.seed)},
                 {"defense's recipe", recipe_text.str()},
                 {"defense's training", fmt::format("{:.0f} s", history.epochs.back().seconds)}},
       .sheet = report::sample_sheet(defense, test, attack)},
      folder);
  write_json(folder / "defense.json", {{"setting", key},
                                       {"seconds", history.epochs.back().seconds},
                                       {"der", std::isfinite(figures.der()) ? Json(figures.der()) : Json()},
                                       {"before", report::figures_json(figures.before)},
                                       {"after", report::figures_json(figures.after)}});
}

/// The same trigger on a defended victim that does not know it.
void measure_zero_point(const Scenario& scenario, const Setting& setting, const std::string& key) {
  const Scenario benign{"Benign", scenario.network};
  auto defense = pipeline_around(saved_victim(benign, setting), setting);
  load(defense, setting.folder(benign) / "defense.safetensors");
  defense.to(default_device());
  const Evaluation figures =
      evaluate(defense, setting.split.test, attack_of(scenario, setting), /*show=*/true);
  write_json(setting.folder(scenario) / "zero_point.json",
             {{"setting", key}, {"figures", report::figures_json(figures.after)}});
}

}  // namespace

int Size::network_width(const std::string& network) const {
  return narrow ? backbones::narrow_width(network) : backbones::published_width(network);
}

ClassifierRecipe Size::victim_recipe(const std::string& network, const std::string& attack) const {
  ClassifierRecipe recipe = recipes::fast_classifier_of(network);
  recipe.optimization.epochs = victim_epochs;
  // Their few images are learnt when a network learns its images by heart: late, or without augmentation.
  if (narrow && (attack == "LabelConsistent" || attack == "Adaptive-Patch")) {
    recipe.optimization.epochs = 3 * victim_epochs;
    recipe.augmentation = {};
  }
  return recipe;
}

Recipe Size::defense_recipe() const {
  Recipe recipe = narrow ? recipes::two_cores : recipes::fast;
  recipe.optimization.epochs = defense_epochs;
  return recipe;
}

Size size_of(const std::string& name) {
  if (name == "full" || (name == "auto" && default_device().is_cuda())) {
    return {.name = "full",
            .images = 0,
            .tests = 0,
            .transform_width = 64,
            .victim_epochs = recipes::fast_classifier.optimization.epochs,
            .defense_epochs = recipes::fast.optimization.epochs,
            .adaptive_rate = 0.01,
            .narrow = false};
  }
  if (name == "small" || name == "auto") {
    return {.name = "small",
            .images = 50'000,
            .tests = 0,
            .transform_width = 16,
            .victim_epochs = 2,
            .defense_epochs = 2,
            .adaptive_rate = 0.03,
            .narrow = true};
  }
  if (name == "tiny") {
    return {.name = "tiny",
            .images = 1'000,
            .tests = 500,
            .transform_width = 4,
            .victim_epochs = 1,
            .defense_epochs = 1,
            .adaptive_rate = 0.03,
            .narrow = true};
  }
  throw Error("refine: no size is called '{}'; say auto, full, small or tiny", name);
}

std::vector<Scenario> all_scenarios() {
  std::vector<Scenario> all = {{"Benign", "ResNet18"}};
  for (const auto attack : attacks::names()) {
    if (attack != "Benign") all.push_back({std::string(attack), "ResNet18"});
  }
  for (const auto network : backbones::network_names()) {
    if (network == "ResNet18") continue;
    all.push_back({"Benign", std::string(network), /*defended=*/false});
    all.push_back({"BadNets", std::string(network)});
  }
  return all;
}

fs::path Setting::folder(const Scenario& scenario) const {
  return out / dataset / scenario.network / scenario.attack;
}

void require_possible(const Scenario& scenario, const Setting& setting) {
  network_of(scenario, setting);
  attacks::AttackOptions options = options_of(scenario, setting);
  options.benign = [](const at::Tensor& images) { return images; };  // asked for its presence alone
  attacks::by_name(scenario.attack, options).check(setting.split.train);
}

void run(const Scenario& scenario, const Setting& setting) {
  const std::string key = key_of(scenario, setting);
  const fs::path folder = setting.folder(scenario);
  if (!is_done(folder / "victim.json", key)) train_victim(scenario, setting, key);
  if (!scenario.defended) return;
  if (!is_done(folder / "defense.json", key)) train_defense(scenario, setting, key);
  const Scenario benign{"Benign", scenario.network};
  const bool comparable = scenario.attack != "Benign" &&
                          is_done(setting.folder(benign) / "defense.json", key_of(benign, setting));
  if (comparable && !is_done(folder / "zero_point.json", key)) measure_zero_point(scenario, setting, key);
}

}  // namespace refine::scenarios
