// Measures training by several ranks: speed, traffic, and how much of the exchange of gradients the backward
// pass hides. tools/check_ranks starts it.

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include <refine/backbones/resnet.hpp>
#include <refine/core/error.hpp>
#include <refine/core/text.hpp>
#include <refine/distributed/distributed.hpp>
#include <refine/nn/device.hpp>
#include <refine/nn/torch_random.hpp>
#include <refine/training/detail/ranks.hpp>
#include <refine/training/observers.hpp>
#include <refine/training/train_classifier.hpp>

namespace refine {
namespace {

using Clock = std::chrono::steady_clock;

constexpr Task task{ImageShape{3, 32, 32}, 10};

struct Options {
  int width = 16, batch = 128, steps = 8;
  std::string part = "train", network = "lo", ready;
};

/// Returns the bytes that a network interface has sent.
double sent_bytes(const std::string& name) {
  std::ifstream in("/sys/class/net/" + name + "/statistics/tx_bytes");
  double bytes = 0;
  in >> bytes;
  return bytes;
}

/// Returns the shortest time of a step in seconds.
template <typename Step>
double time_steps(int steps, distributed::C10d& ranks, const Step& step) {
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < steps + 1; ++i) {  // the first one allocates
    distributed::wait_for_all(ranks);
    const auto begin = Clock::now();
    step();
    const std::chrono::duration<double> seconds = Clock::now() - begin;
    if (i > 0) best = std::min(best, seconds.count());
  }
  return best;
}

/// Times the gradient of a ResNet-18 for this rank's rows: without exchange, exchanged after the backward pass,
/// and exchanged during it. BatchNorm takes the rows of each rank, so that nothing else is exchanged.
nlohmann::json measure_overlap(const Options& options, distributed::C10d& ranks) {
  const backbones::ResNet18<task> network{.width = options.width};
  nn::to_channels_last(*network.module);
  network.module->train();
  const std::int64_t rows = distributed::rows_of_rank(options.batch, ranks.rank(), ranks.size()).count;
  const at::Tensor images = at::rand({rows, 3, 32, 32}).contiguous(at::MemoryFormat::ChannelsLast),
                   labels = at::randint(10, {rows}, at::kLong);
  const std::vector<at::Tensor> parameters = network.module->parameters();
  const auto loss = [&] {
    for (at::Tensor parameter : parameters) parameter.mutable_grad().reset();
    return at::cross_entropy_loss(network.forward(images), labels);
  };
  const double alone = time_steps(options.steps, ranks, [&] { loss().backward(); });
  const double after = time_steps(options.steps, ranks, [&] {
    loss().backward();
    const c10::NoGradGuard no_grad;
    std::vector<at::Tensor> flat;
    for (const at::Tensor& parameter : parameters) flat.push_back(parameter.grad().reshape(-1));
    at::Tensor all = at::cat(flat);
    ranks.begin(distributed::Exchange::sum, all, 0).wait();
  });
  std::int64_t bytes = 0;
  for (const at::Tensor& parameter : parameters) bytes += static_cast<std::int64_t>(parameter.nbytes());
  const double sent_before = sent_bytes(options.network);
  refine::detail::GradientExchange exchange(ranks, parameters,
                                            std::vector<std::int64_t>(parameters.size(), -1));
  const double during = time_steps(options.steps, ranks, [&] { exchange.backward(loss()); });
  return {{"gradient_bytes", bytes},
          {"sent_bytes_a_step", (sent_bytes(options.network) - sent_before) / (options.steps + 1)},
          {"step_without_exchange_s", alone},
          {"step_exchange_after_s", after},
          {"step_exchange_during_s", during},
          {"hidden_share", (after - during) / (after - alone)}};
}

/// Trains a ResNet-18, and returns the images per second of the fastest epoch.
nlohmann::json measure_training(const Options& options, distributed::C10d& ranks) {
  const std::int64_t images = std::int64_t{options.batch} * options.steps;
  const data::Dataset set = nn::with_torch_seed(3, [&] {
    data::Dataset random{.images = at::randint(256, {images, 3, 32, 32}, at::kByte),
                         .labels = at::randint(10, {images}, at::kLong),
                         .classes = {}};
    for (char name = 'a'; name < 'k'; ++name) random.classes.emplace_back(1, name);
    return random;
  });
  const ClassifierRecipe recipe{.optimization = {.optimizer = OptimizerKind::sgd,
                                                 .lr = 0.01,
                                                 .batch_size = options.batch,
                                                 .epochs = 4,
                                                 .precision = Precision::float32},
                                .augmentation = {.flip = true, .crop_padding = 4}};
  History history;
  const double sent_before = sent_bytes(options.network);
  train_classifier(backbones::ResNet18<task>{.width = options.width}, set, recipe, ranks, history);
  double fastest = std::numeric_limits<double>::infinity(), before = 0;
  for (const EpochInfo& epoch : history.epochs) {
    fastest = std::min(fastest, epoch.seconds - before);
    before = epoch.seconds;
  }
  return {{"images_per_second", static_cast<double>(images) / fastest},
          {"loss", history.epochs.empty() ? 0 : history.epochs.back().loss},
          {"sent_bytes_a_step", (sent_bytes(options.network) - sent_before) / (4 * options.steps)},
          {"exchanged_bytes_a_step", static_cast<double>(ranks.bytes_exchanged()) / (4 * options.steps)}};
}

int run(const Options& options) {
  use_threads(0);
  keep_freed_memory();
  auto ranks = distributed::C10d::from_environment_or_single();
  if (options.part == "forever") {  // until a rank is lost
    at::Tensor one = at::rand({1});
    for (int i = 0;; ++i) {
      ranks.sum_(one);
      if (i == 0) std::ofstream(fmt::format("{}.{}", options.ready, ranks.rank())) << "ready";
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  }
  const nlohmann::json result =
      options.part == "overlap" ? measure_overlap(options, ranks) : measure_training(options, ranks);
  if (ranks.rank() == 0) std::cout << result.dump() << std::endl;
  distributed::wait_for_all(ranks);
  return 0;
}

}  // namespace
}  // namespace refine

int main(int argc, char** argv) {
  refine::Options options;
  CLI::App app{"Measures training by several ranks; tools/check_ranks starts it.", "ranks_trial"};
  app.add_option("--part", options.part, "train, overlap, or forever until a rank is lost")
      ->check(CLI::IsMember({"train", "overlap", "forever"}));
  app.add_option("--width", options.width, "of the ResNet-18");
  app.add_option("--batch", options.batch, "images a step, of all ranks");
  app.add_option("--steps", options.steps, "steps an epoch");
  app.add_option("--network", options.network, "interface whose sent bytes are counted");
  app.add_option("--ready", options.ready, "with forever: FILE.RANK is written after the first exchange");
  CLI11_PARSE(app, argc, argv);
  try {
    return refine::run(options);
  } catch (const std::exception& error) {
    std::cerr << "error: " << refine::text::printable(error.what()) << '\n';
    return refine::Error::exit_status;
  }
}
