// The training step against the published one in PyTorch, on the same machine, from the same weights.
//
//     bazel run -c opt //benchmarks:versus_reference -- --help

#include <ATen/Parallel.h>
#include <fmt/core.h>
#include <fmt/ranges.h>
#include <torch/version.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/core/file.hpp>
#include <refine/nn/autocast.hpp>
#include <refine/nn/conv.hpp>
#include <refine/nn/device.hpp>

#include "benchmarks/program.hpp"
#include "benchmarks/published_step/step.hpp"

namespace refine::versus {
namespace {

namespace fs = std::filesystem;
using benchmarks::from_where_the_user_stands;
using Json = nlohmann::ordered_json;

struct Options {
  Work work;
  int rounds = 5;
  std::string python, reference, json, device = "auto";
};

fs::path environment_path(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? fs::path() : fs::path(value);
}

/// The interpreter that has the PyTorch that LibTorch came with, where tools/bazel installed it.
std::string interpreter(const std::string& said) {
  if (said.find('/') != std::string::npos) return from_where_the_user_stands(said).string();
  if (!said.empty()) return said;
  const fs::path cache = environment_path("XDG_CACHE_HOME");
  const fs::path made = (cache.empty() ? environment_path("HOME") / ".cache" : cache) / "refine" /
                        ("torch-" TORCH_VERSION) / "bin" / "python";
  return fs::exists(made) ? made.string() : "python3";
}

std::string quoted(const std::string& text) {
  std::string result = "'";
  for (const char c : text) result += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return result + "'";
}

/// One run of the PyTorch side, which says what it measured as JSON.
Json reference_round(const Options& options, const fs::path& folder) {
  const fs::path script = fs::path(__FILE__).parent_path() / "reference_step.py";
  std::string command = fmt::format(
      "{} -W ignore {} --folder {} --permutation {} --width {} --batch {} --steps {} "
      "--threads {} --device {} --epoch_images {}",
      quoted(interpreter(options.python)), quoted(script.string()), quoted(folder.string()),
      fmt::join(permutation(options.work), ","), options.work.width, options.work.batch, options.work.steps,
      at::get_num_threads(), default_device().str(), options.work.epoch_images);
  if (!options.reference.empty()) {
    command += " --reference " + quoted(fs::absolute(from_where_the_user_stands(options.reference)).string());
  }
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen(command.c_str(), "r"), pclose);
  std::string said;
  std::array<char, 4096> part;
  while (pipe && std::fgets(part.data(), part.size(), pipe.get()) != nullptr) said += part.data();
  const std::size_t begin = said.rfind("{\"torch\"");
  Json json = begin == std::string::npos ? Json() : Json::parse(said.substr(begin), nullptr, false);
  if (!json.is_object()) {
    throw Error(
        "refine: the PyTorch side failed; say --python with an interpreter that has PyTorch, the command was "
        "{}",
        command);
  }
  return json;
}

double quantile(std::vector<double> sorted, double share) {
  std::ranges::sort(sorted);
  const double at = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(at);
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (sorted[above] - sorted[below]) * (at - static_cast<double>(below));
}

Json summary(const std::vector<double>& seconds) {
  return {{"n", seconds.size()},
          {"median", quantile(seconds, 0.5)},
          {"quartiles", {quantile(seconds, 0.25), quantile(seconds, 0.75)}}};
}

void run_all(const Options& options) {
  use_device(options.device);
  use_threads(0);
  if (!options.reference.empty() &&
      !file_exists(from_where_the_user_stands(options.reference) / "refine.py")) {
    throw Error("refine: there is no refine.py in {}; say --reference with a checkout of the published code",
                options.reference);
  }
  const benchmarks::Scratch scratch("refine-versus");
  const double loss = write_start(options.work, scratch.path);
  std::map<std::string, Seconds> all;
  double reference_loss = 0;
  std::string torch;
  for (int round = 0; round < options.rounds; ++round) {
    std::cerr << fmt::format("refine: round {} of {}\n", round + 1, options.rounds);
    const Json reference = reference_round(options, scratch.path);
    reference_loss = reference.at("first_loss");
    if (!(std::abs(loss - reference_loss) <= 1e-3)) {
      throw Error("refine: the two sides do not compute the same, their first losses are {} and {}", loss,
                  reference_loss);
    }
    torch = reference.at("torch");
    append(all["reference"], reference.at("seconds").get<Seconds>());
    if (default_device().is_cpu()) {
      nn::allow_winograd(false);
      append(all["plain"], measured(options.work, Precision::float32));
      nn::allow_winograd(true);
    }
    append(all["float32"], measured(options.work, Precision::float32));
    if (nn::has_bfloat16(default_device()))
      append(all["bfloat16"], measured(options.work, Precision::bfloat16));
  }

  Json out = {{"device", default_device().str()},
              {"threads", at::get_num_threads()},
              {"libtorch", TORCH_VERSION},
              {"torch", torch},
              {"reference",
               options.reference.empty() ? "this repository's PyTorch networks" : "the published modules"},
              {"width", options.work.width},
              {"batch", options.work.batch},
              {"epoch_images", options.work.epoch_images},
              {"rounds", options.rounds},
              {"first_loss", {{"refine", loss}, {"reference", reference_loss}}}};
  std::string table = fmt::format(
      "| milliseconds: median [quartiles] | reference | by LibTorch's convolutions | ratio | refine, float32 "
      "| "
      "ratio | refine, bfloat16 | ratio |\n"
      "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n");
  for (const auto& [part, published] : parts) {
    if (!all["reference"].contains(published)) continue;
    table += fmt::format("| {} |", part);
    const Json reference = summary(all["reference"][published]);
    for (const char* side : {"reference", "plain", "float32", "bfloat16"}) {
      if (!all.contains(side)) {
        table += " – | – |";
        continue;
      }
      const Json figures = std::string(side) == "reference" ? reference : summary(all[side][part]);
      out["seconds"][part][side] = figures;
      table += fmt::format(" {:.1f} [{:.1f}–{:.1f}] |", 1e3 * figures["median"].get<double>(),
                           1e3 * figures["quartiles"][0].get<double>(),
                           1e3 * figures["quartiles"][1].get<double>());
      if (std::string(side) == "reference") continue;
      const double ratio = reference["median"].get<double>() / figures["median"].get<double>();
      out["seconds"][part][side]["ratio"] = ratio;
      table += fmt::format(" {:.2f} |", ratio);
    }
    table += "\n";
  }
  std::cout << fmt::format(
      "{}, {} thread(s), LibTorch {}, PyTorch {}; width {}, batches of {}, {} rounds of {} steps\n"
      "loss of the first batch: {:.6f} here, {:.6f} there\n\n{}",
      default_device().str(), at::get_num_threads(), TORCH_VERSION, torch, options.work.width,
      options.work.batch, options.rounds, options.work.steps, loss, reference_loss, table);
  if (!options.json.empty()) {
    const fs::path path = from_where_the_user_stands(options.json);
    write_file(path, out.dump(1) + "\n");
  }
}

}  // namespace
}  // namespace refine::versus

int main(int argc, char** argv) {
  using namespace refine;
  versus::Options options;
  CLI::App app{"Times the published training step in PyTorch and the same step here, in turns.",
               "versus_reference"};
  app.add_option("--width", options.work.width, "of victim and U-Net")
      ->check(CLI::Range(2, 1024))
      ->capture_default_str();
  app.add_option("--batch", options.work.batch, "images of a step")
      ->check(CLI::Range(2, 4096))
      ->capture_default_str();
  app.add_option("--steps", options.work.steps, "of a round")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  app.add_option("--epoch_images", options.work.epoch_images,
                 "of a whole epoch, timed too, of both sides; 0: none")
      ->check(CLI::Range(0, 10'000'000))
      ->capture_default_str();
  app.add_option("--rounds", options.rounds, "in which both sides take their turn")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--reference", options.reference,
                 "a checkout of the published code, whose modules are timed instead");
  app.add_option("--python", options.python,
                 "an interpreter with PyTorch; left out: the project's own, or python3");
  app.add_option("--device", options.device, "auto, cpu, cuda or cuda:N")->capture_default_str();
  app.add_option("--json", options.json, "write the figures there too");
  return benchmarks::run_program(app, argc, argv, [&] { versus::run_all(options); });
}
