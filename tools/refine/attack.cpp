// refine attack: trains a victim on a poisoned data set, to have something to defend.

#include <fmt/core.h>

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <refine/backbones/freeze.hpp>
#include <refine/backbones/normalized.hpp>
#include <refine/backbones/zoo.hpp>
#include <refine/core/file.hpp>
#include <refine/evaluation/evaluate.hpp>
#include <refine/export/torchscript.hpp>
#include <refine/export/weights.hpp>
#include <refine/formats/checkpoint.hpp>
#include <refine/nn/device.hpp>
#include <refine/report/detail/words.hpp>
#include <refine/report/json.hpp>
#include <refine/training/recipe_json.hpp>

#include "tools/refine/command.hpp"
#include "tools/refine/paths.hpp"
#include "tools/refine/results.hpp"
#include "tools/refine/source.hpp"
#include "tools/refine/training.hpp"
#include "tools/refine/victim.hpp"

namespace refine::cli {
namespace {

namespace fs = std::filesystem;

struct Options {
  TrainingOptions training;
  std::string dataset = "CIFAR10", data, model = "ResNet18", attack = "BadNets", attack_root = "attack",
              image, benign, store;
  FitOptions fit;
  std::vector<double> mean, deviation;
  int tlabel = 0, width = 0;
  double rate = -1;  // the attack's own
  std::int64_t limit = 0;
  bool skip_damaged = false;
};

/// What every training of a run is about.
struct Ground {
  const Options& options;
  Source source;
  std::string network;
  Normalization by;
  int width;

  fs::path folder(const std::string& attack) const {
    return result_folder(options.attack_root, options.dataset, network, attack);
  }
  const data::Dataset& train() const { return source.split.train; }
};

Ground ground_of(const Options& options) {
  // What is misspelt is refused before any image is read.
  const ImageShape said =
      options.fit.image(options.image.empty() ? ImageShape{} : parse_shape(options.image));
  if (!options.image.empty()) options.fit.require(parse_shape(options.image));
  const std::string network = network_name(options.model);
  const auto normalization = parse_normalization(options.mean, options.deviation);
  if (!options.benign.empty() && attacks::canonical_name(options.attack) != "LabelConsistent") {
    throw Error("--benign is for LabelConsistent, which perturbs images against it; leave it out");
  }
  Source source = read_dataset(options.dataset, options.data, said, options.fit.resolved(),
                               options.skip_damaged ? data::OnDecodeError::skip : data::OnDecodeError::fail,
                               options.store);
  auto& train = source.split.train;
  if (options.limit > 0 && options.limit < train.size())
    train = train.sample(options.limit, options.training.seed);
  const Normalization by = normalization.value_or(source.normalization.value_or(normalizations::imagenet));
  const int usual =
      default_device().is_cuda() ? backbones::published_width(network) : backbones::narrow_width(network);
  return {.options = options,
          .source = std::move(source),
          .network = network,
          .by = by,
          .width = options.width > 0 ? options.width : usual};
}

/// What a victim came to.
struct Result {
  metrics::AttackMetrics figures;
  double seconds;
};

Result train(const Ground& ground, const AttackSpec& spec, const attacks::AnyAttack& attack) {
  const auto& [train, test] = ground.source.split;
  const Task task = train.task();
  const auto& how = ground.options.training;
  const fs::path folder = ground.folder(spec.name);
  backbones::AnyBackbone victim(
      backbones::Normalized{make_network(ground.network, task, ground.width, how.seed), ground.by});
  const ClassifierRecipe recipe = how.victim(ground.network, train.size(), task.image);
  write_attack(spec, folder / "attack.json");
  const auto poisoned = attack.poison(train);
  std::cerr << fmt::format("{}, {} of {} training images poisoned with {}; {}\n", ground.source.name,
                           poisoned.indices.size(), train.size(), spec.name, default_device().str());
  const Trained trained = run_train(victim, poisoned, recipe, folder / "log.jsonl");

  Message image;
  image << task.image;
  std::ostringstream recipe_text;
  recipe_text << recipe;
  save(victim, folder / "victim.safetensors",
       {{"network", ground.network},
        {"width", std::to_string(ground.width)},
        {"image", std::string(image.view())},
        {"class_names", text_of_json(train.classes)},
        {"recipe", recipe_text.str()}});
  export_torchscript(freeze(victim), folder / "victim.pt", {{"class_names", train.classes}});
  Result result{evaluate(victim, test, attack), trained.seconds};
  write_file(folder / "victim.json", report::metrics_text(report::figures_json(result.figures)));
  return result;
}

/// The model that LabelConsistent perturbs its images against: a file, or the benign victim of the same
/// network and data set, which is trained where there is none. A file that tells no normalisation of its own
/// gets the data's.
attacks::Surrogate benign_model(const Ground& ground) {
  const Task task = ground.train().task();
  VictimOptions model{.model = ground.options.benign};
  if (model.model.empty()) {
    const fs::path file = ground.folder("Benign") / "victim.safetensors";
    if (!file_exists(file)) {
      std::cerr << "first, the benign model that the images are perturbed against\n";
      const AttackSpec benign{.name = "Benign", .seed = ground.options.training.seed};
      train(ground, benign, benign.make(task.image));
    }
    model.model = file.string();
  } else {
    const bool program = file_exists(model.model) && is_program(model.model);
    const auto told = program || !file_exists(model.model) ? std::map<std::string, std::string>{}
                                                           : formats::read_weights(model.model).metadata;
    if (!program && !told.contains("network")) model.arch = ground.network;
    if (!told.contains("constants")) {
      model.mean.assign(ground.by.mean.begin(), ground.by.mean.end());
      model.deviation.assign(ground.by.deviation.begin(), ground.by.deviation.end());
    }
  }
  const Victim benign = load_victim(model, task.image);
  if (!compatible(benign.backbone.task, task)) {
    Message has, wanted;
    has << benign.backbone.task.image << " and " << benign.backbone.task.classes;
    wanted << task.image << " and " << task.classes;
    throw Error("the benign model {} is for images of {} classes, the data has {}; say another --benign",
                model.model, has.view(), wanted.view());
  }
  return freeze(benign.backbone);
}

/// No output may be an input.
void begin_attack(const Options& options, const Common& common) {
  const fs::path folder = result_folder(options.attack_root, options.dataset, network_name(options.model),
                                        std::string(attacks::canonical_name(options.attack)));
  Paths paths{.files = {{"--benign", options.benign}}, .images = dataset_folders(options.dataset)};
  for (const char* name : {"attack.json", "log.jsonl", "perturbed.safetensors", "victim.json", "victim.pt",
                           "victim.safetensors"}) {
    paths.outputs.push_back({"--attack_root", folder / name});
  }
  begin(common, std::move(paths));
}

int run(const Options& options, const Common& common) {
  begin_attack(options, common);
  AttackSpec spec{.name = std::string(attacks::canonical_name(options.attack)),
                  .target = options.tlabel,
                  .seed = options.training.seed};
  const Ground ground = ground_of(options);
  const auto& test = ground.source.split.test;
  if (options.rate >= 0) spec.rate = options.rate;
  attacks::AttackOptions attack_options = spec.options(ground.train().image());
  if (spec.name == "LabelConsistent") {
    // What would be refused is refused before the benign model is trained.
    attack_options.benign = [](const at::Tensor& images) { return images; };
    attacks::by_name(spec.name, attack_options).check(ground.train());
    attack_options.benign = benign_model(ground);
    attack_options.store = ground.folder(spec.name) / "perturbed.safetensors";
    attack_options.show = true;
  }
  const auto attack = attacks::by_name(spec.name, attack_options);
  attack.check(ground.train());
  const auto [figures, seconds] = train(ground, spec, attack);

  const fs::path folder = ground.folder(spec.name);
  if (common.json) {
    auto json = report::figures_json(figures);
    json["files"] = {{"victim", (folder / "victim.safetensors").string()},
                     {"torchscript", (folder / "victim.pt").string()}};
    print(json);
    return done;
  }
  std::cout << fmt::format("{} on {}: BA {}", spec.name, ground.source.name,
                           report::words::percent(figures.ba.value()));
  if (attack.target) {
    std::cout << fmt::format(", ASR {}, largest lift {} points at “{}”",
                             report::words::percent(figures.asr.value()),
                             report::words::hundredths(figures.largest_lift.value(), 1),
                             test.classes[static_cast<std::size_t>(figures.largest_lift.cls)]);
  }
  std::cout << fmt::format("; {} test images, {:.0f} s\nvictim       {}\nTorchScript  {}\n", test.size(),
                           seconds, (folder / "victim.safetensors").string(), (folder / "victim.pt").string())
            << std::flush;
  return done;
}

}  // namespace

void add_attack(CLI::App& app, Common& common) {
  auto* command =
      app.add_subcommand("attack", "train a victim on a poisoned data set, to have something to defend");
  const auto options = std::make_shared<Options>();
  command
      ->add_option("--dataset", options->dataset,
                   "CIFAR10, FashionMNIST, or a folder with train/<class>/ and test/<class>/")
      ->capture_default_str();
  command->add_option("--data", options->data, "where a named data set lies; left out: data/<name>");
  command->add_option("--model", options->model, "the network: " + network_names())->capture_default_str();
  command
      ->add_option(
          "--width", options->width,
          "channels of its first layer (of a ViT: of each token); left out: as published with CUDA, a "
          "fraction of it without: 16 for ResNet18 and VGG16, 8 for ResNet50 and InceptionV3, 32 for "
          "DenseNet121, 128 "
          "for ViT")
      ->check(CLI::Range(1, 4096));
  command->add_option("--attack", options->attack, attack_names())->capture_default_str();
  command->add_option("--tlabel", options->tlabel, "the class the attacker wants, counted from 0")
      ->capture_default_str();
  command
      ->add_option("--rate", options->rate,
                   "share of the training images that are poisoned (LabelConsistent: of the target class's); "
                   "left out: the one it was published with on CIFAR-10 and ResNet-18")
      ->check(CLI::Range(0.0, 1.0));
  command->add_option("--benign", options->benign,
                      "LabelConsistent: the model, a file, that images are perturbed against; left out: the "
                      "benign victim, trained where there is none");
  command->add_option("--limit", options->limit, "use no more than so many training images")
      ->check(number(0));
  command->add_option("--image", options->image, "what a folder's images become, as 3x224x224 or 224");
  options->fit.add_to(*command);
  command->add_flag("--skip_damaged", options->skip_damaged,
                    "leave damaged files of a folder out, and say which; without it they end the run");
  command->add_option("--store", options->store,
                      "a folder that keeps a folder's decoded images, for sets larger than memory");
  command
      ->add_option("--mean", options->mean, "of the images, one number a channel; left out: the data set's")
      ->delimiter(',');
  command->add_option("--std", options->deviation, "likewise")->delimiter(',');
  options->training.add_to(*command, /*defense=*/false);
  command->add_option("--attack_root", options->attack_root, "where results go")->capture_default_str();
  command->callback(
      [&common, options] { common.chosen = [&common, options] { return run(*options, common); }; });
}

}  // namespace refine::cli
