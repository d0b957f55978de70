// refine bench: what answers cost, the victim alone against its defense.

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/core/text.hpp>
#include <refine/defend/bench_file.hpp>
#include <refine/evaluation/detail/peak_memory.hpp>

#include "tools/refine/options.hpp"

namespace refine::cli {
namespace {

using nlohmann::ordered_json;

struct BenchArguments {
  VictimOptions victim;
  EncoderArguments encoder;
  std::string defense, permutation;
  BenchOptions bench;
};

ordered_json json_of(const metrics::Quartiles& figures) {
  return {{"median", figures.median}, {"quartiles", {figures.low, figures.high}}, {"n", figures.n}};
}

ordered_json json_of(const FileCost& cost, const std::string& file) {
  ordered_json answers = ordered_json::array();
  for (const AnswerCost& answer : cost.answers) {
    ordered_json batches = ordered_json::array();
    for (const BatchCost& batch : answer.batches) {
      batches.push_back({{"images", batch.images},
                         {"seconds", json_of(batch.seconds)},
                         {"ratio", json_of(batch.ratio)},
                         {"images_per_second", batch.images_per_second()},
                         {"memory_bytes", batch.memory}});
    }
    answers.push_back(
        {{"answer", answer.answer}, {"multiply_adds", answer.multiply_adds}, {"batches", batches}});
  }
  const ImageShape& image = cost.task.image;
  return {{"file", file},
          {"device", cost.device.str()},
          {"threads", at::get_num_threads()},
          {"image", {image.channels, image.height, image.width}},
          {"classes", cost.task.classes},
          {"answers", answers},
          {"process_memory_bytes", static_cast<std::int64_t>(refine::detail::peak_memory())}};
}

/// Returns a number with three digits: "1.81 G".
std::string with_unit(double number) {
  constexpr const char* units[] = {"", " k", " M", " G", " T"};
  std::size_t unit = 0;
  while (number >= 999.5 && unit + 1 < std::size(units)) number /= 1000, ++unit;
  const int decimals = unit == 0 || number >= 99.95 ? 0 : number >= 9.995 ? 1 : 2;
  return fmt::format("{:.{}f}{}", number, decimals, units[unit]);
}

std::string milliseconds(double seconds) {
  const double ms = 1000 * seconds;
  return fmt::format("{:.{}f}", ms, ms < 10 ? 2 : ms < 100 ? 1 : 0);
}

/// Prints rows in columns as wide as their texts, the first one to the left, the others to the
/// right.
void print_columns(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths(rows.front().size());
  const auto width = [](const std::string& text) {  // in characters: continuation bytes of UTF-8 do not count
    return static_cast<std::size_t>(
        std::ranges::count_if(text, [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
  };
  for (const auto& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], width(row[i]));
  }
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) {
      const std::string padding(widths[i] - width(row[i]), ' ');
      line += i == 0 ? row[i] + padding : "  " + padding + row[i];
    }
    std::cout << line << '\n';
  }
}

void print_text(const FileCost& cost, const std::string& file) {
  std::cout << fmt::format("{}: {}, {} classes; {}, {} thread{}\n\n", text::printable(file), cost.task.image,
                           cost.task.classes, cost.device.str(), at::get_num_threads(),
                           at::get_num_threads() == 1 ? "" : "s");
  std::vector<std::vector<std::string>> rows = {{"answer", "batch", "ms, median [quartiles]", "× victim",
                                                 "images/s", "memory, MB", "multiply-adds/image"}};
  for (std::size_t size = 0; size < cost.answers.front().batches.size(); ++size) {
    for (const AnswerCost& answer : cost.answers) {
      const BatchCost& batch = answer.batches[size];
      rows.push_back({answer.answer, std::to_string(batch.images),
                      fmt::format("{} [{}–{}]", milliseconds(batch.seconds.median),
                                  milliseconds(batch.seconds.low), milliseconds(batch.seconds.high)),
                      fmt::format("{:.2f}", batch.ratio.median), with_unit(batch.images_per_second()),
                      fmt::format("{:.1f}", static_cast<double>(batch.memory) / 1e6),
                      with_unit(static_cast<double>(answer.multiply_adds))});
    }
  }
  print_columns(rows);
  std::string rounds;
  for (const BatchCost& batch : cost.answers.front().batches)
    rounds += fmt::format("{}{}", rounds.empty() ? "" : " and ", batch.seconds.n);
  std::cout << fmt::format(
      "\n{} rounds, in each of which the answers took turns; memory without weights; the process took {:.0f} MB\n",
      rounds, refine::detail::peak_memory() / 1e6);
}

int run(const BenchArguments& options, const Common& common) {
  begin(common, {.files = {{"bench", options.victim.model},
                           {"--defense", options.defense},
                           {"--encoder", options.encoder.file},
                           {"--permutation", options.permutation},
                           {"--class_names", options.victim.class_names}}});
  const EncoderOptions encoder = options.encoder.options();
  if (options.defense.empty() && (!encoder.file.empty() || !options.permutation.empty())) {
    throw Error("{} is for --defense, weights of a defense; leave it out",
                encoder.file.empty() ? "--permutation" : "--encoder");
  }
  BenchFileOptions bench{.parts = {.victim = options.victim.load_options(),
                                   .permutation = options.permutation,
                                   .encoder = encoder,
                                   .answer = Answer::defended},
                         .defense = options.defense,
                         .bench = options.bench};
  bench.bench.show = true;
  const FileCost cost = bench_file(options.victim.model, bench);
  if (common.json) {
    print(json_of(cost, options.victim.model));
  } else {
    print_text(cost, options.victim.model);
  }
  return done;
}

}  // namespace

void add_bench(CLI::App& app, Common& common) {
  auto* command = app.add_subcommand(
      "bench", "time, memory and multiply-adds of a victim's answers and of the defended ones");
  const auto options = std::make_shared<BenchArguments>();
  command
      ->add_option("file", options->victim.model,
                   "a defended file (.pt2 or TorchScript), or a classifier as for refine defend")
      ->required();
  command
      ->add_option("--batch_size", options->bench.batch_size,
                   "images of the larger batch; a single image is measured, too")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  command
      ->add_option("--seconds", options->bench.seconds,
                   "about how long to measure; each answer is asked five times at least")
      ->check(number(0, /*above=*/true))
      ->capture_default_str();
  command->add_option("--defense", options->defense,
                      "weights that refine defend saved (.safetensors), for a classifier's file");
  options->encoder.add_to(*command);
  command->add_option("--permutation", options->permutation, "label_shuffle.pth of the authors' code");
  options->victim.add_to(*command);
  command->footer(
      "Victim, defended and gated answer take turns, so that ratios (× victim) come from one run. Times are from images "
      "on the device to logits on the host.");
  run_when_chosen(*command, common, options, run);
}

}  // namespace refine::cli
