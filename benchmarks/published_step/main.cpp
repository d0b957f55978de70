// Compares the training step with that of the authors' code in PyTorch, on the same machine and
// from the same weights.
//
//     bazel run -c opt //benchmarks:versus_reference -- --help

#include <ATen/Parallel.h>
#include <fmt/core.h>
#include <fmt/ranges.h>
#include <torch/version.h>
#include <CLI/CLI.hpp>

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
#include <refine/metrics/quantile.hpp>
#include <refine/nn/autocast.hpp>
#include <refine/nn/conv.hpp>
#include <refine/nn/device.hpp>

#include "benchmarks/program.hpp"
#include "benchmarks/published_step/step.hpp"

namespace refine::versus {
namespace {

namespace fs = std::filesystem;
using benchmarks::user_path;
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

/// Returns the interpreter to run: `specified`, or that of the PyTorch that tools/bazel installed,
/// or python3.
std::string interpreter(const std::string& specified) {
  if (specified.find('/') != std::string::npos) return user_path(specified).string();
  if (!specified.empty()) return specified;
  const fs::path cache = environment_path("XDG_CACHE_HOME");
  const fs::path installed = (cache.empty() ? environment_path("HOME") / ".cache" : cache) / "refine" /
                             ("torch-" TORCH_VERSION) / "bin" / "python";
  return fs::exists(installed) ? installed.string() : "python3";
}

/// Quotes an argument for the shell.
std::string quote(const std::string& text) {
  std::string result = "'";
  for (const char c : text) result += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return result + "'";
}

/// Runs the PyTorch side once.
///
/// \return the JSON object that it prints
Json run_reference(const Options& options, const fs::path& folder) {
  const fs::path script = fs::path(__FILE__).parent_path() / "reference_step.py";
  std::string command = fmt::format(
      "{} -W ignore {} --folder {} --permutation {} --width {} --batch {} --steps {} "
      "--threads {} --device {} --epoch_images {}",
      quote(interpreter(options.python)), quote(script.string()), quote(folder.string()),
      fmt::join(permutation(options.work), ","), options.work.width, options.work.batch, options.work.steps,
      at::get_num_threads(), default_device().str(), options.work.epoch_images);
  if (!options.reference.empty()) {
    command += " --reference " + quote(fs::absolute(user_path(options.reference)).string());
  }
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen(command.c_str(), "r"), pclose);
  std::string output;
  std::array<char, 4096> part;
  while (pipe && std::fgets(part.data(), part.size(), pipe.get()) != nullptr) output += part.data();
  const std::size_t begin = output.rfind("{\"torch\"");
  Json json = begin == std::string::npos ? Json() : Json::parse(output.substr(begin), nullptr, false);
  if (!json.is_object()) {
    throw Error(
        "versus_reference: the PyTorch side failed (command: {}); set --python to an interpreter with PyTorch",
        command);
  }
  return json;
}

Json summary(const std::vector<double>& seconds) {
  const metrics::Quartiles figures = metrics::quartiles(seconds);
  return {{"n", figures.n}, {"median", figures.median}, {"quartiles", {figures.low, figures.high}}};
}

void run_all(const Options& options) {
  use_device(options.device);
  use_threads(0);
  if (!options.reference.empty() && !files::exists(user_path(options.reference) / "refine.py")) {
    throw Error("--reference: no refine.py in {}; set it to a checkout of the authors' code",
                options.reference);
  }
  const benchmarks::Scratch scratch("refine-versus");
  const double loss = write_start(options.work, scratch.path);
  std::map<std::string, Seconds> all;
  double reference_loss = 0;
  std::string torch;
  for (int round = 0; round < options.rounds; ++round) {
    std::cerr << fmt::format("round {} of {}\n", round + 1, options.rounds);
    const Json reference = run_reference(options, scratch.path);
    reference_loss = reference.at("first_loss");
    if (!(std::abs(loss - reference_loss) <= 1e-3)) {
      throw Error(
          "versus_reference: the losses of the first batch must agree within 0.001, got {} here and {} in PyTorch",
          loss, reference_loss);
    }
    torch = reference.at("torch");
    append(all["reference"], reference.at("seconds").get<Seconds>());
    if (default_device().is_cpu()) {
      nn::allow_winograd(false);
      append(all["plain"], measure(options.work, Precision::float32));
      nn::allow_winograd(true);
    }
    append(all["float32"], measure(options.work, Precision::float32));
    if (nn::has_bfloat16(default_device()))
      append(all["bfloat16"], measure(options.work, Precision::bfloat16));
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
      "| milliseconds: median [quartiles] | PyTorch | LibTorch's convolutions | ratio | refine, float32 | ratio | "
      "refine, bfloat16 | ratio |\n"
      "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n");
  for (const auto& [part, reference_part] : parts) {
    if (!all["reference"].contains(reference_part)) continue;
    table += fmt::format("| {} |", part);
    const Json reference = summary(all["reference"][reference_part]);
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
      "loss of the first batch: {:.6f} here, {:.6f} in PyTorch\n\n{}",
      default_device().str(), at::get_num_threads(), TORCH_VERSION, torch, options.work.width,
      options.work.batch, options.rounds, options.work.steps, loss, reference_loss, table);
  if (!options.json.empty()) {
    const fs::path path = user_path(options.json);
    files::write(path, out.dump(1) + "\n");
  }
}

}  // namespace
}  // namespace refine::versus

int main(int argc, char** argv) {
  using namespace refine;
  versus::Options options;
  CLI::App app{
      "Times the training step of the authors' code in PyTorch and the same step of this library, in turns.",
      "versus_reference"};
  app.add_option("--width", options.work.width, "width of victim and U-Net")
      ->check(CLI::Range(2, 1024))
      ->capture_default_str();
  app.add_option("--batch", options.work.batch, "images in a step")
      ->check(CLI::Range(2, 4096))
      ->capture_default_str();
  app.add_option("--steps", options.work.steps, "steps in a round")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  app.add_option("--epoch_images", options.work.epoch_images,
                 "images of a whole epoch that is timed, too, on both sides; 0: none")
      ->check(CLI::Range(0, 10'000'000))
      ->capture_default_str();
  app.add_option("--rounds", options.rounds, "number of rounds; each times both sides")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--reference", options.reference,
                 "a checkout of the authors' code, whose modules are timed instead");
  app.add_option("--python", options.python,
                 "an interpreter with PyTorch (default: the one that tools/bazel installed, or python3)");
  app.add_option("--device", options.device, "auto, cpu, cuda or cuda:N")->capture_default_str();
  app.add_option("--json", options.json, "also write the results to this file");
  return benchmarks::run_program(app, argc, argv, [&] { versus::run_all(options); });
}
