// Poisons CIFAR-10 with BadNets, trains a victim on it, defends it with REFINE, and reports.
//
//     bazel run //examples:cifar10_badnets -- --help

#include <c10/util/Exception.h>
#include <fmt/core.h>
#include <CLI/CLI.hpp>

#include <csignal>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <system_error>

#include <refine/data/download.hpp>
#include <refine/refine.hpp>
#include <refine/report/report.hpp>

namespace {

namespace fs = std::filesystem;
using namespace refine;

constexpr Task task = tasks::cifar10;

struct Options {
  std::string device = "auto";
  std::string budget = "auto";
  std::uint64_t seed = default_seed;
  std::string data;
  std::string output = ".";
};

/// How much work a run is.
struct Budget {
  std::int64_t images;           // of the training set, 0 for all
  std::int64_t test_images = 0;  // 0 for all
  int victim_width;
  int transform_width;
  ClassifierRecipe victim;
  Recipe defense;
};

/// What the images are, and how they are normalised.
struct Source {
  std::string name;
  fs::path from;
  data::Split split;
  Normalization normalization;
};

Budget budget_of(const std::string& name) {
  const bool cuda = default_device().is_cuda();
  if (name == "full" || (name == "auto" && cuda)) {
    return {.images = 0,
            .victim_width = 64,
            .transform_width = 64,
            .victim = recipes::gpu_classifier,
            .defense = recipes::gpu};
  }
  Budget budget{.images = 50'000,
                .victim_width = 16,
                .transform_width = 16,
                .victim = recipes::two_cores_classifier,
                .defense = recipes::two_cores};
  if (name == "tiny") {
    budget.images = 4'000;
    budget.test_images = 2'000;
    budget.victim_width = budget.transform_width = 8;
    budget.victim.optimization.epochs = 5;
    budget.defense.optimization.epochs = 4;
  }
  return budget;
}

/// Bazel runs programs in a folder of its own, and says where the user stands.
fs::path where_the_user_stands() {
  const char* folder = std::getenv("BUILD_WORKING_DIRECTORY");
  return folder != nullptr ? fs::path(folder) : fs::current_path();
}

Source read(const fs::path& root) {
  if (file_exists(root / "train-images-idx3-ubyte.gz") || file_exists(root / "train-images-idx3-ubyte")) {
    return {"FashionMNIST", root, data::fashion_mnist(root), normalizations::fashion_mnist};
  }
  return {"CIFAR10", root, data::cifar10(root), normalizations::cifar10};
}

/// CIFAR-10 from `--data`, from data/CIFAR10, or from the network; where it can't be had, Fashion-MNIST.
Source find_images(const Options& options) {
  const fs::path here = where_the_user_stands();
  if (!options.data.empty()) return read(here / options.data);
  const fs::path root = here / "data" / "CIFAR10";
  if (data::holds_cifar10(root)) return read(root);
  try {
    data::download_cifar10(root);
  } catch (const Error& error) {
    const fs::path debian = "/usr/share/datasets/fashion-mnist";
    if (data::download_has_begun(root) || !file_exists(debian)) throw;  // the next run goes on from there
    std::cout << "refine: no CIFAR-10 in data/CIFAR10 and none to be had (" << error.what()
              << "): running on Fashion-MNIST\n";
    return read(debian);
  }
  return read(root);
}

report::Curve curve(const History& history, std::string name) {
  report::Curve result{.name = std::move(name), .unit = "%", .x_label = "epoch", .x = {}, .y = {}};
  for (const EpochInfo& epoch : history.epochs) {
    result.x.push_back(epoch.epoch);
    result.y.push_back(100 * epoch.accuracy);
  }
  return result;
}

double seconds(const History& history) {
  return history.epochs.back().seconds;
}

std::string text_of(const auto& value) {
  std::ostringstream out;
  out << value;
  return out.str();
}

void run(const Options& options) {
  use_device(options.device);
  use_threads(0);
  const Budget budget = budget_of(options.budget);

  const attacks::BadNets<task> attack{.target = 0, .rate = 0.1, .seed = options.seed};
  const fs::path results = where_the_user_stands() / options.output;
  auto [dataset, from, split, normalization] = find_images(options);
  auto& [train, test] = split;
  const fs::path attack_folder = results / "attack" / dataset / "ResNet18" / "BadNets";
  const fs::path defense_folder = results / "refine_res" / dataset / "ResNet18" / "BadNets";
  std::error_code ignored;
  for (const auto& folder : {attack_folder, defense_folder}) fs::remove(folder / "log.jsonl", ignored);
  JsonLines attack_log(attack_folder / "log.jsonl"), defense_log(defense_folder / "log.jsonl");

  if (budget.images > 0 && budget.images < train.size()) train = train.sample(budget.images, options.seed);
  if (budget.test_images > 0) test = test.sample(budget.test_images, options.seed);
  std::cout << fmt::format(
                   "refine: {} from {}, {} of its training images, {} test images; BadNets on '{}', rate {}, "
                   "seed {}; {}",
                   dataset, from.lexically_normal().string(), train.size(), test.size(), train.classes[0],
                   attack.rate, options.seed, default_device().str())
            << std::endl;

  // The victim.
  ClassifierRecipe victim_recipe = budget.victim;
  victim_recipe.seed = options.seed;
  const auto poisoned = attack.poison(train);
  formats::write_safetensors(
      attack_folder / "poison.safetensors",
      {.tensors = {{"indices", at::tensor(poisoned.indices)}, {"pattern", attack.trigger.pattern}},
       .metadata = {{"target", std::to_string(attack.target)},
                    {"rate", fmt::format("{}", attack.rate)},
                    {"seed", std::to_string(options.seed)}}});
  ProgressBar bar;
  History victim_history, defense_history;
  const auto victim = train_classifier(
      backbones::Normalized{backbones::ResNet18<task>{.width = budget.victim_width, .seed = options.seed},
                            normalization},
      poisoned, victim_recipe, bar, attack_log, victim_history);
  save(victim, attack_folder / "victim.safetensors",
       {{"recipe", text_of(victim_recipe)}, {"width", std::to_string(budget.victim_width)}});

  // The defense: the same images, clean, and no labels.
  Recipe recipe = budget.defense;
  recipe.seed = options.seed;
  auto defense = Pipeline{transforms::UNet<task>{.width = budget.transform_width, .seed = options.seed},
                          freeze(victim), remaps::Derangement<task>{.seed = options.seed}};
  fit(defense, train.images, recipe, bar, defense_log, defense_history);
  save(defense, defense_folder / "defense.safetensors", recipe,
       {{"width", std::to_string(budget.transform_width)}});

  export_torchscript(defense, defense_folder / "defended.pt",
                     {{"dataset", dataset}, {"recipe", text_of(recipe)}});

  const Evaluation evaluation = evaluate(defense, test, attack, /*show=*/true);
  std::string permutation;
  for (auto name : defense.remap().permutation)
    permutation += (permutation.empty() ? "" : " ") + std::to_string(name);
  const report::DefenseReport page{
      .title = "BadNets on " + dataset,
      .dataset = dataset,
      .model = fmt::format("ResNet18, width {}", budget.victim_width),
      .attack = "BadNets",
      .class_names = test.classes,
      .before = evaluation.before,
      .after = evaluation.after,
      .curves = {curve(victim_history, "victim: training accuracy"),
                 curve(defense_history, "defense: agreement with the victim")},
      .facts = {{"training images", std::to_string(train.size())},
                {"poisoned images", std::to_string(poisoned.indices.size())},
                {"device", default_device().str()},
                {"seed", std::to_string(options.seed)},
                {"permutation", permutation},
                {"transform", fmt::format("U-Net, 4 levels, width {}", budget.transform_width)},
                {"victim's recipe", text_of(victim_recipe)},
                {"victim's training", fmt::format("{:.0f} s", seconds(victim_history))},
                {"defense's recipe", text_of(recipe)},
                {"defense's training", fmt::format("{:.0f} s", seconds(defense_history))}},
      .sheet = report::sample_sheet(defense, test, attack)};
  report::write_report(page, defense_folder);
  std::cout << page << "\nvictim   " << (attack_folder / "victim.safetensors").lexically_normal().string()
            << "\ndefense  " << (defense_folder / "defense.safetensors").lexically_normal().string()
            << "\nto serve " << (defense_folder / "defended.pt").lexically_normal().string() << "\nreport   "
            << (defense_folder / "report.html").lexically_normal().string() << std::endl;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{"Poisons CIFAR-10 with BadNets, trains a victim on it, defends it with REFINE, and reports.",
               "cifar10_badnets"};
  app.add_option("--device", options.device, "auto, cpu, cuda or cuda:N")->capture_default_str();
  app.add_option(
         "--budget", options.budget,
         "full: all images, networks of width 64; small: 50,000 images, width 16, five minutes of two cores; "
         "tiny: 4,000 images, measured on 2,000, width 8, to see it work; auto: full with CUDA, else small")
      ->check(CLI::IsMember({"auto", "full", "small", "tiny"}))
      ->capture_default_str();
  app.add_option("--seed", options.seed,
                 "of the poisoning, the weights, the permutation and the order of images")
      ->check([](const std::string& said) {
        return said.starts_with('-') ? "seed " + said + " is below 0; say 0 or more" : std::string();
      })
      ->capture_default_str();
  app.add_option("--data", options.data,
                 "a folder with CIFAR-10 (binary, or image folders) or Fashion-MNIST; left out: "
                 "data/CIFAR10, downloaded if need be");
  app.add_option("--output", options.output, "where attack/ and refine_res/ go")->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : Error::exit_status;
  }

  std::signal(SIGXFSZ, SIG_IGN);  // a file-size limit is then an error of write, as a full disk is
  keep_freed_memory();
  try {
    run(options);
  } catch (const Error& error) {
    std::cerr << error.what() << '\n';
    return Error::exit_status;
  } catch (const c10::Error& error) {
    std::cerr << "refine: LibTorch failed: " << error.what_without_backtrace() << '\n';
    return 1;
  } catch (const fs::filesystem_error& error) {
    std::cerr << "cannot use " << error.path1().string() << ": " << error.code().message()
              << "; check the path and its rights\n";
    return Error::exit_status;
  } catch (const std::exception& error) {
    std::cerr << "refine: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
