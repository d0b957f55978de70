// Attacks and defends: every attack on one network, and BadNets on every network. Writes one table.
//
//     bazel run //benchmarks:scenarios -- --help

#include <ATen/ops/cat.h>
#include <fmt/core.h>
#include <fmt/ranges.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include <refine/baselines/by_name.hpp>
#include <refine/core/error.hpp>
#include <refine/core/file.hpp>
#include <refine/core/sha256.hpp>
#include <refine/core/text.hpp>
#include <refine/data/image_files.hpp>
#include <refine/data/image_folder.hpp>
#include <refine/data/sources.hpp>
#include <refine/nn/device.hpp>

#include "benchmarks/program.hpp"
#include "benchmarks/scenarios/scenario.hpp"
#include "benchmarks/scenarios/table.hpp"

namespace refine::scenarios {
namespace {

namespace fs = std::filesystem;
using benchmarks::user_path;

/// The command line.
struct Options {
  std::string data = "data/CIFAR10", out = "scenarios", size = "auto", device = "auto", stamped;
  std::vector<std::string> only, defenses = {"REFINE"};
  int image = 0;
  std::uint64_t seed = default_seed;
  bool wake = false;
  bool table_only = false;
};

/// Returns the baselines of the list, as `baselines::names()` spells them. Removes REFINE from it.
///
/// \param with_refine set to whether REFINE was in the list
std::vector<std::string> select_baselines(const std::vector<std::string>& defenses, bool& with_refine) {
  std::vector<std::string> selected;
  with_refine = false;
  for (const std::string& name : defenses) {
    if (text::same_name(name, "REFINE")) {
      with_refine = true;
    } else if (text::same_name(name, "all")) {
      with_refine = true;
      for (const auto baseline : baselines::names()) selected.emplace_back(baseline);
    } else {
      selected.emplace_back(baselines::canonical_name(name));
    }
  }
  return selected;
}

/// Writes and prints the table of the finished scenarios.
/// \throws Error if there are none; the table that is there stays
void write_table(const Setting& setting) {
  const auto rows = collect(with_other_rates(all_scenarios(setting.stamped.has_value()), setting), setting);
  check_any_finished(rows, setting);
  const fs::path folder = setting.out / setting.dataset;
  const nlohmann::ordered_json all = {{"dataset", setting.dataset},
                                      {"size", setting.size.name},
                                      {"seed", setting.seed},
                                      {"training_images", setting.split.train.size()},
                                      {"test_images", setting.split.test.size()},
                                      {"scenarios", rows}};
  files::write(folder / "scenarios.json", all.dump(1) + "\n");
  const std::string tables = markdown(rows) + waking_markdown(rows);
  files::write(folder / "scenarios.md", tables);
  files::write(folder / "scenarios.svg", svg(rows));
  std::cout << tables << "\ntable    " << (folder / "scenarios.md").lexically_normal().string()
            << "\nfigures  " << (folder / "scenarios.json").lexically_normal().string() << "\nplot     "
            << (folder / "scenarios.svg").lexically_normal().string() << std::endl;
}

Setting setting_of(const Options& options) {
  const fs::path root = fs::weakly_canonical(user_path(options.data));
  const auto check_unresized = [&](const char* dataset) {
    if (options.image > 0)
      throw Error("--image: has no effect on {} (got {} for {}); leave it out", dataset, options.image,
                  root.string());
  };
  if (files::exists(root / "train-images-idx3-ubyte.gz") || files::exists(root / "train-images-idx3-ubyte")) {
    check_unresized("Fashion-MNIST");
    return {.dataset = "FashionMNIST",
            .split = data::fashion_mnist(root),
            .normalization = normalizations::fashion_mnist,
            .size = size_by_name(options.size),
            .seed = options.seed,
            .out = user_path(options.out)};
  }
  const bool folders = files::exists(root / "train");
  const bool cifar = data::holds_cifar10(root) && (!folders || files::exists(root / "train" / "airplane"));
  if (!cifar && !folders) {
    throw Error(
        "cannot find images in {}: neither CIFAR-10 nor Fashion-MNIST nor train/<class>/ exists; set --data",
        root.string());
  }
  if (cifar) check_unresized("CIFAR-10");
  data::ImageFolderOptions resize_to_fit;
  if (options.image > 0)
    resize_to_fit = {.image = {3, options.image, options.image}, .resize_mode = data::ResizeMode::crop};
  return {.dataset = cifar ? "CIFAR10" : text::to_utf8(root.filename().string()),
          .split = cifar ? data::cifar10(root) : data::image_folders(root, resize_to_fit),
          .normalization = cifar ? normalizations::cifar10 : normalizations::imagenet,
          .size = size_by_name(options.size),
          .seed = options.seed,
          .out = user_path(options.out)};
}

/// Returns a SHA-256 of images and labels.
std::string fingerprint_of(const data::Split& split) {
  Sha256 hash;
  for (const data::Dataset* dataset : {&split.train, &split.test}) {
    for (const at::Tensor& tensor : {dataset->images.contiguous(), dataset->labels.contiguous()})
      hash.add(tensor.const_data_ptr(), tensor.nbytes());
  }
  return hash.hex();
}

/// Returns the names of the training and test images of a data set, without extensions: "train/cat/1".
std::set<std::string> image_names(const fs::path& root) {
  std::set<std::string> names;
  for (const char* part : {"train", "test"}) {
    for (const fs::path& file : data::image_files(root / part))
      names.insert(file.lexically_relative(root).replace_extension().string());
  }
  return names;
}

/// Reads the stamped copies of all images. They must lie in the same folders under the same names.
void read_stamped(const Options& options, Setting& setting) {
  const fs::path root = fs::weakly_canonical(user_path(options.stamped));
  const fs::path clean = fs::weakly_canonical(user_path(options.data));
  if (files::exists(clean / "train") && image_names(clean) != image_names(root)) {
    throw Error("--stamped: the names of the images in {} differ from those of --data; give the same files",
                root.string());
  }
  const auto& [train, test] = setting.split;
  const auto stamped = data::image_folders(root, {.image = train.image_shape()});
  const auto same = [](const data::Dataset& a, const data::Dataset& b) {
    return a.classes == b.classes && a.labels.equal(b.labels);
  };
  if (!same(train, stamped.train) || !same(test, stamped.test)) {
    throw Error(
        "--stamped: the classes or the numbers of images in {} differ from those of --data; give the same files",
        root.string());
  }
  setting.stamped.emplace(at::cat({train.images, test.images}),
                          at::cat({stamped.train.images, stamped.test.images}));
  setting.stamped_fingerprint = fingerprint_of(stamped);
}

void run_all(const Options& options) {
  use_device(options.device);
  use_threads(0);
  const auto named = scenarios_by_name(options.only, all_scenarios(!options.stamped.empty()));
  bool with_refine = true;
  const auto baselines = select_baselines(options.defenses, with_refine);
  Setting setting = setting_of(options);
  if (!options.stamped.empty()) read_stamped(options, setting);
  auto& [train, test] = setting.split;
  if (setting.size.images > 0 && setting.size.images < train.size()) {
    train = train.sample(setting.size.images, setting.seed);
  }
  if (setting.size.tests > 0 && setting.size.tests < test.size()) {
    test = test.sample(setting.size.tests, setting.seed);
  }
  setting.fingerprint = fingerprint_of(setting.split);
  const auto scenarios = without_default_rates(named, setting);
  if (!options.table_only) {
    check_folders(scenarios, with_refine, baselines, setting);
    for (const Scenario& scenario : scenarios) check_possible(scenario, setting);
    const auto to_wake = options.wake ? wakeable(scenarios, with_refine, setting) : std::vector<Scenario>{};
    for (std::size_t i = 0; i < scenarios.size(); ++i) {
      std::cerr << fmt::format("scenario {} of {}: {} on {}\n", i + 1, scenarios.size(),
                               scenarios[i].attack_name() + scenarios[i].rate_suffix(), scenarios[i].network);
      if (with_refine) run(scenarios[i], setting);
    }
    run_baselines(scenarios, baselines, setting);
    for (const Scenario& scenario : with_other_rates(all_scenarios(setting.stamped.has_value()), setting))
      measure_zero_point(scenario, setting);
    for (const Scenario& scenario : to_wake) measure_waking(scenario, setting);
  }
  write_table(setting);
}

}  // namespace
}  // namespace refine::scenarios

int main(int argc, char** argv) {
  using namespace refine;
  scenarios::Options options;
  CLI::App app{
      "Trains and defends every attack on ResNet-18 and BadNets on every network, and writes one table. After an "
      "interruption, the same command continues with the training that was interrupted (BTI-DBF and the perturbation "
      "of Narcissus begin again).",
      "scenarios"};
  app.add_option("--data", options.data,
                 "CIFAR-10, Fashion-MNIST, or a folder with train/<class>/ and test/<class>/")
      ->capture_default_str();
  app.add_option(
         "--image", options.image,
         "resize and crop the images of a folder to this many pixels a side (default: they have one size)")
      ->check(CLI::Range(8, 4096));
  app.add_option("--out", options.out, "folder for victims, defenses and the table")->capture_default_str();
  app.add_option(
         "--size", options.size,
         "full: all images, the authors' widths; small: 30,000 images, narrow networks, victims three epochs or more, defenses eight; "
         "quick: 20,000 images, half of those widths, three epochs; tiny: to try the program; auto: full with "
         "CUDA, else small")
      ->check(CLI::IsMember({"auto", "full", "small", "quick", "tiny"}))
      ->capture_default_str();
  app.add_option(
      "--stamped", options.stamped,
      "the images of --data, stamped by another program, with the same folders and names; runs the "
      "attack Stamped");
  const CLI::Option* only =
      app.add_option(
             "--only", options.only,
             "run only these scenarios, for example BadNets/ResNet18,BadNets/ResNet18@0.01 (a poisoning rate of 1 %); "
             "BadNets-against-Student/ResNet18 and others are run only if they are named, and the benign victims of "
             "other networks than ResNet-18 are only then defended")
          ->delimiter(',');
  const CLI::Option* defense =
      app.add_option("--defense", options.defenses,
                     fmt::format("defenses: REFINE, {}, or all", fmt::join(baselines::names(), ", ")))
          ->delimiter(',')
          ->capture_default_str();
  app.add_option("--device", options.device, "auto, cpu, cuda or cuda:N")->capture_default_str();
  app.add_option("--seed", options.seed, "seed of all random choices")->capture_default_str();
  const CLI::Option* wake = app.add_flag(
      "--wake", options.wake,
      "let an adversary look for faint changes that wake the backdoors behind REFINE; needs the defended "
      "benign victim, for example --only Benign/ResNet18,BadNets/ResNet18");
  app.add_flag("--table", options.table_only, "write the table of the finished scenarios, and run nothing");
  return benchmarks::run_program(app, argc, argv, [&] {
    for (const CLI::Option* option : {only, defense, wake}) {
      if (options.table_only && option->count() > 0) {
        throw Error("{}: has no effect with --table, which has all that is finished; leave one of them out",
                    option->get_name());
      }
    }
    scenarios::run_all(options);
  });
}
