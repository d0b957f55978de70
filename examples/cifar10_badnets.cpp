// Poisons CIFAR-10 with BadNets, trains a victim on it, defends it with REFINE, and reports.
//
//     bazel run //examples:cifar10_badnets -- --help

#include <c10/util/Exception.h>
#include <fmt/core.h>
#include <CLI/CLI.hpp>

#include <array>
#include <csignal>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <string>
#include <system_error>

#include <refine/data/download.hpp>
#include <refine/distributed/distributed.hpp>
#include <refine/nn/device.hpp>
#include <refine/refine.hpp>
#include <refine/report/report.hpp>
#include <refine/training/checkpoint.hpp>
#include <refine/training/stop_on_signal.hpp>

namespace {

namespace fs = std::filesystem;
using namespace refine;

constexpr Task task = tasks::cifar10;

/// The command line.
struct Options {
  std::string device = "auto";
  std::string budget = "auto";
  std::uint64_t seed = default_seed;
  std::string data;
  std::string output = ".";
  std::string sync_batch_norm = "on";
  bool resume = false;
  std::string resume_command;  ///< the command line, with --resume
};

/// The amount of work in a run.
struct Budget {
  std::int64_t images;           ///< number of training images, 0 for all
  std::int64_t test_images = 0;  ///< number of test images, 0 for all
  int victim_width;              ///< width of the ResNet-18
  int transform_width;           ///< width of the U-Net
  ClassifierRecipe victim;       ///< training of the victim
  Recipe defense;                ///< training of the defense
};

/// A data set and its normalization.
struct Source {
  std::string name;
  fs::path folder;
  data::Split split;
  Normalization normalization;
};

/// Returns the budget with this name.
Budget budget_by_name(const std::string& name) {
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
    // Fewer steps learn the trigger with some seeds and processors only.
    budget.victim.optimization.batch_size = 64;
    budget.victim.optimization.epochs = 7;
    budget.defense.optimization.epochs = 4;
  }
  return budget;
}

/// Returns the folder in which the user started Bazel, which runs programs in another folder.
fs::path user_folder() {
  const char* folder = std::getenv("BUILD_WORKING_DIRECTORY");
  return folder != nullptr ? fs::path(folder) : fs::current_path();
}

/// Reads the data set in a folder.
Source read_dataset(const fs::path& root) {
  if (files::exists(root / "train-images-idx3-ubyte.gz") || files::exists(root / "train-images-idx3-ubyte")) {
    return {"FashionMNIST", root, data::fashion_mnist(root), normalizations::fashion_mnist};
  }
  return {"CIFAR10", root, data::cifar10(root), normalizations::cifar10};
}

/// Reads the data set of `--data`. Without it, reads CIFAR-10 from data/CIFAR10 or downloads it
/// there; if that fails, reads Fashion-MNIST.
Source find_images(const Options& options) {
  const fs::path user = user_folder();
  if (!options.data.empty()) return read_dataset(user / options.data);
  const fs::path root = user / "data" / "CIFAR10";
  if (data::holds_cifar10(root)) return read_dataset(root);
  try {
    data::download_cifar10(root);
  } catch (const Error& error) {
    const fs::path debian = "/usr/share/datasets/fashion-mnist";
    if (data::cifar10_download_has_begun(root) || !files::exists(debian))
      throw;  // the next run continues the download
    std::cout << "no CIFAR-10 in data/CIFAR10, and the download failed (" << error.what()
              << "): running on Fashion-MNIST\n";
    return read_dataset(debian);
  }
  return read_dataset(root);
}

/// Returns the accuracy of each epoch as a curve.
report::Curve accuracy_curve(const History& history, std::string name) {
  report::Curve result{.name = std::move(name), .unit = "%", .x_label = "epoch", .x = {}, .y = {}};
  for (const EpochInfo& epoch : history.epochs) {
    result.x.push_back(epoch.epoch);
    result.y.push_back(100 * epoch.accuracy);
  }
  return result;
}

/// Returns what `<<` prints.
std::string to_text(const auto& value) {
  std::ostringstream out;
  out << value;
  return out.str();
}

void run(const Options& options) {
  use_device(options.device);
  use_threads(0);
  Budget budget = budget_by_name(options.budget);
  budget.victim.optimization.sync_batch_norm = budget.defense.optimization.sync_batch_norm =
      options.sync_batch_norm == "on";

  const attacks::BadNets<task> attack{.target = 0, .rate = 0.1, .seed = options.seed};
  const fs::path results = user_folder() / options.output;
  // Started by torchrun, several processes train together: each has a part of every batch.
  auto ranks = distributed::C10d::from_environment_or_single();
  const bool is_first = ranks.rank() == 0;
  std::optional<Source> source;
  distributed::on_first_rank(ranks, [&] { source = find_images(options); });  // which may download them
  if (!source) source = find_images(options);
  auto& [dataset, folder, split, normalization] = *source;
  auto& [train, test] = split;
  const fs::path attack_folder = results / "attack" / dataset / "ResNet18" / "BadNets";
  const fs::path defense_folder = results / "refine_res" / dataset / "ResNet18" / "BadNets";
  std::error_code ignored;
  const bool resume = options.resume || ranks.restarts() > 0;
  const Checkpoint victim_checkpoint{.path = attack_folder / "checkpoints", .resume = resume};
  const Checkpoint defense_checkpoint{.path = defense_folder / "checkpoints", .resume = resume};
  std::array<std::shared_ptr<const void>, 2> holds;
  distributed::on_first_rank(ranks, [&] {
    holds = {victim_checkpoint.hold(), defense_checkpoint.hold()};
    for (const auto& results_folder : {attack_folder, defense_folder})
      fs::remove(results_folder / "log.jsonl", ignored);  // a resumed run reports earlier epochs again
  });
  JsonLines attack_log(attack_folder / "log.jsonl"), defense_log(defense_folder / "log.jsonl");

  if (budget.images > 0 && budget.images < train.size()) train = train.sample(budget.images, options.seed);
  if (budget.test_images > 0) test = test.sample(budget.test_images, options.seed);
  if (is_first)
    std::cout << fmt::format(
                     "{} from {}: {} training images, {} test images; BadNets on '{}', rate {}, seed {}; {}",
                     dataset, folder.lexically_normal().string(), train.size(), test.size(), train.classes[0],
                     attack.rate, options.seed, default_device().str())
              << std::endl;

  // The victim.
  ClassifierRecipe victim_recipe = budget.victim;
  victim_recipe.seed = options.seed;
  const auto poisoned = attack.poison(train);
  distributed::on_first_rank(ranks, [&] {
    fs::remove(attack_folder / "victim.safetensors", ignored);  // it may be of another attack
    formats::write_safetensors(
        attack_folder / "poison.safetensors",
        {.tensors = {{"indices", at::tensor(poisoned.indices)}, {"pattern", attack.trigger.pattern}},
         .metadata = {{"target", std::to_string(attack.target)},
                      {"rate", fmt::format("{}", attack.rate)},
                      {"seed", std::to_string(options.seed)}}});
  });
  ProgressBar bar;
  StopOnSignal signals(options.resume_command);
  History victim_history, defense_history;
  const auto victim = train_classifier(
      backbones::Normalized{backbones::ResNet18<task>{.width = budget.victim_width, .seed = options.seed},
                            normalization},
      poisoned, victim_recipe, ranks, bar, attack_log, victim_history, victim_checkpoint, signals);
  distributed::on_first_rank(ranks, [&] {
    save(victim, attack_folder / "victim.safetensors",
         {{"recipe", to_text(victim_recipe)}, {"width", std::to_string(budget.victim_width)}});
  });

  // The defense: the same images without triggers and without labels.
  Recipe recipe = budget.defense;
  recipe.seed = options.seed;
  auto defense = Pipeline{transforms::UNet<task>{.width = budget.transform_width, .seed = options.seed},
                          freeze(victim), remaps::Derangement<task>{.seed = options.seed}};
  fit(defense, train.images, recipe, ranks, bar, defense_log, defense_history, defense_checkpoint, signals);
  distributed::on_first_rank(ranks, [&] {
    save(defense, defense_folder / "defense.safetensors", recipe,
         {{"width", std::to_string(budget.transform_width)}});
    export_torchscript(defense, defense_folder / "defended.pt",
                       {{"dataset", source->name}, {"recipe", to_text(recipe)}});
  });

  const Evaluation evaluation = evaluate(defense, test, attack, ranks, /*show=*/true);
  if (!is_first) return distributed::wait_for_all(ranks);
  std::string permutation;
  for (auto cls : defense.remap().permutation)
    permutation += (permutation.empty() ? "" : " ") + std::to_string(cls);
  const report::DefenseReport page{
      .title = "BadNets on " + dataset,
      .dataset = dataset,
      .model = fmt::format("ResNet18, width {}", budget.victim_width),
      .attack = "BadNets",
      .class_names = test.classes,
      .before = evaluation.before,
      .after = evaluation.after,
      .curves = {accuracy_curve(victim_history, "victim: training accuracy"),
                 accuracy_curve(defense_history, "defense: agreement with the victim")},
      .facts = {{"training images", std::to_string(train.size())},
                {"poisoned images", std::to_string(poisoned.indices.size())},
                {"device", default_device().str()},
                {"seed", std::to_string(options.seed)},
                {"permutation", permutation},
                {"transform", fmt::format("U-Net, 4 levels, width {}", budget.transform_width)},
                {"victim's recipe", to_text(victim_recipe)},
                {"victim's training", fmt::format("{:.0f} s", victim_history.seconds())},
                {"defense's recipe", to_text(recipe)},
                {"defense's training", fmt::format("{:.0f} s", defense_history.seconds())}},
      .sheet = report::sample_sheet(defense, test, attack)};
  report::write_report(page, defense_folder);
  victim_checkpoint.remove();
  defense_checkpoint.remove();
  std::cout << page << "\nvictim   " << (attack_folder / "victim.safetensors").lexically_normal().string()
            << "\ndefense  " << (defense_folder / "defense.safetensors").lexically_normal().string()
            << "\nto serve " << (defense_folder / "defended.pt").lexically_normal().string() << "\nreport   "
            << (defense_folder / "report.html").lexically_normal().string() << std::endl;
  distributed::wait_for_all(ranks);
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{"Poisons CIFAR-10 with BadNets, trains a victim on it, defends it with REFINE, and reports.",
               "cifar10_badnets"};
  app.add_option("--device", options.device, "auto, cpu, cuda or cuda:N")->capture_default_str();
  app.add_option(
         "--budget", options.budget,
         "full: all images, networks of width 64; small: 50,000 images, width 16, five minutes on two cores; "
         "tiny: 4,000 images, 2,000 test images, width 8, to try the program; auto: full with CUDA, else small")
      ->check(CLI::IsMember({"auto", "full", "small", "tiny"}))
      ->capture_default_str();
  app.add_option("--seed", options.seed,
                 "seed of the poisoning, the weights, the permutation and the order of images")
      ->check([](const std::string& text) {
        return text.starts_with('-') ? "must be 0 or more, got " + text : std::string();
      })
      ->capture_default_str();
  app.add_option(
      "--data", options.data,
      "a folder with CIFAR-10 (binary, or image folders) or Fashion-MNIST (default: data/CIFAR10, downloaded "
      "if missing)");
  app.add_option("--output", options.output, "folder for attack/ and refine_res/")->capture_default_str();
  app.add_option(
         "--sync_batch_norm", options.sync_batch_norm,
         "on or off: with several ranks, BatchNorm takes mean and variance of the whole batch, or of each "
         "rank's images, which synchronizes less")
      ->check(CLI::IsMember({"on", "off"}))
      ->capture_default_str();
  app.add_flag("--resume", options.resume, "continue a run that was interrupted, with the same result");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : Error::exit_status;
  }

  options.resume_command = resume_command(argc, argv);

  std::signal(SIGXFSZ, SIG_IGN);  // makes a file-size limit an error of write, like a full disk
  keep_freed_memory();
  try {
    run(options);
  } catch (const Stopped& stopped) {
    std::cerr << "stopped: " << stopped.what() << "\ngo on with: " << options.resume_command << '\n';
    return StopOnSignal::exit_status();
  } catch (const Error& error) {
    std::cerr << "error: " << error.what() << '\n';
    return Error::exit_status;
  } catch (const c10::Error& error) {
    std::cerr << "error: LibTorch failed: " << nn::describe_error(error) << '\n';
    return 1;
  } catch (const fs::filesystem_error& error) {
    std::cerr << "error: cannot use " << error.path1().string() << ": " << error.code().message()
              << "; check the path and its permissions\n";
    return Error::exit_status;
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
