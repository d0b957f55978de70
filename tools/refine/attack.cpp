// refine attack: trains a victim on a poisoned data set, to have something to defend.

#include <fmt/core.h>

#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <refine/attacks/by_name.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/normalized.hpp>
#include <refine/backbones/zoo.hpp>
#include <refine/core/error.hpp>
#include <refine/core/file.hpp>
#include <refine/core/text.hpp>
#include <refine/defend/images.hpp>
#include <refine/defend/results.hpp>
#include <refine/defend/train_victim.hpp>
#include <refine/evaluation/evaluate.hpp>
#include <refine/formats/checkpoint.hpp>
#include <refine/nn/device.hpp>
#include <refine/report/detail/format.hpp>
#include <refine/report/render.hpp>
#include <refine/training/observers.hpp>
#include <refine/training/stop_on_signal.hpp>

#include "tools/refine/options.hpp"

namespace refine::cli {
namespace {

namespace fs = std::filesystem;

struct AttackArguments {
  TrainOptions training;
  ResizeOptions resize;
  CheckpointOptions checkpoints;
  std::string dataset = "CIFAR10", data, model = "ResNet18", attack = "BadNets", attack_root = "attack",
              image, benign, store;
  std::vector<double> mean, deviation;
  std::optional<int> tlabel, source;
  int width = 0;
  double rate = -1;  // the attack's own
  std::int64_t limit = 0;
  bool skip_damaged = false;
};

/// What all trainings of a run have in common.
struct Setting {
  const AttackArguments& options;
  const Common& common;
  NamedDataset data;
  VictimTraining victim;

  fs::path folder(const std::string& attack) const {
    return result_folder(options.attack_root, options.dataset, victim.network, attack);
  }
};

Setting make_setting(const AttackArguments& options, const Common& common) {
  // Misspelt options are refused before any image is read.
  const ImageShape image = options.image.empty() ? ImageShape{} : parse_shape(options.image);
  if (!options.image.empty()) options.resize.check(image);
  const std::string network(backbones::canonical_network_name(options.model));
  const auto normalization = parse_normalization(options.mean, options.deviation);
  if (!options.benign.empty() && attacks::canonical_name(options.attack) != "LabelConsistent") {
    throw Error("--benign is for LabelConsistent, which perturbs images against it; leave it out");
  }
  NamedDataset data =
      read_data(options.dataset, options.data, options.resize.image(image),
                options.resize.mode().value_or(data::ResizeMode::crop), options.skip_damaged, options.store);
  auto& train = data.split.train;
  const Normalization constants =
      normalization.value_or(data.normalization.value_or(normalizations::imagenet));
  if (train.image_shape().channels == 1 && !refine::detail::is_for_grey(constants)) {
    throw Error(
        "the images of {} are grey, and {}; specify --mean and --std with one number each, such as 0.5",
        options.dataset,
        normalization ? "--mean and --std have a number for each of three channels"
                      : "ImageNet's mean and deviation are for three channels");
  }
  if (options.limit > 0 && options.limit < train.size()) {
    train = train.sample(options.limit, options.training.seed);
  }
  VictimTraining victim{.network = network,
                        .width = options.width,
                        .normalization = constants,
                        .training = options.training.training(),
                        .seed = options.training.seed,
                        .resize = options.resize.mode().value_or(data::ResizeMode::crop)};
  return {.options = options, .common = common, .data = std::move(data), .victim = std::move(victim)};
}

/// A trained victim's figures.
struct Result {
  metrics::AttackMetrics figures;
  double seconds;
};

Result train(const Setting& setting, const AttackSpec& spec, const attacks::AnyAttack& attack) {
  const auto& [train, test] = setting.data.split;
  const fs::path folder = setting.folder(spec.name);
  const OptionalCheckpoint checkpoint = setting.options.checkpoints.below(folder);
  const std::shared_ptr<const void> hold = checkpoint.hold();
  const auto poisoned = attack.poison(train);
  std::cerr << fmt::format("{}, {} of {} training images poisoned with {}; {}\n", setting.data.name,
                           poisoned.indices.size(), train.size(), spec.name, default_device().str());
  const fs::path log = folder / "log.jsonl";
  std::error_code ignored;
  fs::remove(log, ignored);
  JsonLines lines(log);
  if (checkpoint.checkpoint) setting.common.checkpoints = checkpoint.checkpoint->path;
  setting.common.is_trained = false;  // another training may have ended before
  VictimTraining training = setting.victim;
  const TrainedVictim victim = with_smaller_batches(training.training, setting.common, [&] {
    StopOnSignal signals(checkpoint.checkpoint ? setting.common.resume_command : "");
    return train_victim(poisoned, training, ProgressBar{}, lines, checkpoint, signals,
                        TrainingEnd{setting.common});
  });
  // The attack that is measured is that of the victim, also if the process ends in between.
  for (const char* old : {"victim.safetensors", "victim.pt", "victim.json"})
    fs::remove(folder / old, ignored);
  write_attack(spec, folder / "attack.json");
  victim.save(folder);
  const metrics::AttackMetrics figures = evaluate(victim.backbone, test, attack);
  files::write(folder / "victim.json", report::metrics_text(report::figures_json(figures)));
  checkpoint.remove();
  return {figures, victim.seconds};
}

/// Refuses to replace or to use a victim of another data set, whose folder has the same name.
/// \param folder of its results
void check_other_dataset(const fs::path& folder, const AttackArguments& options) {
  std::string other;
  try {
    if (files::exists(folder / "attack.json")) other = read_attack(folder / "attack.json").dataset;
  } catch (const Error&) {  // not a file of refine attack
  }
  const std::string identity = dataset_identity(options.dataset);
  if (other.empty() || other == identity) return;
  throw Error("{} has a victim of another data set, {} (got {}); specify another --attack_root, such as {}",
              folder.string(), other, identity, text::quote_for_shell(options.attack_root + "_2"));
}

/// Returns the model that LabelConsistent perturbs its images against: a file, or the benign victim
/// of the same network and data set, which is trained if there is none. A state dict without a
/// normalisation gets that of the data; a program has its own.
attacks::Surrogate benign_model(const Setting& setting) {
  const Task task = setting.data.split.train.task();
  fs::path file = setting.options.benign;
  LoadOptions load{.images = task.image, .notify = print_notices()};
  if (file.empty()) {
    file = setting.folder("Benign") / "victim.safetensors";
    check_other_dataset(file.parent_path(), setting.options);
    const bool is_finished = files::exists(file.parent_path() / "victim.json");  // which is written last
    if (!is_finished && files::exists(file) && !has_checkpoint(file.parent_path() / "checkpoints")) {
      throw Error("cannot use {}: victim.json beside it is missing; give it as --benign {}, or move it away",
                  file.string(), text::quote_for_shell(file.string()));
    }
    if (!is_finished) {
      std::cerr << "first, the benign model that the images are perturbed against\n";
      const AttackSpec benign{.name = "Benign",
                              .seed = setting.options.training.seed,
                              .dataset = dataset_identity(setting.options.dataset)};
      train(setting, benign, benign.make(task.image));
    }
  } else if (files::exists(file)) {
    if (!is_program(file)) {
      const auto metadata = formats::read_weights(file).metadata;
      if (!metadata.contains("network")) load.arch = setting.victim.network;
      if (!metadata.contains("constants")) load.normalization = setting.victim.normalization;
    }
  }
  const LoadedClassifier benign = load_classifier(file, load);
  if (!compatible(benign.task(), task)) {
    throw Error(
        "the benign model {} does not fit the data: images and classes are {} and {}, expected {} and {}; specify another --benign",
        file.string(), benign.task().image, benign.task().classes, task.image, task.classes);
  }
  return freeze(benign.backbone);
}

void begin_attack(const AttackArguments& options, const Common& common) {
  check_dataset_options(options.dataset, options.data);
  const fs::path folder = result_folder(options.attack_root, options.dataset,
                                        std::string(backbones::canonical_network_name(options.model)),
                                        std::string(attacks::canonical_name(options.attack)));
  files::Paths paths{.files = {{"--benign", options.benign}}, .images = dataset_folders(options.dataset)};
  for (const char* name : {"attack.json", "log.jsonl", "perturbed.safetensors", "victim.json", "victim.pt",
                           "victim.safetensors"}) {
    paths.outputs.push_back({"--attack_root", folder / name});
  }
  check_other_dataset(folder, options);
  begin(common, std::move(paths));
  options.checkpoints.below(folder).check();
}

void print_result(const Setting& setting, const AttackSpec& spec, bool has_target, const Result& result,
                  const Common& common) {
  const auto& [figures, seconds] = result;
  const fs::path folder = setting.folder(spec.name);
  const std::string victim = (folder / "victim.safetensors").string(),
                    program = (folder / "victim.pt").string();
  if (common.json) {
    auto json = report::figures_json(figures);
    json["files"] = {{"victim", victim}, {"torchscript", program}};
    print(json);
    return;
  }
  const data::Dataset& test = setting.data.split.test;
  std::cout << fmt::format("{} on {}: BA {}", spec.name, setting.data.name,
                           report::format::percent(figures.ba.value()));
  if (has_target) {
    const auto name = [&](int cls) { return test.classes[static_cast<std::size_t>(cls)]; };
    const metrics::PairLift& pair = figures.largest_pair_lift;
    std::cout << fmt::format(
        ", ASR {}, largest lift {} points at “{}”, largest pair lift {} points from “{}” to “{}”",
        report::format::percent(figures.asr.value()),
        report::format::hundredths(figures.largest_lift.value(), 1), name(figures.largest_lift.cls),
        report::format::hundredths(pair.value(), 1), name(pair.truth), name(pair.lift.cls));
  }
  std::cout << fmt::format("; {} test images, {:.0f} s\nvictim       {}\nTorchScript  {}\n", test.size(),
                           seconds, victim, program)
            << std::flush;
}

int run(const AttackArguments& options, const Common& common) {
  check_class_options(options.attack, options.tlabel.has_value(), options.source.has_value());
  if (options.rate >= 0 && attacks::canonical_name(options.attack) == "Benign")
    throw Error("--rate: Benign poisons no images; leave it out");
  begin_attack(options, common);
  AttackSpec spec{.name = std::string(attacks::canonical_name(options.attack)),
                  .target = options.tlabel.value_or(0),
                  .source = options.source,
                  .seed = options.training.seed,
                  .dataset = dataset_identity(options.dataset)};
  const Setting setting = make_setting(options, common);
  if (options.rate >= 0) spec.rate = options.rate;
  attacks::AttackOptions attack_options = spec.options(setting.data.split.train.image_shape());
  if (spec.name == "LabelConsistent") {
    // An attack that would be refused is refused before the benign model is trained.
    attack_options.benign = [](const at::Tensor& images) { return images; };
    attacks::by_name(spec.name, attack_options).check(setting.data.split.train);
    attack_options.benign = benign_model(setting);
    attack_options.store = setting.folder(spec.name) / "perturbed.safetensors";
    attack_options.show = true;
  }
  const auto attack = attacks::by_name(spec.name, attack_options);
  attack.check(setting.data.split.train);
  const int classes = setting.data.split.train.task().classes;
  const bool has_target = static_cast<bool>(attacks::target_map(attack, classes));
  print_result(setting, spec, has_target, train(setting, spec, attack), common);
  return setting.data.skipped > 0 ? look : done;
}

}  // namespace

void add_attack(CLI::App& app, Common& common) {
  auto* command =
      app.add_subcommand("attack", "train a victim on a poisoned data set, to have something to defend");
  const auto options = std::make_shared<AttackArguments>();
  command
      ->add_option("--dataset", options->dataset,
                   "CIFAR10, FashionMNIST, or a folder with train/<class>/ and test/<class>/")
      ->capture_default_str();
  command->add_option("--data", options->data, "where a named data set is; left out: data/<name>");
  command->add_option("--model", options->model, "the network: " + network_names_text())
      ->capture_default_str();
  command
      ->add_option(
          "--width", options->width,
          "channels of its first layer (of a ViT: of each token); left out: as published with CUDA, a fraction "
          "of it without: 16 for ResNet18 and VGG16, 8 for ResNet50 and InceptionV3, 32 for DenseNet121, 128 "
          "for ViT")
      ->check(CLI::Range(1, 4096));
  command->add_option("--attack", options->attack, attack_names())->capture_default_str();
  command->add_option("--tlabel", options->tlabel,
                      "class that the attacker wants, counted from 0; left out: 0");
  command->add_option("--source", options->source,
                      "SourceSpecific: class whose images the attacker moves; left out: 1");
  command
      ->add_option(
          "--rate", options->rate,
          "share of the training images that are poisoned (LabelConsistent: of the target class's; SourceSpecific: of "
          "the source class's); left out: "
          "the one that was published for CIFAR-10 and ResNet-18")
      ->check(number(0, /*above=*/false, 1));
  command->add_option(
      "--benign", options->benign,
      "LabelConsistent: file of the model that images are perturbed against; left out: the benign "
      "victim, which is trained if there is none");
  command->add_option("--limit", options->limit, "use at most this many training images; 0: all")
      ->check(number(0));
  command->add_option("--image", options->image, "what a folder's images become, as 3x224x224 or 224");
  options->resize.add_to(*command);
  command->add_flag("--skip_damaged", options->skip_damaged,
                    "leave damaged files of a folder out, and report them; without it they end the run");
  command->add_option("--store", options->store,
                      "folder that keeps a folder's decoded images, for sets larger than memory");
  command
      ->add_option(
          "--mean", options->mean,
          "of the images, three numbers or one for all channels; left out: the data set's; a folder's: ImageNet's")
      ->delimiter(',');
  command->add_option("--std", options->deviation, "likewise")->delimiter(',');
  options->training.add_to(*command, /*is_defense=*/false);
  options->checkpoints.add_to(*command);
  command->add_option("--attack_root", options->attack_root, "where results go")->capture_default_str();
  run_when_chosen(*command, common, options, run);
}

}  // namespace refine::cli
