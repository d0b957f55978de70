// refine attack: trains a victim on a poisoned data set, to have something to defend.

#include <fmt/core.h>

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>

#include <refine/artifacts/export_torchscript.hpp>
#include <refine/artifacts/victim.hpp>
#include <refine/backbones/normalized.hpp>
#include <refine/evaluation/evaluate.hpp>
#include <refine/nn/device.hpp>
#include <refine/report/metrics_json.hpp>
#include <refine/report/words.hpp>
#include <refine/training/recipe_json.hpp>

#include "tools/refine/command.hpp"
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
              image, fit = "crop";
  std::vector<double> mean, deviation;
  int tlabel = 0, width = 0;
  double rate = 0.1;
  std::int64_t limit = 0;
};

int run(const Options& options, const Common& common) {
  const ImageShape said = options.image.empty() ? ImageShape{} : parse_shape(options.image);
  Source source = read_dataset(options.dataset, options.data, said, parse_fit(options.fit));
  auto& [train, test] = source.split;
  if (options.limit > 0 && options.limit < train.size())
    train = train.sample(options.limit, options.training.seed);
  const Task task = train.task();
  const std::string network = network_name(options.model);
  const AttackSpec spec{.name = attacks::by_name(options.attack, {.image = task.image}).name,
                        .target = options.tlabel,
                        .rate = options.rate,
                        .seed = options.training.seed};
  const auto attack = spec.make(task.image);
  attack.check(train);
  const Normalization by = parse_normalization(options.mean, options.deviation)
                               .value_or(source.normalization.value_or(normalizations::imagenet));
  const int width = options.width > 0 ? options.width : default_device().is_cuda() ? 64 : 16;
  const fs::path folder = result_folder(options.attack_root, options.dataset, network, spec.name);

  backbones::AnyBackbone victim(
      backbones::Normalized{make_network(network, task, width, options.training.seed), by});
  const ClassifierRecipe recipe = options.training.victim(train.size(), task.image);
  write_attack(spec, folder / "attack.json");
  const auto poisoned = attack.poison(train);
  std::cerr << fmt::format("refine: {}, {} of {} training images poisoned with {}; {}\n", source.name,
                           poisoned.indices.size(), train.size(), spec.name, default_device().str());
  const Trained trained = run_train(victim, poisoned, recipe, folder / "log.jsonl");

  Message image;
  image << task.image;
  std::ostringstream recipe_text;
  recipe_text << recipe;
  save(victim, folder / "victim.safetensors",
       {{"network", network},
        {"width", std::to_string(width)},
        {"image", std::string(image.view())},
        {"class_names", nlohmann::json(train.classes).dump()},
        {"recipe", recipe_text.str()}});
  export_torchscript(freeze(victim), folder / "victim.pt", {{"class_names", train.classes}});

  const metrics::Figures figures = evaluate(victim, test, attack);
  const auto text = report::figures_json(figures);
  write_file(folder / "victim.json", text.dump(2) + "\n");
  if (common.json) {
    auto json = text;
    json["files"] = {{"victim", (folder / "victim.safetensors").string()},
                     {"torchscript", (folder / "victim.pt").string()}};
    print(json);
  } else {
    std::cout << fmt::format("{} on {}: BA {}", spec.name, source.name,
                             report::words::percent(figures.ba.value()));
    if (attack.target) {
      std::cout << fmt::format(", ASR {}, largest lift {} points at “{}”",
                               report::words::percent(figures.asr.value()),
                               report::words::hundredths(figures.largest_lift.value(), 1),
                               test.classes[static_cast<std::size_t>(figures.largest_lift.cls)]);
    }
    std::cout << fmt::format("; {} test images, {:.0f} s\nvictim       {}\nTorchScript  {}\n", test.size(),
                             trained.seconds, (folder / "victim.safetensors").string(),
                             (folder / "victim.pt").string())
              << std::flush;
  }
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
  command->add_option("--width", options->width, "its width; left out: 64 with CUDA, 16 without")
      ->check(CLI::Range(1, 4096));
  command->add_option("--attack", options->attack, attack_names())->capture_default_str();
  command->add_option("--tlabel", options->tlabel, "the class the attacker wants, counted from 0")
      ->capture_default_str();
  command->add_option("--rate", options->rate, "share of the training images that are poisoned")
      ->capture_default_str();
  command->add_option("--limit", options->limit, "use no more than so many training images")
      ->check(number(0));
  command->add_option("--image", options->image, "what a folder's images become, as 3x224x224 or 224");
  add_fit(*command, options->fit);
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
