#include "benchmarks/scenarios/scenario.hpp"

#include <ATen/Parallel.h>
#include <fmt/core.h>
#include <torch/version.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <sstream>
#include <system_error>
#include <utility>

#include <refine/attacks/by_name.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/zoo.hpp>
#include <refine/core/file.hpp>
#include <refine/evaluation/evaluate.hpp>
#include <refine/export/weights.hpp>
#include <refine/nn/device.hpp>
#include <refine/pipeline/any_pipeline.hpp>
#include <refine/remaps/permutations.hpp>
#include <refine/report/html.hpp>
#include <refine/report/json.hpp>
#include <refine/report/sample_sheet.hpp>
#include <refine/training/fit.hpp>
#include <refine/training/observers.hpp>
#include <refine/training/recipe.hpp>
#include <refine/training/recipe_json.hpp>
#include <refine/training/train_classifier.hpp>
#include <refine/transforms/unet.hpp>

namespace refine::scenarios {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

namespace {

/// What a victim's figures must have been made with to be taken as they are.
std::string victim_key(const Scenario& scenario, const Setting& setting) {
  Message image;
  image << setting.split.train.image();
  std::ostringstream key;
  key << scenario.name() << ", " << setting.size.name << ", seed " << setting.seed << ", "
      << (default_device().is_cuda() ? "CUDA" : "CPU") << ", " << setting.split.train.size() << " + "
      << setting.split.test.size() << " images of " << image.view() << ", width "
      << setting.size.network_width(scenario.network) << "; "
      << setting.size.victim_recipe(scenario, setting.seed);
  return key.str();
}

/// Likewise a defense's.
std::string defense_key(const Scenario& scenario, const Setting& setting) {
  std::ostringstream key;
  key << victim_key(scenario, setting) << "; defense of width " << setting.size.transform_width << ", "
      << setting.size.defense_recipe(setting.seed);
  return key.str();
}

/// What a file of ours says, where it was made with `key`; else null.
Json done(const fs::path& file, const std::string& key) {
  if (!file_exists(file)) return nullptr;
  Json json = Json::parse(read_file(file), nullptr, /*allow_exceptions=*/false);
  return json.is_object() && json.value("setting", Json()) == key ? json : nullptr;
}

constexpr const char* victim_file = "trained.json";
constexpr const char* defense_file = "defended.json";
constexpr const char* zero_file = "zero_point.json";

Scenario benign(const Scenario& scenario) {
  return {.attack = "Benign", .network = scenario.network};
}

/// What was done, and where; `key` is what it must have been done with to be taken as it is.
void write_done(const fs::path& file, const std::string& key, Json what) {
  Json json = {{"setting", key}, {"threads", at::get_num_threads()}, {"libtorch", TORCH_VERSION}};
  json.update(what);
  write_file(file, json.dump(1) + "\n");
}

bool is_done(const fs::path& file, const std::string& key) {
  return done(file, key).is_object();
}

/// Removes what is made from weights that are about to be replaced.
void remove_stale(const fs::path& folder, std::initializer_list<const char*> files) {
  for (const char* file : files) {
    std::error_code ignored;
    fs::remove(folder / file, ignored);
  }
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

/// For its trigger: it may lack what only poisoning needs.
attacks::AnyAttack attack_of(const Scenario& scenario, const Setting& setting) {
  return attacks::by_name(scenario.attack, options_of(scenario, setting));
}

void train_victim(const Scenario& scenario, const Setting& setting);

data::TrainingSet poisoned(const Scenario& scenario, const Setting& setting, std::size_t& count) {
  attacks::AttackOptions options = options_of(scenario, setting);
  if (scenario.attack == "LabelConsistent") {
    train_victim(benign(scenario), setting);
    options.benign = freeze(saved_victim(benign(scenario), setting));
    options.store = setting.folder(scenario) / "perturbed.safetensors";
    options.show = true;
  }
  attacks::Poisoned set = attacks::by_name(scenario.attack, options).poison(setting.split.train);
  count = set.indices.size();
  return set;
}

AnyPipeline pipeline_around(const backbones::AnyBackbone& victim, const Setting& setting) {
  const Task task = setting.split.train.task();
  return {
      transforms::UNet<>{.image = task.image, .width = setting.size.transform_width, .seed = setting.seed},
      freeze(victim), remaps::Derangement<>{.classes = task.classes, .seed = setting.seed}};
}

void train_victim(const Scenario& scenario, const Setting& setting) {
  const fs::path folder = setting.folder(scenario);
  const std::string key = victim_key(scenario, setting);
  if (is_done(folder / victim_file, key)) return;
  std::size_t count = 0;
  const auto set = poisoned(scenario, setting, count);
  const auto recipe = setting.size.victim_recipe(scenario, setting.seed);
  History history;
  const auto victim = train_classifier(network_of(scenario, setting), set, recipe, ProgressBar{}, history);
  remove_stale(folder, {zero_file, defense_file, victim_file});
  save(victim, folder / "victim.safetensors");
  write_done(folder / victim_file, key,
             {{"seconds", history.epochs.back().seconds},
              {"poisoned", count},
              {"figures",
               report::figures_json(evaluate(victim, setting.split.test, attack_of(scenario, setting)))}});
}

void train_defense(const Scenario& scenario, const Setting& setting) {
  const fs::path folder = setting.folder(scenario);
  const std::string key = defense_key(scenario, setting);
  if (is_done(folder / defense_file, key)) return;
  const auto attack = attack_of(scenario, setting);
  const Recipe recipe = setting.size.defense_recipe(setting.seed);
  auto defense = pipeline_around(saved_victim(scenario, setting), setting);
  History history;
  fit(defense, setting.split.train.images, recipe, ProgressBar{}, history);
  remove_stale(folder, {zero_file, defense_file});
  save(defense, folder / "defense.safetensors", recipe);
  const auto& test = setting.split.test;
  const Evaluation figures = evaluate(defense, test, attack, /*show=*/true);
  const double seconds = history.epochs.back().seconds;
  std::ostringstream recipe_text;
  recipe_text << recipe;
  report::write_report({.title = scenario.attack + " on " + setting.dataset,
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
                                  {"defense's training", fmt::format("{:.0f} s", seconds)}},
                        .sheet = report::sample_sheet(defense, test, attack)},
                       folder);
  write_done(folder / defense_file, key,
             {{"seconds", seconds},
              {"der", std::isfinite(figures.der()) ? Json(figures.der()) : Json()},
              {"before", report::figures_json(figures.before)},
              {"after", report::figures_json(figures.after)}});
}

}  // namespace

int Size::network_width(const std::string& network) const {
  return narrow ? backbones::narrow_width(network) : backbones::published_width(network);
}

ClassifierRecipe Size::victim_recipe(const Scenario& scenario, std::uint64_t seed) const {
  ClassifierRecipe recipe = recipes::fast_classifier_of(scenario.network);
  recipe.seed = seed;
  recipe.optimization.epochs = victim_epochs;
  if (!narrow) return recipe;
  recipe.augmentation = {.flip = true};  // as published; crops make faint triggers take longer to learn
  // A faint warp takes longer, and so do images that a camera is said to have moved.
  if (scenario.attack == "WaNet" || scenario.attack == "Physical") recipe.optimization.epochs = slow_epochs;
  // Its unpadded convolutions see little of the corner: the trigger is learnt once the images are learnt by
  // heart.
  if (scenario.network == "InceptionV3") {
    recipe.optimization.epochs = corner_epochs;
    recipe.optimization.precision = Precision::automatic;
    recipe.augmentation = {};
  }
  // Their few poisoned images are learnt when all images are learnt by heart.
  if (scenario.attack == "LabelConsistent" || scenario.attack == "Adaptive-Patch") {
    recipe.optimization.epochs = std::max(recipe.optimization.epochs, late_epochs);
    recipe.augmentation = {};
  }
  return recipe;
}

Recipe Size::defense_recipe(std::uint64_t seed) const {
  Recipe recipe = narrow ? recipes::two_cores : recipes::fast;
  recipe.seed = seed;
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
            .slow_epochs = recipes::fast_classifier.optimization.epochs,
            .late_epochs = recipes::fast_classifier.optimization.epochs,
            .corner_epochs = recipes::fast_classifier.optimization.epochs,
            .defense_epochs = recipes::fast.optimization.epochs,
            .adaptive_rate = 0.01,
            .narrow = false};
  }
  if (name == "small" || name == "auto") {
    return {.name = "small",
            .images = 30'000,
            .tests = 0,
            .transform_width = 16,
            .victim_epochs = 3,
            .slow_epochs = 5,
            .late_epochs = 8,
            .corner_epochs = 20,
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
            .slow_epochs = 1,
            .late_epochs = 1,
            .corner_epochs = 1,
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
  if (file_exists(setting.folder(scenario) / "attack.json")) {
    throw Error("refine: {} has what refine attack left, which is not to be replaced; say another --out",
                setting.folder(scenario).string());
  }
}

void run(const Scenario& scenario, const Setting& setting) {
  train_victim(scenario, setting);
  if (scenario.defended) train_defense(scenario, setting);
}

void measure_zero_point(const Scenario& scenario, const Setting& setting) {
  const Scenario other = benign(scenario);
  const fs::path folder = setting.folder(scenario);
  const std::string key = defense_key(other, setting);
  if (scenario.attack == "Benign" || is_done(folder / zero_file, key) ||
      !is_done(folder / defense_file, defense_key(scenario, setting)) ||
      !is_done(setting.folder(other) / defense_file, key)) {
    return;
  }
  auto defense = pipeline_around(saved_victim(other, setting), setting);
  load(defense, setting.folder(other) / "defense.safetensors");
  defense.to(default_device());
  const Evaluation figures =
      evaluate(defense, setting.split.test, attack_of(scenario, setting), /*show=*/true);
  write_done(folder / zero_file, key, {{"figures", report::figures_json(figures.after)}});
}

Done look_up(const Scenario& scenario, const Setting& setting) {
  const fs::path folder = setting.folder(scenario);
  const Scenario other = benign(scenario);
  return {.victim = done(folder / victim_file, victim_key(scenario, setting)),
          .defense = done(folder / defense_file, defense_key(scenario, setting)),
          .zero_point = done(folder / zero_file, defense_key(other, setting)),
          .benign_victim = done(setting.folder(other) / victim_file, victim_key(other, setting))};
}

}  // namespace refine::scenarios
