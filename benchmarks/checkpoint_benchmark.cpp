// The cost of checkpoints: `fit` without and with them, in turns.
//
//     bazel run -c opt //benchmarks:checkpoint_benchmark -- --rounds 5

#include <fmt/core.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <system_error>
#include <vector>

#include <refine/backbones/freeze.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/data/sources.hpp>
#include <refine/metrics/quantile.hpp>
#include <refine/nn/device.hpp>
#include <refine/remaps/remaps.hpp>
#include <refine/training/checkpoint.hpp>
#include <refine/training/training.hpp>
#include <refine/transforms/unet.hpp>

#include "benchmarks/program.hpp"

namespace {

using namespace refine;
using Clock = std::chrono::steady_clock;

constexpr Task task = tasks::cifar10;

struct Options {
  int width = 16, rounds = 5, threads = 0;
  double seconds = 12, every = 2;
};

/// Measures the time of a step, and stops after some time. The first steps are left out.
struct Timer {
  double seconds;
  std::int64_t steps = 0;
  Clock::time_point begin = {}, last = {};

  void on_step(const StepInfo&) {
    last = Clock::now();
    if (++steps == warm_up) begin = last;
  }
  bool stop_requested() const {
    return steps > warm_up && std::chrono::duration<double>(last - begin).count() > seconds;
  }
  double per_step() const {
    return std::chrono::duration<double>(last - begin).count() / static_cast<double>(steps - warm_up);
  }

  static constexpr std::int64_t warm_up = 3;
};

/// Counts the files that appear.
struct Files {
  std::filesystem::path folder;
  std::filesystem::path newest = {};
  int count = 0;
  double megabytes = 0;

  void on_step(const StepInfo&) {
    std::error_code ignored;
    std::filesystem::path found;
    for (std::filesystem::directory_iterator entry(folder, ignored), end; !ignored && entry != end;
         entry.increment(ignored)) {
      if (entry->path().extension() == ".safetensors") found = std::max(found, entry->path());
    }
    if (found == newest) return;
    newest = found;
    megabytes = static_cast<double>(std::filesystem::file_size(found, ignored)) / 1e6;
    ++count;
  }
};

double seconds_per_step(const Options& options, const std::filesystem::path& folder, Files* files) {
  const auto [train, test] = data::Synthetic{.task = task, .train = 2048, .test = 1}.make();
  Pipeline defense{transforms::UNet<task>{.width = options.width},
                   freeze(backbones::ResNet18<task>{.width = options.width}), remaps::Derangement<task>{}};
  Recipe recipe = recipes::fast;
  recipe.optimization.epochs = 1'000;
  Timer timer{options.seconds};
  const auto every = std::chrono::milliseconds(static_cast<std::int64_t>(1000 * options.every));
  try {
    if (files) {
      const Checkpoint checkpoint{.path = folder, .every = every};
      fit(defense, train.images, recipe, *files, timer, checkpoint);
    } else {
      fit(defense, train.images, recipe, timer);
    }
  } catch (const Stopped&) {
  }
  return timer.per_step();
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{"Measures the cost of checkpoints as a ratio of step times, in turns in one process."};
  app.add_option("--width", options.width, "of U-Net and victim")->capture_default_str();
  app.add_option("--rounds", options.rounds, "pairs of runs")->capture_default_str();
  app.add_option("--seconds", options.seconds, "of each run")->capture_default_str();
  app.add_option("--every", options.every, "seconds between two checkpoints")->capture_default_str();
  app.add_option("--threads", options.threads, "of the host; 0: all")->capture_default_str();
  return benchmarks::run_program(app, argc, argv, [&] {
    use_threads(options.threads);
    std::vector<double> ratios;
    Files files{};
    for (int round = 0; round < options.rounds; ++round) {
      const benchmarks::Scratch scratch("refine-checkpoints-" + std::to_string(round));
      files.folder = scratch.path;
      files.newest.clear();
      const double without = seconds_per_step(options, scratch.path, nullptr);
      const double with = seconds_per_step(options, scratch.path, &files);
      ratios.push_back(with / without);
      fmt::print("round {}: {:.1f} ms without, {:.1f} ms with, ratio {:.4f}\n", round + 1, 1e3 * without,
                 1e3 * with, ratios.back());
    }
    const double ratio = metrics::median(ratios);
    fmt::print(
        "median ratio {:.4f} at one checkpoint of {:.0f} MB every {} s ({} written), {:.4f} at one every 60 s\n",
        ratio, files.megabytes, options.every, files.count, 1 + (ratio - 1) * options.every / 60);
  });
}
