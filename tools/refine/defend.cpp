// refine defend: any model and a folder of clean images in, one file that serves out.

#include <ATen/ops/tensor.h>
#include <fmt/core.h>
#include <torch/version.h>

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <set>
#include <sstream>

#include <refine/core/file.hpp>
#include <refine/core/random.hpp>
#include <refine/data/image_files.hpp>
#include <refine/export/torchscript.hpp>
#include <refine/export/weights.hpp>
#include <refine/nn/device.hpp>
#include <refine/pipeline/any_pipeline.hpp>
#include <refine/remaps/permutations.hpp>
#include <refine/training/recipe_json.hpp>

#include "tools/refine/class_names.hpp"
#include "tools/refine/command.hpp"
#include "tools/refine/measure.hpp"
#include "tools/refine/paths.hpp"
#include "tools/refine/probing.hpp"
#include "tools/refine/results.hpp"
#include "tools/refine/source.hpp"
#include "tools/refine/training.hpp"
#include "tools/refine/transform.hpp"
#include "tools/refine/victim.hpp"

namespace refine::cli {
namespace {

namespace fs = std::filesystem;

/// Fewer images than this cost noticeably more accuracy (docs/clean_images.md).
constexpr std::int64_t enough_images = 5'000;

struct Options {
  VictimOptions victim;
  TransformOptions transform;
  TrainingOptions training;
  std::string images, dataset, attack = "BadNets", data, attack_root = "attack", refine_res = "refine_res",
                               out;
  FitOptions fit;
  std::string store;
  std::int64_t limit = 0;
  double false_alarms = 0.05;
  bool no_scan = false, no_probe = false, skip_damaged = false;
};

/// Where everything comes from and goes to.
struct Plan {
  Victim victim;
  std::string title = {}, dataset = {};
  at::Tensor train = {};        ///< uint8, clean: what the transform is fitted on
  at::Tensor calibration = {};  ///< the alarm is set on these
  Evidence evidence = {};       ///< and everything is measured on these
  std::optional<AttackSpec> attack = {};
  std::size_t skipped = 0;  ///< files that could not be used
  Probed probed = {};
  fs::path out = {};
};

/// The images, apart: for fitting, for setting the alarm, for measuring. Those for fitting stay where they
/// are, as they may be more than memory holds: the last ones fill the places of those that were held back.
/// \param images nobody else's, as they are written to; a store on disk keeps what it has
void part(const at::Tensor& images, std::uint64_t seed, Plan& plan) {
  const std::int64_t n = images.size(0);
  const std::int64_t held = std::clamp<std::int64_t>(n / 10, 1, 1000);
  if (n < 4) {
    throw Error(
        "{} clean image(s) are too few: some are held back to set the alarm and to measure; give "
        "as many as there are, {} or more are enough",
        n, enough_images);
  }
  Random random(derived_seed(seed, "held back"));
  auto order = random_permutation(random, n);
  order.resize(static_cast<std::size_t>(2 * held));
  const at::Tensor drawn = at::tensor(order);
  plan.calibration = images.index_select(0, drawn.narrow(0, 0, held));
  plan.evidence.clean = images.index_select(0, drawn.narrow(0, held, held));

  const std::int64_t left = n - 2 * held;
  const std::set<std::int64_t> places(order.begin(), order.end());
  std::int64_t last = n;
  for (const std::int64_t place : places) {
    if (place >= left) break;
    do --last;
    while (places.contains(last));
    images.select(0, place).copy_(images.select(0, last));
  }
  plan.train = images.narrow(0, 0, left);
}

/// The file to write. \param network,attack as they are written in papers, where the victim is found by them
fs::path output_of(const Options& options, const std::string& network, const std::string& attack) {
  if (!options.out.empty()) return options.out;
  if (!options.images.empty()) return "defended.pt";
  return result_folder(options.refine_res, options.dataset, network, attack) / "defended.pt";
}

/// No output may be an input, and class names that cannot be used are refused before any image is read.
void begin_defense(const Options& options, const Common& common) {
  Paths paths{
      .files = {{"--model", options.victim.model}, {"--class_names", options.victim.class_names_file}}};
  fs::path out;
  if (options.images.empty()) {
    const std::string network = network_name(options.victim.model);
    const std::string attack(attacks::canonical_name(options.attack));
    const fs::path folder = result_folder(options.attack_root, options.dataset, network, attack);
    paths.files[0].path = folder / "victim.safetensors";
    paths.files.push_back({"--attack", folder / "attack.json"});
    paths.images = dataset_folders(options.dataset);
    out = output_of(options, network, attack);
  } else {
    paths.images = {{"--images", options.images}};
    out = output_of(options, "", "");
  }
  paths.outputs = report_files("--out", report_folder(out));
  paths.outputs.push_back({"--out", fs::path(out).replace_extension(".safetensors")});
  paths.outputs.push_back({"--out", out});
  begin(common, std::move(paths));
  options.fit.resolved();
  if (!options.victim.class_names_file.empty()) read_class_names(options.victim.class_names_file);
}

/// A file, and a folder of images.
Plan plan_of_files(const Options& options) {
  const auto files = data::image_files(options.images);
  const ImageShape common =
      options.fit.image(data::common_shape(files, static_cast<std::int64_t>(files.size())));
  const data::ResizeMode fit = options.fit.resolved();
  Plan plan{.victim = load_victim(options.victim, common),
            .title = fs::path(options.victim.model).filename().string(),
            .dataset = options.images};
  const std::uint64_t seed = options.training.seed;
  choose_size(plan.victim, options.victim, files, common, fit, seed);
  if (!options.no_probe) plan.probed = probe_victim(plan.victim, options.victim, files, fit, seed);
  const ImageShape shape = plan.victim.backbone.task.image;
  options.fit.require(shape);
  Images images = read_images(options.images, shape, fit, options.limit, seed, options.store);
  if (plan.probed.blank_not_finite) remove_images_without_finite_logits(plan.victim, images);
  Message size;
  size << shape;
  std::cerr << fmt::format("{} ({}): {} images, {} classes\n", plan.title, plan.victim.what, size.view(),
                           plan.victim.backbone.task.classes);
  part(images.images, options.training.seed, plan);
  plan.skipped = images.skipped;
  plan.out = output_of(options, "", "");
  return plan;
}

/// What `refine attack` left, by its names, and the data set it was trained on: as the reference has it.
Plan plan_of_names(Options options) {
  options.victim.model = network_name(options.victim.model);
  options.attack = attacks::canonical_name(options.attack);
  const fs::path folder =
      result_folder(options.attack_root, options.dataset, options.victim.model, options.attack);
  if (!file_exists(folder / "victim.safetensors")) {
    throw Error(
        "cannot find a victim in {}: run refine attack --dataset {} --model {} --attack {}, or give --model "
        "a file and --images a folder",
        folder.string(), options.dataset, options.victim.model, options.attack);
  }
  const std::string network = options.victim.model;
  options.victim.model = (folder / "victim.safetensors").string();
  Plan plan{.victim = load_victim(options.victim, {}),
            .title = options.attack + " on " + dataset_name(options.dataset),
            .dataset = dataset_name(options.dataset)};
  plan.attack = read_attack(folder / "attack.json");
  const ImageShape shape = plan.victim.backbone.task.image;
  auto [train, test] =
      read_dataset(options.dataset, options.data, shape, options.fit.resolved(),
                   options.skip_damaged ? data::OnDecodeError::skip : data::OnDecodeError::fail,
                   options.store)
          .split;
  if (options.limit > 0 && options.limit < train.size())
    train = train.sample(options.limit, options.training.seed);
  if (!options.no_probe) {
    plan.probed = probe_victim(plan.victim, options.victim.model, train.images, options.training.seed);
  }
  part(train.images, options.training.seed, plan);
  const auto attack = plan.attack->make(shape);
  plan.evidence.clean = test.images;
  if (attack.target) {
    plan.evidence.triggered = attack.trigger_images(test.images);
    plan.evidence.target = attack.target;
  }
  plan.evidence.test = std::move(test);
  plan.out = output_of(options, network, options.attack);
  return plan;
}

template <typename Value>
std::string text_of(const Value& value) {
  std::ostringstream out;
  out << value;
  return out.str();
}

/// Before any training, not after it.
void require_writable(const fs::path& out) {
  std::error_code unknown;
  if (out.extension() == ".safetensors" || out.extension() == ".report" || !out.has_filename()) {
    throw Error(
        "cannot write {}: the weights and the report, which lie beside it, have that name; say --out "
        "defended.pt",
        out.string());
  }
  if (fs::exists(out, unknown) && !fs::is_regular_file(out, unknown)) {
    throw Error("cannot write {}: a folder or a device is in the way; say another --out", out.string());
  }
  write_file(report_folder(out) / "log.jsonl", "");
}

int run(const Options& options, const Common& common) {
  if (options.images.empty() == options.dataset.empty()) {
    throw Error(
        "say where the clean images are: --images, a folder, or --dataset, whose victim refine "
        "attack has trained");
  }
  begin_defense(options, common);
  Plan plan = options.images.empty() ? plan_of_names(options) : plan_of_files(options);
  const Task task = plan.victim.backbone.task;
  const Recipe recipe = options.training.defense(plan.train.size(0), task.image);
  const std::int64_t held_back = 2 * plan.calibration.size(0), clean = plan.train.size(0) + held_back;
  if (clean < enough_images) {
    std::cerr << fmt::format(
        "{} clean images are few; from {} on the defense costs little accuracy "
        "(docs/clean_images.md)\n",
        clean, enough_images);
  }
  const fs::path folder = report_folder(plan.out);
  require_writable(plan.out);

  const std::uint64_t seed = options.training.seed;
  AnyPipeline defense{options.transform.make(task.image, seed), freeze(plan.victim.backbone),
                      remaps::Derangement<>{.classes = task.classes, .seed = seed}};
  const Trained trained = run_fit(defense, plan.train, recipe, folder / "log.jsonl");

  const AlarmSetting alarm = set_alarm(defense, plan.calibration, options.false_alarms);
  plan.evidence.alarm = alarm;
  if (options.no_scan) plan.evidence.scanned = 0;
  report::DefenseReport page{.title = plan.title,
                             .dataset = plan.dataset,
                             .model = plan.victim.what,
                             .attack = plan.attack ? plan.attack->name : "",
                             .class_names = plan.victim.class_names,
                             .curves = {trained.curve}};
  measure(defense, plan.evidence, page);
  if (page.agreement->value() < 0.85) {
    std::cerr << fmt::format(
        "the defended model agrees with the victim on {:.0f} % of clean images; more training, as "
        "--epoch {}, or "
        "more images may raise that\n",
        100 * page.agreement->value(), 2 * recipe.optimization.epochs);
  }
  page.facts = {{"clean images", fmt::format("{} to fit on, {} held back", plan.train.size(0), held_back)},
                {"device", default_device().str()},
                {"seed", std::to_string(seed)},
                {"permutation", spaced(defense.remap().permutation)},
                {"transform", defense.transform().describe()},
                {"recipe", text_of(recipe)},
                {"training", fmt::format("{:.0f} s", trained.seconds)},
                {"LibTorch", TORCH_VERSION}};
  if (!plan.probed.text.empty()) page.facts.insert(page.facts.begin(), {"probe", plan.probed.text});

  nlohmann::ordered_json about = {{"victim", fs::path(options.victim.model).filename().string()},
                                  {"model", plan.victim.what},
                                  {"clean_images", plan.train.size(0)},
                                  {"transform", defense.transform().describe()},
                                  {"recipe", nlohmann::ordered_json(recipe)},
                                  {"seed", seed},
                                  {"class_names", page.class_names},
                                  {"preprocessing", json_of(options.fit.resolved())},
                                  {"alarm", json_of(alarm)},
                                  {"figures", headline(page)},
                                  {"libtorch", TORCH_VERSION}};
  export_torchscript(defense, plan.out, about);
  const fs::path parts = fs::path(plan.out).replace_extension(".safetensors");
  Message image;
  image << task.image;
  save(defense, parts, recipe,
       {{"image", std::string(image.view())},
        {"alarm", json_of(alarm).dump()},
        {"preprocessing", json_of(options.fit.resolved()).dump()},
        {"class_names", text_of_json(page.class_names)}});
  report::write_report(page, folder);
  show(common, page, {{"to serve", plan.out}, {"report", folder / "report.html"}, {"weights", parts}});
  return plan.skipped > 0 ? look : done;
}

}  // namespace

void add_defend(CLI::App& app, Common& common) {
  auto* command = app.add_subcommand("defend", "model and clean images in, one file that serves out");
  const auto options = std::make_shared<Options>();
  command
      ->add_option(
          "--model", options->victim.model,
          "a TorchScript file, a file of weights (with --arch), or, with --dataset, a network's name")
      ->required();
  command->add_option("--images", options->images,
                      "a folder of clean images, in any layout; labels are not needed");
  options->victim.add_to(*command);
  command->add_option("--out", options->out,
                      "the file to write; left out: defended.pt, or below --refine_res");
  command->add_option("--limit", options->limit, "use no more than so many images")->check(number(0));
  options->fit.add_to(*command);
  command->add_option("--store", options->store,
                      "a folder that keeps a folder's decoded images, for sets larger than memory");
  options->training.add_to(*command, /*defense=*/true);
  options->transform.add_to(*command);
  command
      ->add_option("--false_alarms", options->false_alarms, "share of clean images that may raise the alarm")
      ->check(CLI::Range(0.0, 0.999))
      ->capture_default_str();
  command->add_flag("--no_probe", options->no_probe,
                    "do not ask the victim about some of the images before training");
  command->add_flag("--no_scan", options->no_scan, "do not try the catalogue of common triggers");
  command
      ->add_option("--dataset", options->dataset,
                   "instead of --images: CIFAR10, FashionMNIST or a folder, whose "
                   "victim refine attack has trained")
      ->group("As the reference has it");
  command
      ->add_flag("--skip_damaged", options->skip_damaged,
                 "leave damaged files of a folder out, and say which; without it they end the run")
      ->group("As the reference has it");
  command->add_option("--attack", options->attack, "the attack it was trained with")
      ->capture_default_str()
      ->group("As the reference has it");
  command->add_option("--data", options->data, "where the data set lies; left out: data/<name>")
      ->group("As the reference has it");
  command->add_option("--attack_root", options->attack_root, "where refine attack put its results")
      ->capture_default_str()
      ->group("As the reference has it");
  command->add_option("--refine_res", options->refine_res, "where results go")
      ->capture_default_str()
      ->group("As the reference has it");
  command->callback(
      [&common, options] { common.chosen = [&common, options] { return run(*options, common); }; });
}

}  // namespace refine::cli
