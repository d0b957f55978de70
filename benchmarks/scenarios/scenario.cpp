#include "benchmarks/scenarios/scenario.hpp"

#include "benchmarks/scenarios/learnt_attacks.hpp"

#include <ATen/Parallel.h>
#include <ATen/ops/zeros.h>
#include <fmt/core.h>
#include <torch/version.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <iostream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string_view>
#include <system_error>
#include <utility>

#include <refine/adversaries/adversaries.hpp>
#include <refine/attacks/by_name.hpp>
#include <refine/attacks/pgd.hpp>
#include <refine/attacks/plans.hpp>
#include <refine/attacks/published.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/zoo.hpp>
#include <refine/baselines/by_name.hpp>
#include <refine/core/file.hpp>
#include <refine/core/random.hpp>
#include <refine/core/sha256.hpp>
#include <refine/evaluation/alarm.hpp>
#include <refine/evaluation/evaluate.hpp>
#include <refine/export/weights.hpp>
#include <refine/formats/safetensors.hpp>
#include <refine/metrics/roc.hpp>
#include <refine/nn/device.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/remaps/remaps.hpp>
#include <refine/report/render.hpp>
#include <refine/report/sample_sheet.hpp>
#include <refine/training/checkpoint.hpp>
#include <refine/training/fit.hpp>
#include <refine/training/observers.hpp>
#include <refine/training/recipe.hpp>
#include <refine/training/recipe_json.hpp>
#include <refine/training/stop_on_signal.hpp>
#include <refine/training/train_classifier.hpp>
#include <refine/transforms/unet.hpp>
#include <refine/triggers/additive.hpp>
#include <refine/triggers/patch.hpp>
#include <refine/triggers/trigger.hpp>

namespace refine::scenarios {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

namespace {

/// True if all trainings are to be as short as possible.
bool is_tiny(const Setting& setting) {
  return setting.size.name == "tiny";
}

attacks::AttackOptions options_of(const Scenario& scenario, const Setting& setting) {
  attacks::AttackOptions options{
      .image = setting.split.train.image_shape(), .target = 0, .seed = setting.seed};
  if (scenario.attack.starts_with("Adaptive-")) options.rate = setting.size.adaptive_rate;
  if (scenario.attack == "Narcissus" && setting.size.narrow)
    options.rate = 0.3;  // of the target's few images
  if (scenario.rate) options.rate = scenario.rate;
  return options;
}

/// Returns what the scenario's attacker wants. A surrogate that stands for many defenses gets fresh weights now and then.
adversaries::AdversaryOptions adversary_options(const Scenario& scenario, const Setting& setting) {
  const bool tiny = is_tiny(setting);
  return {.target = options_of(scenario, setting).target,
          .dormant = scenario.against == "Student",
          .restart_every = scenario.against == "REFINE-known" ? 0
                           : tiny                             ? 4
                                                              : 300,
          .warm_up = tiny ? 1 : 50};
}

/// Describes what all scenarios of a run share.
std::string shared_key(const Setting& setting) {
  Message image;
  image << setting.split.train.image_shape();
  return fmt::format("{}, seed {}, {}, {} + {} images of {} (SHA-256 {})", setting.size.name, setting.seed,
                     default_device().is_cuda() ? "CUDA" : "CPU", setting.split.train.size(),
                     setting.split.test.size(), image.view(), setting.fingerprint);
}

/// Describes the setting of a victim. Its results are kept if the description is the same.
std::string victim_key(const Scenario& scenario, const Setting& setting) {
  std::ostringstream key;
  key << scenario.name() << ", " << shared_key(setting) << ", width "
      << setting.size.network_width(scenario.network) << "; "
      << setting.size.victim_recipe(scenario, setting.seed);
  if (scenario.attack == "Stamped") key << "; stamped images (SHA-256 " << setting.stamped_fingerprint << ')';
  if (scenario.attack == "Narcissus") key << "; the attacker's own classifier";
  if (scenario.attack == "Input-aware") key << "; patches of all classes as covers";
  if (!scenario.against.empty()) {
    const auto options = adversary_options(scenario, setting);
    key << "; against " << scenario.against << ", transform of width " << setting.size.transform_width
        << ", restart " << options.restart_every << ", warm-up " << options.warm_up;
  }
  return key.str();
}

/// Describes the setting of a defense, likewise.
std::string defense_key(const Scenario& scenario, const Setting& setting) {
  std::ostringstream key;
  key << victim_key(scenario, setting) << "; defense of width " << setting.size.transform_width << ", "
      << setting.size.defense_recipe(setting.seed);
  return key.str();
}

/// Returns the content of a results file; null if there is none, or it is damaged.
Json read_results_file(const fs::path& file) {
  if (!files::exists(file)) return nullptr;
  Json json = Json::parse(files::read(file), nullptr, /*allow_exceptions=*/false);
  return json.is_object() && json.contains("setting") && json["setting"].is_string() ? json : nullptr;
}

/// Returns the content of a results file if it was written with `key`, or null.
/// \param made_from the SHA-256 of the weights that the results belong to; empty: of none
Json read_done(const fs::path& file, const std::string& key, const std::string& made_from = {}) {
  Json json = read_results_file(file);
  const bool is_done =
      json.is_object() && json["setting"] == key && json.value("made_from", Json("")) == made_from;
  return is_done ? json : nullptr;
}

constexpr const char* trigger_file = "trigger.safetensors";
constexpr const char* victim_file = "trained.json";
constexpr const char* defense_file = "defended.json";
constexpr const char* zero_file = "zero_point.json";
constexpr const char* waking_file = "waking.json";
constexpr const char* rival_file = "rival.json";
constexpr const char* baseline_suffix = ".json";
constexpr const char* baseline_zero_suffix = "_zero_point.json";
constexpr double labelled_share = 0.05;  // of the training images, for baselines that learn from labels

Scenario benign(const Scenario& scenario) {
  return {.attack = "Benign", .network = scenario.network};
}

/// Writes a results file.
///
/// \param file  where it goes
/// \param key  describes the setting
/// \param made_from  as `read_done` expects it
/// \param results  the content
void write_done(const fs::path& file, const std::string& key, const std::string& made_from, Json results) {
  Json json = {{"setting", key}, {"threads", at::get_num_threads()}, {"libtorch", TORCH_VERSION}};
  if (!made_from.empty()) json["made_from"] = made_from;
  json.update(results);
  files::write(file, json.dump(1) + "\n");
}

bool is_done(const fs::path& file, const std::string& key, const std::string& made_from = {}) {
  return read_done(file, key, made_from).is_object();
}

/// Returns the SHA-256 of the weights that a results file names. Empty without the file, and for one of a version that
/// did not name them.
std::string weights_in(const Json& results) {
  return results.is_object() ? results.value("weights", std::string()) : std::string();
}

/// Returns the SHA-256 of the weights of a scenario's finished victim, likewise.
std::string victim_weights(const Scenario& scenario, const Setting& setting) {
  return weights_in(read_done(setting.folder(scenario) / victim_file, victim_key(scenario, setting)));
}

/// Returns the results of a scenario's defense, or null if there is none of its victim.
Json read_defense(const Scenario& scenario, const Setting& setting) {
  return read_done(setting.folder(scenario) / defense_file, defense_key(scenario, setting),
                   victim_weights(scenario, setting));
}

/// Returns the SHA-256 of the weights of a scenario's finished defense, likewise.
std::string defense_weights(const Scenario& scenario, const Setting& setting) {
  return weights_in(read_defense(scenario, setting));
}

/// Returns the first part in which two descriptions of settings differ, as it is in each.
std::pair<std::string, std::string> first_difference(std::string_view a, std::string_view b) {
  const auto take = [](std::string_view& text) {
    const std::size_t end = std::min(text.find_first_of(",;"), text.size());
    std::string_view part = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    part.remove_prefix(std::min(part.find_first_not_of(' '), part.size()));
    return part.empty() ? std::string("nothing") : std::string(part);
  };
  while (!a.empty() || !b.empty()) {
    auto parts = std::pair{take(a), take(b)};
    if (parts.first != parts.second) return parts;
  }
  return {};
}

/// Checks that results may be kept or replaced: that there are none, or none of another setting.
/// \param results what `read_results_file` returned
/// \param key describes the setting
/// \throws Error naming what differs
void check_setting(const fs::path& folder, const Json& results, const std::string& key,
                   const Setting& setting) {
  if (!results.is_object() || results["setting"] == key) return;
  const auto other = results["setting"].get<std::string>();
  const auto [there, here] = first_difference(other, key);
  if (other.find(shared_key(setting)) == std::string::npos || here.starts_with("stamped images")) {
    throw Error(
        "--out: {} has results of another setting, which are not replaced (got {}, there: {}); use another --out",
        folder.string(), here, there);
  }
  throw Error(
      "--out: {} has results of another version of refine, with other recipes or widths, which are not replaced "
      "(now: {}, there: {}); move or remove that folder, or use another --out",
      folder.string(), here, there);
}

/// Checks that the folder of a scenario has no results of another setting, and none of `refine attack`.
/// \throws Error otherwise
void check_folder(const Scenario& scenario, const Setting& setting) {
  const fs::path folder = setting.folder(scenario);
  if (files::exists(folder / "attack.json")) {
    throw Error("--out: {} has results of refine attack, which are not replaced; use another folder",
                folder.string());
  }
  check_setting(folder, read_results_file(folder / victim_file), victim_key(scenario, setting), setting);
}

/// Removes the results that depend on weights that are about to be replaced.
void remove_stale(const fs::path& folder, const std::vector<std::string>& files) {
  for (const std::string& file : files) {
    std::error_code ignored;
    fs::remove(folder / file, ignored);
  }
}

/// Returns the files in the folder of a victim that belong to its weights.
std::vector<std::string> files_of_victim() {
  std::vector<std::string> names = {waking_file,           rival_file,    "rival.safetensors", zero_file,
                                    defense_file,          "report.html", "metrics.json",      "images.png",
                                    "defense.safetensors", victim_file};
  for (const auto baseline : baselines::names()) {
    for (const char* suffix : {baseline_suffix, baseline_zero_suffix})
      names.push_back(std::string(baseline) + suffix);
  }
  return names;
}

/// Removes what an interrupted training of the kind left, of any setting. What another process is training
/// stays.
void remove_checkpoints(const fs::path& folder, const std::string& name) {
  std::error_code ignored;
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    if (entry.path().filename().string().starts_with("checkpoints-" + name + "-"))
      found.push_back(entry.path());
  }
  for (const fs::path& path : found) {
    try {
      Checkpoint{.path = path}.remove();
    } catch (const Error&) {
    }
  }
}

/// Returns where a training saves its state. Another setting has another folder, so that it does not
/// meet the interrupted training of this one.
Checkpoint checkpoint_of(const fs::path& folder, const std::string& name, const std::string& key) {
  return {.path = folder / ("checkpoints-" + name + "-" + Sha256().add(key).hex().substr(0, 12)),
          .resume = true};
}

/// Makes an untrained network.
/// \param seed of the initial weights
backbones::AnyBackbone make_network(const Scenario& scenario, const Setting& setting, std::uint64_t seed) {
  return backbones::AnyBackbone(backbones::Normalized{
      backbones::network_by_name(scenario.network, {.task = setting.split.train.task(),
                                                    .width = setting.size.network_width(scenario.network),
                                                    .seed = seed}),
      setting.normalization});
}

/// Loads the scenario's victim.
backbones::AnyBackbone load_victim(const Scenario& scenario, const Setting& setting) {
  auto victim = make_network(scenario, setting, setting.seed);
  load(victim, setting.folder(scenario) / "victim.safetensors");
  victim.module->to(default_device());
  return victim;
}

/// Makes the scenario's attack.
/// \param learnt its trigger, if that is learnt; empty: an untrained one
attacks::AnyAttack make_attack(const Scenario& scenario, const Setting& setting,
                               const attacks::AttackOptions& options, const TriggerTensors& learnt) {
  if (is_learnt(scenario.attack)) {
    return make_learnt_attack(scenario.attack, learnt, options, setting.split.train,
                              setting.size.transform_width);
  }
  if (scenario.attack != "Stamped") return attacks::by_name(scenario.attack, options);
  attacks::DirtyLabel<triggers::Stamped> stamped{
      .trigger = setting.stamped.value(), .target = options.target, .seed = options.seed};
  stamped.rate = options.rate.value_or(stamped.rate);
  return {stamped, scenario.attack};
}

/// Describes the setting of a learnt trigger, likewise.
std::string trigger_key(const Scenario& scenario, const Setting& setting) {
  return victim_key(scenario, setting) + "; trigger";
}

/// Reads the learnt trigger of a scenario. Returns no tensors if none was learnt with this setting.
TriggerTensors read_trigger(const Scenario& scenario, const Setting& setting) {
  const fs::path file = setting.folder(scenario) / trigger_file;
  if (!files::exists(file)) return {};
  auto content = formats::read_safetensors(file);
  const auto key = content.metadata.find("setting");
  const bool is_of_setting = key != content.metadata.end() && key->second == trigger_key(scenario, setting);
  return is_of_setting ? std::move(content.tensors) : TriggerTensors();
}

/// Returns the attack for its trigger, without what only poisoning needs.
attacks::AnyAttack trigger_attack(const Scenario& scenario, const Setting& setting) {
  TriggerTensors learnt;
  if (is_learnt(scenario.attack)) {
    learnt = read_trigger(scenario, setting);
    if (learnt.empty()) {
      throw Error("{} is missing, or of another setting; remove {}, and the victim is trained anew",
                  (setting.folder(scenario) / trigger_file).string(),
                  (setting.folder(scenario) / victim_file).string());
    }
  }
  return make_attack(scenario, setting, options_of(scenario, setting), learnt);
}

/// Measures a defense's alarm on test images, and on those of them that the attacker wants to be
/// predicted as another class.
template <typename D>
Json measure_alarm_of(const D& defense, const attacks::AnyAttack& attack, const Setting& setting) {
  const auto& all = setting.split.test;
  const auto test = all.sample(std::min(setting.size.alarms, all.size()), setting.seed);
  const auto classes = static_cast<int>(test.classes.size());
  at::Tensor wanted = test.labels.clone();
  for (std::int64_t i = 0; i < test.size(); ++i) {
    const auto label = test.labels[i].item<std::int64_t>();
    wanted[i] = attack.target_of(static_cast<int>(label), classes).value_or(static_cast<int>(label)) != label;
  }
  const at::Tensor moved = wanted.nonzero().flatten();
  if (moved.numel() == 0 || test.size() == 0) return nullptr;
  const auto clean = alarm_scores(defense, test.images);
  const auto triggered = alarm_scores(defense, attack.trigger_images(test.images.index_select(0, moved)));
  return {{"auroc", metrics::auroc(triggered, clean).value()},
          {"detected_at_1", metrics::detected_at(triggered, clean, 0.01).value()},
          {"detected_at_5", metrics::detected_at(triggered, clean, 0.05).value()},
          {"clean", clean.size()},
          {"triggered", triggered.size()}};
}

void train_victim(const Scenario& scenario, const Setting& setting);

/// Returns the setting in which an attacker trains a classifier: with another seed, into another folder. If the trigger
/// were made for the benign victim, whose defense gives the zero point, the zero point would be too high.
Setting attackers_setting(const Setting& setting) {
  Setting changed = setting;
  changed.seed = derived_seed(setting.seed, "attacker");
  changed.out = setting.out / "attacker";
  return changed;
}

/// Learns the trigger of an attack that has one to learn.
void learn_trigger_of(const Scenario& scenario, const Setting& setting) {
  if (!is_learnt(scenario.attack) || !read_trigger(scenario, setting).empty()) return;
  const Setting attackers = attackers_setting(setting);
  const bool is_narcissus = scenario.attack == "Narcissus";
  const fs::path folder = setting.folder(scenario);
  const Checkpoint checkpoint = checkpoint_of(folder, "trigger", trigger_key(scenario, setting));
  if (is_narcissus) train_victim(benign(scenario), attackers);
  const TriggerTensors trigger =
      learn_trigger(scenario.attack, setting.split.train,
                    {.target = options_of(scenario, setting).target,
                     .classifier = is_narcissus ? load_victim(benign(scenario), attackers)
                                                : make_network(scenario, setting, attackers.seed),
                     .width = setting.size.transform_width,
                     .steps = setting.size.wake_steps,
                     .recipe = setting.size.victim_recipe(scenario, setting.seed),
                     .checkpoint = checkpoint});
  remove_stale(folder, {victim_file});  // it was trained with another trigger
  formats::write_safetensors(folder / trigger_file,
                             {.tensors = trigger, .metadata = {{"setting", trigger_key(scenario, setting)}}});
  checkpoint.remove();
}

/// Poisons the training images and sets `count` to the number of poisoned ones.
/// \pre the benign victim is trained, if the attack is LabelConsistent
data::TrainingSet poison(const Scenario& scenario, const Setting& setting, std::size_t& count) {
  attacks::AttackOptions options = options_of(scenario, setting);
  if (scenario.attack == "LabelConsistent") {
    options.benign = freeze(load_victim(benign(scenario), setting));
    options.store = setting.folder(scenario) / "perturbed.safetensors";
    options.show = true;
  }
  attacks::Poisoned set =
      make_attack(scenario, setting, options, read_trigger(scenario, setting)).poison(setting.split.train);
  count = set.indices.size();
  return set;
}

/// The trigger of an attack, for images in [0, 1].
struct TriggerOf {
  attacks::AnyAttack attack;
  ImageShape image;

  at::Tensor apply(const at::Tensor& images) const {
    return data::to_float(attack.trigger_images(data::to_bytes(images)), images.device());
  }
};

/// Returns an untrained transform of the setting's width.
transforms::UNet<> make_transform(const Setting& setting, std::uint64_t seed) {
  return {.image = setting.split.train.image_shape(), .width = setting.size.transform_width, .seed = seed};
}

/// Returns the remap of a defense.
remaps::Derangement<> make_remap(const Setting& setting) {
  return {.classes = setting.split.train.task().classes, .seed = setting.seed};
}

/// Makes an untrained defense of a victim.
AnyPipeline make_pipeline(const backbones::AnyBackbone& victim, const Setting& setting) {
  return {make_transform(setting, setting.seed), freeze(victim), make_remap(setting)};
}

/// Trains a victim whose attacker has a defense in mind. Its backdoor is dormant if that is a student.
template <typename... Observers>
backbones::AnyBackbone train_adversarial(const Scenario& scenario, const Setting& setting,
                                         Observers&... observers) {
  const Task task = setting.split.train.task();
  const TriggerOf trigger{trigger_attack(scenario, setting), task.image};
  const auto train = [&](const auto& surrogate) {
    return adversaries::train_against(make_network(scenario, setting, setting.seed), setting.split.train,
                                      trigger, surrogate, adversary_options(scenario, setting),
                                      setting.size.victim_recipe(scenario, setting.seed), observers...);
  };
  if (scenario.against == "Student") return train(adversaries::SurrogateStudent{.task = task});
  return train(adversaries::SurrogateTransform<transforms::UNet<>>{
      .make = [&](std::uint64_t seed) { return make_transform(setting, seed); },
      .classes = task.classes,
      .permutation = scenario.against == "REFINE-known" ? make_remap(setting).permutation
                                                        : std::vector<std::int64_t>{}});
}

void train_victim(const Scenario& scenario, const Setting& setting) {
  const fs::path folder = setting.folder(scenario);
  const std::string key = victim_key(scenario, setting);
  const Checkpoint checkpoint = checkpoint_of(folder, "victim", key);
  if (is_done(folder / victim_file, key)) return checkpoint.remove();
  check_folder(scenario, setting);
  if (scenario.attack == "LabelConsistent") train_victim(benign(scenario), setting);
  learn_trigger_of(scenario, setting);
  std::size_t count = 0;
  History history;
  StopOnSignal signals("the same command");
  ProgressBar bar;
  const auto victim = [&] {
    if (!scenario.against.empty())
      return train_adversarial(scenario, setting, bar, history, checkpoint, signals);
    const auto set = poison(scenario, setting, count);
    return train_classifier(make_network(scenario, setting, setting.seed), set,
                            setting.size.victim_recipe(scenario, setting.seed), bar, history, checkpoint,
                            signals);
  }();
  remove_stale(folder, files_of_victim());
  for (const char* name : {"defense", "rival"}) remove_checkpoints(folder, name);
  for (const auto baseline : baselines::names()) remove_checkpoints(folder, std::string(baseline));
  save(victim, folder / "victim.safetensors");
  write_done(folder / victim_file, key, /*made_from=*/"",
             {{"weights", files::sha256(folder / "victim.safetensors")},
              {"seconds", history.epochs.back().seconds},
              {"poisoned", scenario.against.empty() ? Json(count) : Json()},
              {"figures", report::figures_json(
                              evaluate(victim, setting.split.test, trigger_attack(scenario, setting)))}});
  checkpoint.remove();
}

void train_defense(const Scenario& scenario, const Setting& setting) {
  const fs::path folder = setting.folder(scenario);
  const std::string key = defense_key(scenario, setting);
  const Checkpoint checkpoint = checkpoint_of(folder, "defense", key);
  if (read_defense(scenario, setting).is_object()) return checkpoint.remove();
  const auto attack = trigger_attack(scenario, setting);
  const Recipe recipe = setting.size.defense_recipe(setting.seed);
  auto defense = make_pipeline(load_victim(scenario, setting), setting);
  History history;
  StopOnSignal signals("the same command");
  fit(defense, setting.split.train.images, recipe, ProgressBar{}, history, checkpoint, signals);
  remove_stale(folder, {waking_file, zero_file, defense_file});
  save(defense, folder / "defense.safetensors", recipe);
  const auto& test = setting.split.test;
  const Evaluation figures = evaluate(defense, test, attack, /*show=*/true);
  const double seconds = history.epochs.back().seconds;
  std::ostringstream recipe_text;
  recipe_text << recipe;
  report::write_report({.title = scenario.attack_name() + " on " + setting.dataset,
                        .dataset = setting.dataset,
                        .model = scenario.network,
                        .attack = scenario.attack_name(),
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
  write_done(folder / defense_file, key, victim_weights(scenario, setting),
             {{"weights", files::sha256(folder / "defense.safetensors")},
              {"seconds", seconds},
              {"der", std::isfinite(figures.der()) ? Json(figures.der()) : Json()},
              {"before", report::figures_json(figures.before)},
              {"after", report::figures_json(figures.after)},
              {"alarm", measure_alarm_of(defense, attack, setting)}});
  checkpoint.remove();
}

/// Loads a finished defense.
AnyPipeline load_defense(const Scenario& scenario, const Setting& setting) {
  auto defense = make_pipeline(load_victim(scenario, setting), setting);
  load(defense, setting.folder(scenario) / "defense.safetensors");
  defense.to(default_device());
  return defense;
}

/// Trains the adversary's own defense of the scenario's victim, with another seed: other initial weights and another
/// permutation.
AnyPipeline train_rival(const Scenario& scenario, const Setting& setting) {
  Setting other = setting;
  other.seed = derived_seed(setting.seed, "rival");
  auto rival = make_pipeline(load_victim(scenario, setting), other);
  const fs::path folder = setting.folder(scenario), done = folder / rival_file;
  const Recipe recipe = setting.size.defense_recipe(other.seed);
  const std::string key = defense_key(scenario, setting) + "; rival";
  const std::string weights = victim_weights(scenario, setting);
  const Checkpoint checkpoint = checkpoint_of(folder, "rival", key);
  if (!is_done(done, key, weights)) {
    StopOnSignal signals("the same command");
    fit(rival, setting.split.train.images, recipe, ProgressBar{}, checkpoint, signals);
    remove_stale(folder, {rival_file});
    save(rival, folder / "rival.safetensors", recipe);
    write_done(done, key, weights, Json::object());
  }
  checkpoint.remove();
  load(rival, folder / "rival.safetensors");
  rival.to(default_device());
  return rival;
}

/// Returns the SHA-256 of the weights of both defenses that `measure_waking` attacks.
std::string waking_weights(const Scenario& scenario, const Setting& setting) {
  return defense_weights(scenario, setting) + defense_weights(benign(scenario), setting);
}

/// Describes the setting of the adversary who wakes a backdoor.
std::string waking_key(const Scenario& scenario, const Setting& setting) {
  return fmt::format("{}; {}; {} steps; two aims", defense_key(scenario, setting),
                     defense_key(benign(scenario), setting), setting.size.wake_steps);
}

/// Returns the recipe of fine-tuning.
ClassifierRecipe fine_tuning_recipe(const Setting& setting) {
  ClassifierRecipe recipe = baselines::fine_tuning;
  recipe.seed = setting.seed;
  if (is_tiny(setting)) recipe.optimization.epochs = 1;
  return recipe;
}

/// Returns the options of NAD.
baselines::AttentionOptions attention_options(const Setting& setting) {
  baselines::AttentionOptions options;
  for (ClassifierRecipe* recipe : {&options.teacher, &options.recipe}) {
    recipe->seed = setting.seed;
    if (is_tiny(setting)) recipe->optimization.epochs = 1;
  }
  return options;
}

/// Returns the options of the neural polarizer.
baselines::PolarizerOptions polarizer_options(const Setting& setting) {
  baselines::PolarizerOptions options;
  options.recipe.seed = setting.seed;
  if (is_tiny(setting)) options.recipe.optimization.epochs = 1;
  return options;
}

/// Returns the options of BTI-DBF: fewer rounds at the small sizes.
baselines::InversionOptions inversion_options(const Setting& setting) {
  baselines::InversionOptions options{.seed = setting.seed};
  if (setting.size.narrow) options.rounds = 2;
  if (is_tiny(setting)) {
    options.rounds = options.first_epochs = options.mask_epochs = options.generator_epochs =
        options.purifier_epochs = 1;
  }
  return options;
}

/// Describes the setting of a baseline on a victim, likewise.
std::string baseline_key(const Scenario& victim, const std::string& name, const Setting& setting) {
  std::ostringstream key;
  key << victim_key(victim, setting) << "; " << name;
  if (name == "Student") key << ", weights of another seed, " << setting.size.defense_recipe(setting.seed);
  if (!baselines::needs_labels(name)) return key.str();
  key << ", " << labelled_share << " of the images, ";
  if (name == "NAD") {
    const auto options = attention_options(setting);
    key << "power " << options.power << ", weight " << options.weight << ", " << options.stages << " stages, "
        << options.teacher << ", " << options.recipe;
  } else if (name == "NeuralPolarizer") {
    const auto options = polarizer_options(setting);
    key << options.describe() << ", " << options.recipe;
  } else if (name == "BTI-DBF") {
    key << "transform of width " << setting.size.transform_width << ", "
        << inversion_options(setting).describe();
  } else {
    key << fine_tuning_recipe(setting);
  }
  return key.str();
}

/// Describes the setting of a baseline's zero point, which also depends on the trigger, likewise.
std::string baseline_zero_key(const Scenario& trigger, const std::string& name, const Setting& setting) {
  return fmt::format("{}; trigger of {}", baseline_key(benign(trigger), name, setting),
                     victim_key(trigger, setting));
}

/// A scenario whose trigger is measured on a defended victim.
struct Measurement {
  Scenario trigger;
  bool zero_point = false;  ///< the victim is benign, and its figures are the trigger's zero point
};

/// Makes a baseline on a victim, and measures it with triggers.
void measure_baseline(const Scenario& victim, const std::string& name, std::vector<Measurement> measurements,
                      const Setting& setting) {
  const auto key_of = [&](const Measurement& m) {
    return m.zero_point ? baseline_zero_key(m.trigger, name, setting)
                        : baseline_key(m.trigger, name, setting);
  };
  const auto file_of = [&](const Measurement& m) {
    return setting.folder(m.trigger) / (name + (m.zero_point ? baseline_zero_suffix : baseline_suffix));
  };
  // A detector answers as the victim: it has no zero point.
  const bool is_detector = baselines::kind_of(name) == baselines::BaselineKind::detector;
  const std::string weights = victim_weights(victim, setting);
  std::erase_if(measurements, [&](const Measurement& m) {
    return (is_detector && m.zero_point) || is_done(file_of(m), key_of(m), weights);
  });
  const Checkpoint checkpoint =
      checkpoint_of(setting.folder(victim), name, baseline_key(victim, name, setting));
  if (measurements.empty()) return checkpoint.remove();
  std::cerr << fmt::format("{} on {}, {}\n", name, victim.attack_name(), victim.network);
  const auto& train = setting.split.train;
  const auto begin = std::chrono::steady_clock::now();
  const baselines::BaselineOptions options{
      .victim = load_victim(victim, setting),
      // From the victim's own initial weights, a student would learn more than its answers to clean images.
      .fresh = make_network(victim, setting, derived_seed(setting.seed, "student")),
      .images = train.images,
      .recipe = setting.size.defense_recipe(setting.seed),
      .labelled = train.sample(
          std::max<std::int64_t>(std::llround(labelled_share * static_cast<double>(train.size())), 2),
          setting.seed),
      .fine_tuning_recipe = fine_tuning_recipe(setting),
      .attention = attention_options(setting),
      .polarizer = polarizer_options(setting),
      .purifier = make_transform(setting, derived_seed(setting.seed, "purifier")),
      .inversion = inversion_options(setting),
      .overlays = static_cast<int>(std::min<std::int64_t>(32, train.size())),
      .seed = setting.seed};
  // BTI-DBF has several trainings, which cannot share a checkpoint.
  const bool is_resumable = name != "BTI-DBF";
  StopOnSignal signals(is_resumable ? "the same command" : "");
  ProgressBar bar;
  History history;
  const auto defense = is_resumable ? baselines::by_name(name, options, bar, history, checkpoint, signals)
                                    : baselines::by_name(name, options, bar, signals);
  // A training that was continued has taken longer than this run of it.
  const double seconds = std::max(
      history.seconds(), std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  for (const Measurement& measurement : measurements) {
    const auto attack = trigger_attack(measurement.trigger, setting);
    Json results = {{"seconds", seconds}};
    if (is_detector) {
      results["alarm"] = measure_alarm_of(defense, attack, setting);
    } else {
      const Evaluation figures = evaluate(defense, setting.split.test, attack, /*show=*/true);
      results["der"] = std::isfinite(figures.der()) ? Json(figures.der()) : Json();
      results["before"] = report::figures_json(figures.before);
      results["after"] = report::figures_json(figures.after);
      results["alarm"] = measure_alarm_of(defense, attack, setting);
    }
    write_done(file_of(measurement), key_of(measurement), weights, std::move(results));
  }
  checkpoint.remove();
}

/// Returns the poisoning rate of a scenario that names none.
double default_rate(Scenario scenario, const Setting& setting) {
  scenario.rate.reset();
  if (const auto rate = options_of(scenario, setting).rate) return *rate;
  const ImageShape image = setting.split.train.image_shape();
  if (scenario.attack == "LabelConsistent")
    return attacks::LabelConsistent<>{.trigger = {.image = image}}.rate;
  if (scenario.attack == "SIG") return attacks::Sig<>{.trigger = {.image = image}}.rate;
  if (scenario.attack == "SourceSpecific")
    return attacks::SourceSpecific<triggers::Patch<>>{.trigger = {.image = image}}.rate;
  if (scenario.attack == "Narcissus")
    return attacks::narcissus<>(at::zeros({image.channels, image.height, image.width}), 0).rate;
  return attacks::BadNets<>{.trigger = {.image = image}}.rate;
}

/// Returns "size, seed, device, images" of each setting that has a victim in the data set's folder, each once.
std::vector<std::string> settings_in_folder(const Setting& setting) {
  std::vector<std::string> found;
  for (const Scenario& scenario : with_other_rates(all_scenarios(/*with_stamped=*/true), setting)) {
    const Json results = read_results_file(setting.folder(scenario) / victim_file);
    if (!results.is_object()) continue;
    auto key = results["setting"].get<std::string>();
    key = key.substr(0, key.find(", width "));
    const std::string start = scenario.name() + ", ";
    if (key.starts_with(start)) key.erase(0, start.size());
    if (std::ranges::find(found, key) == found.end()) found.push_back(key);
  }
  return found;
}

}  // namespace

int Size::network_width(const std::string& network) const {
  if (!narrow) return backbones::published_width(network);
  const int width = backbones::narrow_width(network);
  const bool can_be_narrower = network.find("ResNet") != std::string::npos || network.starts_with("VGG");
  return can_be_narrower ? width / width_divisor : width;
}

ClassifierRecipe Size::victim_recipe(const Scenario& scenario, std::uint64_t seed) const {
  ClassifierRecipe recipe = recipes::fast_classifier_of(scenario.network);
  recipe.seed = seed;
  recipe.optimization.epochs = victim_epochs;
  if (!scenario.against.empty()) recipe.optimization.epochs = late_epochs;
  if (!narrow) return recipe;
  recipe.augmentation = {.flip =
                             true};  // as the authors' code does; crops delay the learning of faint triggers
  // A faint warp takes longer to learn, and so do the transformed images of Physical, and triggers that are drawn.
  for (const char* slow : {"WaNet", "Physical", "Input-aware", "LIRA"}) {
    if (scenario.attack == slow) recipe.optimization.epochs = slow_epochs;
  }
  // Its unpadded convolutions see little of the corner. It learns the trigger once it has memorized
  // the images.
  if (scenario.network == "InceptionV3") {
    recipe.optimization.epochs = corner_epochs;
    recipe.optimization.precision = Precision::automatic;
    recipe.augmentation = {};
  }
  // Few poisoned images, several targets and faint patterns are learnt once the network has memorized all
  // images. A flip moves the pattern's phase.
  for (const char* late : {"LabelConsistent", "Adaptive-Patch", "Adaptive-Blend", "Narcissus", "AllToAll",
                           "MultiTarget", "SIG", "FTrojan"}) {
    if (scenario.attack != late) continue;
    recipe.optimization.epochs = std::max(recipe.optimization.epochs, late_epochs);
    recipe.augmentation = {};
  }
  return recipe;
}

Recipe Size::defense_recipe(std::uint64_t seed) const {
  // Images that are seen two or three times cannot be overfitted.
  Recipe recipe = defense_epochs <= 3 ? recipes::two_cores : recipes::fast;
  recipe.seed = seed;
  recipe.optimization.epochs = defense_epochs;
  return recipe;
}

Size size_by_name(const std::string& name) {
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
            .alarms = 10'000,
            .wake_steps = 500,
            .narrow = false,
            .width_divisor = 1};
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
            .defense_epochs = 8,  // as many steps as recipes::fast takes on 20,000 images
            .adaptive_rate = 0.03,
            .alarms = 2'000,
            .wake_steps = 300,
            .narrow = true,
            .width_divisor = 1};
  }
  if (name == "quick") {
    return {.name = "quick",
            .images = 20'000,
            .tests = 2'000,
            .transform_width = 8,
            .victim_epochs = 3,
            .slow_epochs = 5,
            .late_epochs = 8,
            .corner_epochs = 20,
            .defense_epochs = 3,
            .adaptive_rate = 0.03,
            .alarms = 1'000,
            .wake_steps = 200,
            .narrow = true,
            .width_divisor = 2};
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
            .alarms = 2'000,
            .wake_steps = 2,
            .narrow = true,
            .width_divisor = 1};
  }
  throw Error("--size: unknown size '{}'; use auto, full, small, quick or tiny", name);
}

std::vector<Scenario> all_scenarios(bool with_stamped) {
  std::vector<Scenario> all = {{"Benign", "ResNet18"}};
  for (const auto attack : attacks::names()) {
    if (attack != "Benign") all.push_back({std::string(attack), "ResNet18"});
  }
  for (const auto attack : learnt_attacks) all.push_back({std::string(attack), "ResNet18"});
  if (with_stamped) all.push_back({"Stamped", "ResNet18"});
  for (const char* attack : {"BadNets", "Blended"}) {
    for (const char* against : {"Student", "REFINE", "REFINE-known"})
      all.push_back({.attack = attack, .network = "ResNet18", .against = against});
  }
  for (const auto network : backbones::network_names()) {
    if (network == "ResNet18") continue;
    all.push_back({"Benign", std::string(network), /*defended=*/false});
    all.push_back({"BadNets", std::string(network)});
  }
  return all;
}

namespace {

/// Reads a poisoning rate; nothing if the text is not a share above 0.
std::optional<double> rate_of(std::string_view text) {
  double rate = 0;
  const auto [stop, problem] = std::from_chars(text.data(), text.data() + text.size(), rate);
  const bool is_read = problem == std::errc() && stop == text.data() + text.size();
  return is_read && rate > 0 && rate <= 1 ? std::optional(rate) : std::nullopt;
}

}  // namespace

std::vector<Scenario> scenarios_by_name(const std::vector<std::string>& names,
                                        const std::vector<Scenario>& all) {
  if (names.empty()) {
    std::vector<Scenario> usual;
    std::ranges::copy_if(all, std::back_inserter(usual), &std::string::empty, &Scenario::against);
    return usual;
  }
  std::string known;
  for (const Scenario& scenario : all) known += (known.empty() ? "" : ", ") + scenario.name();
  std::vector<Scenario> selected;
  for (const std::string& name : names) {
    const std::size_t end_of_name = std::min(name.find('@'), name.size());
    const auto found = std::ranges::find(all, name.substr(0, end_of_name), &Scenario::name);
    if (found == all.end()) throw Error("--only: unknown scenario '{}'; use one of {}", name, known);
    selected.push_back(*found);
    selected.back().defended = true;
    if (end_of_name == name.size()) continue;
    selected.back().rate = rate_of(std::string_view(name).substr(end_of_name + 1));
    if (!found->against.empty()) {
      throw Error("--only: {} has no poisoning rate, got '{}'; the attacker trains the victim itself",
                  found->name(), name);
    }
    if (!selected.back().rate || found->attack == "Benign") {
      throw Error(
          "--only: wrong rate in '{}'; use a share above 0 and at most 1, such as BadNets/ResNet18@0.01",
          name);
    }
  }
  // Benign victims first: others are compared with them.
  std::ranges::stable_partition(selected, [](const Scenario& s) { return s.attack == "Benign"; });
  return selected;
}

std::vector<Scenario> without_default_rates(const std::vector<Scenario>& scenarios, const Setting& setting) {
  std::vector<Scenario> result;
  for (Scenario scenario : scenarios) {
    if (scenario.rate && *scenario.rate == default_rate(scenario, setting)) scenario.rate.reset();
    if (std::ranges::find(result, scenario.name(), &Scenario::name) == result.end())
      result.push_back(scenario);
  }
  return result;
}

std::vector<Scenario> with_other_rates(const std::vector<Scenario>& all, const Setting& setting) {
  std::vector<Scenario> result;
  for (const Scenario& scenario : all) {
    result.push_back(scenario);
    std::vector<double> rates;
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator(setting.folder(scenario).parent_path(), ignored)) {
      const std::string name = entry.path().filename().string(), start = scenario.attack_name() + "@";
      if (!name.starts_with(start)) continue;
      if (const auto rate = rate_of(std::string_view(name).substr(start.size()))) rates.push_back(*rate);
    }
    std::ranges::sort(rates);
    for (const double rate : rates) {
      result.push_back(scenario);
      result.back().rate = rate;
    }
  }
  return result;
}

fs::path Setting::folder(const Scenario& scenario) const {
  return out / dataset / scenario.network / (scenario.attack_name() + scenario.rate_suffix());
}

void check_possible(const Scenario& scenario, const Setting& setting) {
  make_network(scenario, setting, setting.seed);
  attacks::AttackOptions options = options_of(scenario, setting);
  options.benign = [](const at::Tensor& images) { return images; };  // only its presence is checked
  make_attack(scenario, setting, options, {}).check(setting.split.train);
}

void check_folders(const std::vector<Scenario>& scenarios, bool with_refine,
                   const std::vector<std::string>& baselines, const Setting& setting) {
  for (const Scenario& scenario : scenarios) {
    const fs::path folder = setting.folder(scenario);
    check_folder(scenario, setting);
    const auto check = [&](const std::string& file, const std::string& key) {
      check_setting(folder, read_results_file(folder / file), key, setting);
    };
    if (with_refine && scenario.defended) check(defense_file, defense_key(scenario, setting));
    for (const std::string& name : baselines) {
      check(name + baseline_suffix, baseline_key(scenario, name, setting));
      check(name + baseline_zero_suffix, baseline_zero_key(scenario, name, setting));
    }
    if (!baselines.empty() || scenario.attack == "LabelConsistent") check_folder(benign(scenario), setting);
    if (scenario.attack == "Narcissus") check_folder(benign(scenario), attackers_setting(setting));
  }
  // The table is of one setting.
  const std::string here = shared_key(setting);
  for (const std::string& there : settings_in_folder(setting)) {
    if (there == here) continue;
    const auto [other, mine] = first_difference(there, here);
    throw Error(
        "--out: {} has results of another setting, and a folder has one table (got {}, there: {}); use another --out",
        (setting.out / setting.dataset).string(), mine, other);
  }
}

void check_any_finished(const Json& rows, const Setting& setting) {
  if (!rows.empty()) return;
  std::string found;
  for (const std::string& there : settings_in_folder(setting)) found += (found.empty() ? "" : "; ") + there;
  throw Error("--table: no scenario of this setting is finished in {} (got {}, there: {}); {}",
              (setting.out / setting.dataset).string(), shared_key(setting),
              found.empty() ? "nothing" : found,
              found.empty() ? "check --out, or run without --table"
                            : "give the --size, --seed, --device and --stamped of one");
}

void run(const Scenario& scenario, const Setting& setting) {
  train_victim(scenario, setting);
  if (scenario.defended) train_defense(scenario, setting);
}

void measure_zero_point(const Scenario& scenario, const Setting& setting) {
  const Scenario other = benign(scenario);
  const fs::path folder = setting.folder(scenario);
  const std::string key = defense_key(other, setting), weights = defense_weights(other, setting);
  if (scenario.attack == "Benign" || is_done(folder / zero_file, key, weights) ||
      !read_defense(scenario, setting).is_object() || !read_defense(other, setting).is_object()) {
    return;
  }
  const Evaluation figures = evaluate(load_defense(other, setting), setting.split.test,
                                      trigger_attack(scenario, setting), /*show=*/true);
  write_done(folder / zero_file, key, weights, {{"figures", report::figures_json(figures.after)}});
}

std::vector<Scenario> wakeable(const std::vector<Scenario>& scenarios, bool with_refine,
                               const Setting& setting) {
  const auto is_defended = [&](const Scenario& scenario) {
    const auto is_made = [&](const Scenario& s) { return s.defended && s.name() == scenario.name(); };
    return (with_refine && std::ranges::any_of(scenarios, is_made)) ||
           read_defense(scenario, setting).is_object();
  };
  const auto all = all_scenarios(/*with_stamped=*/true);
  std::vector<Scenario> selected;
  for (const Scenario& scenario : scenarios) {
    if (scenario.attack == "Benign") continue;
    const Scenario zero = *std::ranges::find(all, benign(scenario).name(), &Scenario::name);
    const auto target = attacks::target_map(make_attack(scenario, setting, options_of(scenario, setting), {}),
                                            setting.split.train.task().classes);
    const bool has_zero = zero.defended || is_defended(zero);
    if (!has_zero || !target.single()) {
      std::cerr << fmt::format("--wake: {} is skipped: {}\n", scenario.name(),
                               has_zero
                                   ? "it has no target that all images share"
                                   : "the benign victim is not defended; add " + zero.name() + " to --only");
      continue;
    }
    for (const Scenario& needed : {scenario, zero}) {
      if (!is_defended(needed)) {
        throw Error("--wake: needs {} defended by REFINE; add it to --only, and REFINE to --defense",
                    needed.name());
      }
    }
    selected.push_back(scenario);
  }
  return selected;
}

void measure_waking(const Scenario& scenario, const Setting& setting) {
  const Scenario other = benign(scenario);
  const auto attack = trigger_attack(scenario, setting);
  const fs::path folder = setting.folder(scenario);
  const std::string key = waking_key(scenario, setting), weights = waking_weights(scenario, setting);
  if (is_done(folder / waking_file, key, weights)) return;
  const int target = attacks::target_map(attack, setting.split.train.task().classes).single().value();
  const auto& [train, test] = setting.split;
  const at::Tensor triggered = attack.trigger_images(train.images),
                   triggered_tests = attack.trigger_images(test.images);
  // The victim's own answer to the trigger has another name behind the remap.
  const auto aim_of = [&](const AnyPipeline& pipeline, bool renamed) {
    return renamed ? static_cast<int>(pipeline.remap().permutation[static_cast<std::size_t>(target)])
                   : target;
  };
  const auto wake = [&](const AnyPipeline& seen, const AnyPipeline& attacked, double epsilon, bool renamed) {
    const int aim = aim_of(seen, renamed);
    const at::Tensor movable = (train.labels != aim).nonzero().flatten();
    const at::Tensor change =
        attacks::UniversalPerturbation{.model = [&](const at::Tensor& x) { return seen.forward(x); },
                                       .target = aim,
                                       .epsilon = epsilon,
                                       .steps = setting.size.wake_steps,
                                       .seed = setting.seed,
                                       .show = true}(triggered.index_select(0, movable));
    const triggers::Perturbation<> woken{.values = change};
    const at::Tensor stamped = triggers::stamp(woken, triggered_tests);
    return report::figures_json(evaluate(attacked, test, stamped, aim_of(attacked, renamed)).after);
  };
  const AnyPipeline defense = load_defense(scenario, setting), zero = load_defense(other, setting),
                    rival = train_rival(scenario, setting), zero_rival = train_rival(other, setting);
  Json rows = Json::array();
  for (const int levels : {2, 4, 8}) {
    const double epsilon = levels / 255.0;
    for (const bool knows : {true, false}) {
      for (const bool renamed : {true, false}) {
        rows.push_back({{"levels", levels},
                        {"knows", knows ? "the defense" : "another defense of the victim"},
                        {"aim", renamed ? "the victim's answer" : "the target"},
                        {"figures", wake(knows ? defense : rival, defense, epsilon, renamed)},
                        {"zero_point", wake(knows ? zero : zero_rival, zero, epsilon, renamed)}});
      }
    }
  }
  write_done(folder / waking_file, key, weights, {{"rows", rows}});
}

void run_baselines(const std::vector<Scenario>& scenarios, const std::vector<std::string>& names,
                   const Setting& setting) {
  if (names.empty()) return;
  // What is measured on each victim, so that it is defended once by each baseline.
  std::vector<std::pair<Scenario, std::vector<Measurement>>> plan;
  const auto measurements_of = [&](const Scenario& victim) -> std::vector<Measurement>& {
    const auto found =
        std::ranges::find(plan, victim.name(), [](const auto& entry) { return entry.first.name(); });
    return found != plan.end() ? found->second : plan.emplace_back(victim, std::vector<Measurement>()).second;
  };
  for (const Scenario& scenario : scenarios) {
    if (!scenario.defended) continue;
    measurements_of(scenario).push_back({.trigger = scenario});
    if (scenario.attack != "Benign")
      measurements_of(benign(scenario)).push_back({.trigger = scenario, .zero_point = true});
  }
  for (const auto& [victim, measurements] : plan)
    train_victim(victim, setting);  // which also learns its trigger
  for (const auto& [victim, measurements] : plan) {
    for (const std::string& name : names) measure_baseline(victim, name, measurements, setting);
  }
}

Results read_results(const Scenario& scenario, const std::string& baseline, const Setting& setting) {
  Results results = read_results(scenario, setting);
  const fs::path folder = setting.folder(scenario);
  results.defense = read_done(folder / (baseline + baseline_suffix),
                              baseline_key(scenario, baseline, setting), victim_weights(scenario, setting));
  const Json zero =
      read_done(folder / (baseline + baseline_zero_suffix), baseline_zero_key(scenario, baseline, setting),
                victim_weights(benign(scenario), setting));
  results.zero_point = zero.is_object() ? Json::object({{"figures", zero.at("after")}}) : Json();
  return results;
}

Results read_results(const Scenario& scenario, const Setting& setting) {
  const fs::path folder = setting.folder(scenario);
  const Scenario other = benign(scenario);
  return {.victim = read_done(folder / victim_file, victim_key(scenario, setting)),
          .defense = read_defense(scenario, setting),
          .zero_point =
              read_done(folder / zero_file, defense_key(other, setting), defense_weights(other, setting)),
          .benign_victim = read_done(setting.folder(other) / victim_file, victim_key(other, setting)),
          .waking = read_done(folder / waking_file, waking_key(scenario, setting),
                              waking_weights(scenario, setting))};
}

}  // namespace refine::scenarios
