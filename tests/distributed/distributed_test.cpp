// Training by several processes. Ranks are this program, started again with REFINE_TEST_CASES.

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/dropout.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/modules/pooling.h>
#include <unistd.h>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <refine/backbones/resnet.hpp>
#include <refine/backbones/vit.hpp>
#include <refine/core/error.hpp>
#include <refine/distributed/distributed.hpp>
#include <refine/evaluation/alarm.hpp>
#include <refine/nn/shared_batch.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/remaps/permutations.hpp>
#include <refine/training/checkpoint.hpp>
#include <refine/training/fit.hpp>
#include <refine/training/train_classifier.hpp>
#include <refine/transforms/encoded.hpp>
#include <refine/transforms/unet.hpp>
#include "tests/support/error_of.hpp"
#include "tests/support/scratch_folder.hpp"

namespace refine {
namespace {

using refine::testing::expect_words;

constexpr Task ranks_task{ImageShape{3, 8, 8}, 4};

/// What a rank of a case has computed.
using Values = std::vector<double>;

void append(Values& values, const at::Tensor& tensor) {
  const at::Tensor flat = tensor.detach().to(at::kDouble).contiguous().view(-1);
  values.insert(values.end(), flat.const_data_ptr<double>(), flat.const_data_ptr<double>() + flat.numel());
}

Values values_of(const torch::nn::Module& module) {
  Values values;
  for (const auto& [name, tensor] : nn::state_dict(module)) {
    if (tensor.is_floating_point()) append(values, tensor);
  }
  return values;
}

/// 46 images of four classes, so that the last of four batches of 12 has 10.
data::Dataset ranks_data() {
  return nn::with_torch_seed(3, [] {
    const at::Tensor labels = at::randint(4, {46}, at::kLong);
    at::Tensor images = at::randint(100, {46, 3, 8, 8}, at::kByte);
    images.add_((labels * 50).to(at::kByte).view({-1, 1, 1, 1}));
    return data::Dataset{.images = images, .labels = labels, .classes = {"a", "b", "c", "d"}};
  });
}

/// Two convolutions with BatchNorm, deep enough for the gradient to pass through one, and two dropouts: the
/// library's, and LibTorch's.
struct SmallNetwork {
  Task task = ranks_task;
  double dropout = 0.2, torch_dropout = 0;
  std::shared_ptr<torch::nn::SequentialImpl> module = make(dropout, torch_dropout);

  static std::shared_ptr<torch::nn::SequentialImpl> make(double dropout, double torch_dropout) {
    return nn::with_torch_seed(4, [&] {
      return torch::nn::Sequential(
                 torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 6, 3).padding(1)), torch::nn::BatchNorm2d(6),
                 torch::nn::Conv2d(torch::nn::Conv2dOptions(6, 8, 3).stride(2)), torch::nn::BatchNorm2d(8),
                 nn::Dropout(dropout), torch::nn::Linear(8, 4), torch::nn::Dropout(torch_dropout))
          .ptr();
    });
  }

  at::Tensor forward(const at::Tensor& images) const {
    const auto convolution = [&](std::size_t i) { return module->ptr(i)->as<torch::nn::Conv2dImpl>(); };
    const auto norm = [&](std::size_t i) { return module->ptr(i)->as<torch::nn::BatchNorm2dImpl>(); };
    at::Tensor x = nn::batch_norm(*norm(1), convolution(0)->forward(images)).relu_();
    x = nn::batch_norm(*norm(3), convolution(2)->forward(x)).relu_().mean({2, 3});
    x = module->ptr(5)->as<torch::nn::LinearImpl>()->forward(
        module->ptr(4)->as<nn::DropoutImpl>()->forward(x));
    return module->ptr(6)->as<torch::nn::DropoutImpl>()->forward(x);
  }
};

constexpr data::Augmentation all_changes{.flip = true,
                                         .crop_padding = 1,
                                         .resized_crop_min_scale = 0.8,
                                         .grayscale = 0.2,
                                         .rotation = 10,
                                         .translate = 0.1,
                                         .brightness = 0.1};

ClassifierRecipe classifier_recipe(int batch, int epochs) {
  return {.optimization = {.optimizer = OptimizerKind::sgd,
                           .lr = 0.01,
                           .batch_size = batch,
                           .epochs = epochs,
                           .precision = Precision::float32},
          .augmentation = all_changes};
}

Recipe defense_recipe(TeacherInput teacher) {
  Recipe recipe{.objective = ObjectiveKind::distillation,
                .teacher = teacher,
                .head_weight = 0.5,
                .supcon_weight = 0.1,
                .optimization = {.optimizer = OptimizerKind::muon,
                                 .lr = 0.001,
                                 .adam_lr = 0.0005,
                                 .batch_size = 12,
                                 .epochs = 2,
                                 .precision = Precision::float32},
                .augmentation = all_changes};
  recipe.augmentation.mix = 0.5;
  return recipe;
}

/// Flattened pixels as features.
struct Pixels {
  ImageShape image = ranks_task.image;
  int features = 3 * 8 * 8;
  std::shared_ptr<torch::nn::Module> module = std::make_shared<torch::nn::Module>("Pixels");

  at::Tensor forward(const at::Tensor& images) const { return images.flatten(1); }
};

/// Takes 20 steps of plain SGD in float64, with all augmentation. The library's optimizers are for float32.
template <typename Network, typename Ranks>
Values train_in_float64(const Network& network, Ranks& ranks) {
  torch::nn::Module& module = *network.module;
  module.to(at::kDouble);
  module.train();
  data::Augmentation augmentation = all_changes;
  augmentation.mix = 0.5;
  const data::Dataset set = ranks_data();
  const std::vector<at::Tensor> parameters = module.parameters();
  refine::detail::GradientExchange exchange(ranks, parameters,
                                            std::vector<std::int64_t>(parameters.size(), -1));
  std::optional<nn::ScopedSharedBatch> shared;
  if (ranks.size() > 1) shared.emplace([&](const at::Tensor& row) { return distributed::stack(ranks, row); });
  nn::ScopedTorchSeed dropout_seed{at::Device(at::kCPU)};
  for (std::int64_t step = 0; step < 20; ++step) {
    const std::int64_t first = step % 4 * 12, total = std::min<std::int64_t>(12, set.size() - first);
    const auto own = distributed::rows_of_rank(total, ranks.rank(), ranks.size());
    if (shared) shared->set_rows(own.first, own.count, total);
    // With the image before the first one, which is mixed with it.
    const at::Tensor rows = at::arange(own.first - 1, own.first + own.count).remainder(total);
    const at::Tensor places = rows + first;
    const at::Tensor x = data::augment(set.images.index_select(0, places).to(at::kDouble) / 255, augmentation,
                                       static_cast<std::uint64_t>(step), {.total = total, .positions = rows})
                             .narrow(0, 1, own.count)
                             .contiguous(at::MemoryFormat::ChannelsLast);
    dropout_seed.seed(static_cast<std::uint64_t>(step));
    const at::Tensor loss = at::cross_entropy_loss(
        network.forward(x), set.labels.index_select(0, places).narrow(0, 1, own.count));
    for (at::Tensor parameter : parameters) parameter.mutable_grad().reset();
    exchange.backward(loss * (static_cast<double>(own.count) / static_cast<double>(total)));
    const c10::NoGradGuard no_grad;
    for (at::Tensor parameter : parameters)
      if (parameter.grad().defined()) parameter.sub_(0.05 * parameter.grad());
  }
  return values_of(module);
}

/// Takes one step of SGD over all images, in which BatchNorm takes the statistics of each rank.
/// \return the parameters, with `buffers` also the statistics
template <typename Ranks>
Values train_with_own_norms(Ranks& ranks, bool buffers = false) {
  const data::Dataset set = ranks_data();
  const SmallNetwork network{.dropout = 0};
  ClassifierRecipe recipe{
      .optimization = {
          .lr = 0.1, .momentum = 0, .weight_decay = 0, .batch_size = 46, .sync_batch_norm = false}};
  train_classifier(network, set, recipe, ranks);
  if (buffers) return values_of(*network.module);
  Values values;
  for (const at::Tensor& parameter : network.module->parameters()) append(values, parameter);
  return values;
}

/// Returns what `train_with_own_norms` returns for two ranks, computed in one process.
Values expected_with_own_norms() {
  const data::Dataset set = ranks_data();
  const SmallNetwork network{.dropout = 0};
  network.module->train();
  const at::Tensor order =
      (set.images | data::views::shuffled(derived_seed(default_seed, "order"), 0)).indices(0, 46);
  at::Tensor loss = at::zeros({});
  for (const at::Tensor& half : order.chunk(2)) {
    const at::Tensor x = data::to_float(set.images.index_select(0, half), at::kCPU);
    loss = loss + at::cross_entropy_loss(network.forward(x), set.labels.index_select(0, half)) / 2;
  }
  loss.backward();
  const c10::NoGradGuard no_grad;
  Values values;
  for (at::Tensor parameter : network.module->parameters()) {
    if (parameter.grad().defined()) parameter.sub_(0.1 * parameter.grad());
    append(values, parameter);
  }
  return values;
}

/// Collects notes.
struct NoteList {
  std::string text = {};
  void on_note(std::string_view line) { text += std::string(line) + "\n"; }
};

/// Requests to stop after some steps.
struct StopAfter {
  int steps;
  bool stop_requested() { return --steps <= 0; }
};

auto make_defense() {
  return Pipeline{transforms::UNet<ranks_task>{.levels = 2, .width = 4},
                  freeze(backbones::ResNet18<ranks_task>{.width = 4}), remaps::Derangement<ranks_task>{}};
}

auto make_encoded_defense() {
  return Pipeline{transforms::Encoded<Pixels>{.image = ranks_task.image,
                                              .encoder = Pixels{},
                                              .decoder = {.features = Pixels{}.features,
                                                          .image = {3, 6, 6},
                                                          .bottleneck = 6,
                                                          .width = 8,
                                                          .seed = 5}},
                  freeze(backbones::ResNet18<ranks_task>{.width = 4}), remaps::Derangement<ranks_task>{}};
}

/// A network whose BatchNorm is called as LibTorch's users do, not by `nn::batch_norm`.
struct PlainNorm {
  Task task = ranks_task;
  std::shared_ptr<torch::nn::SequentialImpl> module = nn::with_torch_seed(4, [] {
    return torch::nn::Sequential(torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 4, 3)),
                                 torch::nn::BatchNorm2d(4), torch::nn::AdaptiveAvgPool2d(1),
                                 torch::nn::Flatten(), torch::nn::Linear(4, 4))
        .ptr();
  });

  at::Tensor forward(const at::Tensor& images) const { return module->forward(images); }
};

/// Trains as one process of `ranks`, and returns weights and, on rank 0, losses.
template <typename Ranks>
Values run_case(std::string_view name, Ranks& ranks) {
  History history;
  const auto with_losses = [&](Values values) {
    EXPECT_EQ(history.epochs.empty(), ranks.rank() > 0);
    for (const EpochInfo& epoch : history.epochs) {
      values.push_back(epoch.loss);
      values.push_back(epoch.accuracy);
    }
    return values;
  };
  // One step of plain SGD: the change is the gradient times the rate.
  const auto change_of = [&](const auto& network) {
    const Values before = values_of(*network.module);
    ClassifierRecipe recipe = classifier_recipe(46, 1);
    recipe.optimization.momentum = 0;
    recipe.optimization.weight_decay = 0;
    train_classifier(network, ranks_data(), recipe, ranks);
    Values change = values_of(*network.module);
    for (std::size_t i = 0; i < change.size(); ++i) change[i] -= before[i];
    return change;
  };
  if (name == "gradient") return change_of(SmallNetwork{});
  if (name == "rank_norm" || name == "rank_buffers")
    return train_with_own_norms(ranks, /*buffers=*/name == "rank_buffers");
  if (name == "small") {
    const auto trained =
        train_classifier(SmallNetwork{}, ranks_data(), classifier_recipe(12, 5), ranks, history);
    return with_losses(values_of(*trained.module));
  }
  const backbones::ResNet18<ranks_task> start{.width = 4};
  if (name == "small_float64") return train_in_float64(SmallNetwork{}, ranks);
  // Not in float32, where rounding switches one of its ReLUs (docs/lab/ranks.md).
  if (name == "resnet_float64") return train_in_float64(start, ranks);
  if (name == "vit_gradient")
    return change_of(backbones::ViT<ranks_task>{.patch = 4, .width = 8, .depth = 1, .heads = 2});
  if (name == "evaluation") {
    const auto defense = make_defense();
    const at::Tensor images = nn::with_torch_seed(9, [] {
      return at::randint(256, {1000, 3, 8, 8}, at::kByte);
    });
    const distributed::ScopedRanks scope(ranks);
    return alarm_scores(defense, images);
  }
  if (name == "encoded") {
    auto defense = make_encoded_defense();
    Recipe recipe = defense_recipe(TeacherInput::original);
    recipe.augmentation = {.mix = 0.5};
    fit(defense, ranks_data().images, recipe, ranks, history);
    return with_losses(values_of(*defense.transform().trained_module()));
  }
  auto defense = make_defense();
  const auto teacher = name == "original" ? TeacherInput::original : TeacherInput::augmented;
  Recipe recipe = defense_recipe(teacher);
  recipe.head_weight = 0;
  fit(defense, ranks_data().images, recipe, ranks, history);
  return with_losses(values_of(*defense.transform().module));
}

const std::vector<std::string> norm_cases = {"norm", "norm_last", "norm_float"};
/// Of 2 and of 4 ranks; those that only 2 compute.
const std::vector<std::string> training_cases = {"gradient", "small", "small_float64", "evaluation"},
                               cases_of_two = {"resnet_float64", "vit_gradient", "original", "augmented",
                                               "encoded"};

/// Returns a port that is free now.
int free_port() {
  const int s = ::socket(AF_INET, SOCK_STREAM, 0);
  ::sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ::bind(s, reinterpret_cast<::sockaddr*>(&address), sizeof address);
  ::socklen_t size = sizeof address;
  ::getsockname(s, reinterpret_cast<::sockaddr*>(&address), &size);
  ::close(s);
  return ntohs(address.sin_port);
}

/// How `Processes` are started.
struct Start {
  int store_port = 0;  ///< of a store that this process serves, as torchrun does; 0: rank 0 serves one
  std::vector<std::string> restarts = {};  ///< of each rank, what torchrun on its machine has counted
};

/// The ranks of some cases.
struct Processes {
  testing::ScratchFolder folder;
  std::vector<::pid_t> pids;

  Processes(const std::string& cases, int size, const Start& start = {}) {
    const std::string program = std::filesystem::read_symlink("/proc/self/exe");
    const int port = start.store_port > 0 ? start.store_port : free_port();
    for (int rank = 0; rank < size; ++rank) {
      const ::pid_t pid = ::fork();
      if (pid == 0) {
        const auto set = [](const char* key, const std::string& value) { ::setenv(key, value.c_str(), 1); };
        set("REFINE_TEST_CASES", cases);
        set("REFINE_TEST_OUT", folder.path.string());
        set("RANK", std::to_string(rank));
        set("WORLD_SIZE", std::to_string(size));
        set("MASTER_ADDR", "127.0.0.1");
        set("MASTER_PORT", std::to_string(port));
        set("OMP_NUM_THREADS", "1");
        for (const char* key : {"XML_OUTPUT_FILE", "TEST_PREMATURE_EXIT_FILE", "TEST_SHARD_STATUS_FILE",
                                "GTEST_OUTPUT", "TORCHELASTIC_USE_AGENT_STORE", "GTEST_TOTAL_SHARDS"})
          ::unsetenv(key);
        if (start.store_port > 0) set("TORCHELASTIC_USE_AGENT_STORE", "True");
        if (!start.restarts.empty())
          set("TORCHELASTIC_RESTART_COUNT", start.restarts[static_cast<std::size_t>(rank)]);
        ::execl(program.c_str(), program.c_str(), "--gtest_filter=Rank.DISABLED_RunsCases",
                "--gtest_also_run_disabled_tests", "--gtest_brief=1", nullptr);
        ::_exit(127);
      }
      pids.push_back(pid);
    }
  }

  std::filesystem::path file(std::string_view name, int rank) const {
    return folder.path / (std::string(name) + "." + std::to_string(rank));
  }

  /// Waits for all ranks, but `except`. What they expect is expected here.
  void wait(int except = -1) {
    for (int rank = 0; rank < static_cast<int>(pids.size()); ++rank) {
      if (rank == except) continue;
      int status = 0;
      ::waitpid(pids[static_cast<std::size_t>(rank)], &status, 0);
      EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0)
          << "rank " << rank << " ended with wait status " << status;
    }
  }

  /// Ends all ranks, as torchrun does after a failure.
  void kill() {
    for (const ::pid_t pid : pids) {
      ::kill(pid, SIGKILL);
      ::waitpid(pid, nullptr, 0);
    }
  }

  /// Waits until the ranks of the case "lost" have met.
  void wait_until_ready() const {
    for (int rank = 0; rank < static_cast<int>(pids.size()); ++rank) {
      while (!std::filesystem::exists(file("ready", rank)))
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  }

  Values values(std::string_view name, int rank) const {
    std::ifstream in(file(name, rank), std::ios::binary);
    Values values;
    for (double value; in.read(reinterpret_cast<char*>(&value), sizeof value);) values.push_back(value);
    return values;
  }

  /// Returns the line of the `Error` that ended a case; empty if none did.
  std::string error(std::string_view name, int rank) const {
    const auto path = file(std::string(name) + ".error", rank);
    return std::filesystem::exists(path) ? testing::content(path) : "";
  }
};

/// Backward and forward pass of a BatchNorm, over the rows of a rank.
struct NormCase {
  at::Tensor x, weights;
  torch::nn::BatchNorm2d norm{3};

  explicit NormCase(bool channels_last, at::ScalarType type) {
    const auto format = channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
    nn::with_torch_seed(5, [&] {
      // Rows of other means, so that statistics of parts differ from those of the whole.
      x = (at::randn({7, 3, 4, 4}, type) + 10 * at::randn({7, 1, 1, 1}, type)).contiguous(format);
      weights = at::randn({7, 3, 4, 4}, type).contiguous(format);
      norm->to(type);
      norm->weight.data().copy_(at::randn({3}, type));
      return 0;
    });
  }

  /// Returns the gradients of a loss and the running statistics. `sum_` is called on what is a sum over
  /// the rows.
  template <typename Forward, typename Sum>
  Values run(const distributed::RowRange& own, const Forward& forward, const Sum& sum_) {
    const auto rows = [&](const at::Tensor& t) { return t.narrow(0, own.first, own.count); };
    at::Tensor part = rows(x).clone().requires_grad_();
    const at::Tensor y = forward(part);
    (y * rows(weights)).square().sum().backward();
    at::Tensor sums = at::zeros({2 * x.numel() + 6}, x.options());
    const at::Tensor outputs = sums.narrow(0, 0, x.numel()).view(x.sizes());
    const at::Tensor gradients = sums.narrow(0, x.numel(), x.numel()).view(x.sizes());
    rows(outputs).copy_(y.detach());
    rows(gradients).copy_(part.grad());
    sums.narrow(0, 2 * x.numel(), 3).copy_(norm->weight.grad());
    sums.narrow(0, 2 * x.numel() + 3, 3).copy_(norm->bias.grad());
    sum_(sums);
    Values values;
    for (const at::Tensor& t : {sums, norm->running_mean, norm->running_var, norm->num_batches_tracked})
      append(values, t);
    return values;
  }

  Values expected() {
    return run(
        {0, 7}, [&](const at::Tensor& part) { return norm->forward(part); }, [](at::Tensor&) {});
  }
};

NormCase norm_case(std::string_view name) {
  return NormCase(name == "norm_last", name == "norm_float" ? at::kFloat : at::kDouble);
}

// The cases of a rank, started by `Processes`.
TEST(Rank, DISABLED_RunsCases) {
  const char* const cases = std::getenv("REFINE_TEST_CASES");
  if (cases == nullptr) GTEST_SKIP() << "started by the other tests";
  const std::filesystem::path out = std::getenv("REFINE_TEST_OUT");
  use_threads(1);
  auto ranks = distributed::C10d::from_environment(
      {.silence = std::chrono::seconds(std::string_view(cases) == "lost" ? 4 : 30)});
  const auto file = [&out, rank = ranks.rank()](const std::string& name) {
    return out / (name + "." + std::to_string(rank));
  };
  const auto first = ranks_data();
  std::istringstream names(cases);
  for (std::string name; names >> name;) {
    Values values;
    const std::string error = testing::error_of([&] {
      if (name == "lost") {
        std::ofstream(file("ready")) << "ready";
        for (;;) {
          at::Tensor one = at::ones({1});
          ranks.sum_(one);
          std::this_thread::sleep_for(std::chrono::milliseconds(20));
        }
      } else if (name.starts_with("norm")) {
        NormCase norm = norm_case(name);
        const nn::ScopedSharedBatch sync(
            [&](const at::Tensor& row) { return distributed::stack(ranks, row); });
        values = norm.run(
            distributed::rows_of_rank(7, ranks.rank(), ranks.size()),
            [&](const at::Tensor& part) { return nn::batch_norm(*norm.norm, part); },
            [&](at::Tensor& t) { ranks.sum_(t); });
      } else if (name == "other_recipe") {
        train_classifier(SmallNetwork{}, first, classifier_recipe(12 + static_cast<int>(ranks.rank()), 1),
                         ranks);
      } else if (name == "other_data") {
        data::Dataset other = ranks_data();
        if (ranks.rank() == 1) other.images[0].bitwise_xor_(1);
        train_classifier(SmallNetwork{}, other, classifier_recipe(12, 1), ranks);
      } else if (name == "other_victim") {
        const std::uint64_t seed = static_cast<std::uint64_t>(ranks.rank());
        Pipeline defense{transforms::UNet<ranks_task>{.levels = 2, .width = 4},
                         freeze(backbones::ResNet18<ranks_task>{.width = 4, .seed = seed}),
                         remaps::Derangement<ranks_task>{}};
        Recipe recipe = defense_recipe(TeacherInput::augmented);
        recipe.head_weight = 0;
        fit(defense, first.images, recipe, ranks);
      } else if (name == "dropout") {
        train_classifier(SmallNetwork{.torch_dropout = 0.5}, first, classifier_recipe(12, 1), ranks);
      } else if (name == "few_images") {
        train_classifier(SmallNetwork{}, first, classifier_recipe(44, 1), ranks);
      } else if (name == "resumed") {
        Recipe recipe = defense_recipe(TeacherInput::original);
        recipe.head_weight = 0;
        const Checkpoint checkpoint{.path = out / "checkpoints", .resume = true};
        auto stopped = make_defense();
        const std::string reason = testing::error_of([&] {
          fit(stopped, first.images, recipe, ranks, checkpoint, StopAfter{ranks.rank() == 1 ? 5 : 99});
        });
        expect_words(reason, {"after step 5 of 8"});
        auto defense = make_defense();
        History history;
        fit(defense, first.images, recipe, ranks, checkpoint, history);
        values = values_of(*defense.transform().module);
        for (const EpochInfo& epoch : history.epochs) {
          values.push_back(epoch.loss);
          values.push_back(epoch.accuracy);
        }
      } else if (name == "stopped") {
        Recipe recipe = defense_recipe(TeacherInput::original);
        recipe.head_weight = 0;
        auto defense = make_defense();
        fit(defense, first.images, recipe, ranks, Checkpoint{.path = out / "checkpoints"}, StopAfter{6});
      } else if (name == "own_norms_resumed") {
        const Checkpoint checkpoint{.path = out / "own norms", .resume = true};
        ClassifierRecipe recipe = classifier_recipe(12, 1);
        recipe.optimization.sync_batch_norm = false;
        train_classifier(SmallNetwork{}, first, recipe, ranks, checkpoint, StopAfter{2});
      } else if (name == "stopped_encoding") {
        auto defense = make_encoded_defense();
        Recipe recipe = defense_recipe(TeacherInput::original);
        recipe.augmentation = {};
        fit(defense, first.images, recipe, ranks, StopAfter{ranks.rank() == 1 ? 1 : 99});
      } else if (name == "other_count") {
        auto defense = make_encoded_defense();
        Recipe recipe = defense_recipe(TeacherInput::original);
        recipe.augmentation = {};
        fit(defense, first.images.narrow(0, 0, 46 - ranks.rank()), recipe, ranks);
      } else if (name == "own_buffers") {
        // A BatchNorm that does not know of the other ranks.
        const PlainNorm network;
        train_classifier(network, first, classifier_recipe(12, 1), ranks);
        values = values_of(*network.module);
      } else if (name == "restarted") {
        values = {static_cast<double>(ranks.restarts())};
        train_classifier(SmallNetwork{}, first, classifier_recipe(12, 1), ranks);
      } else if (name == "destroyed") {
        at::Tensor numbers = at::ones({1 << 20}) * (ranks.rank() + 1);
        distributed::Pending pending = ranks.begin(distributed::Exchange::sum, numbers, 0);
        ranks = distributed::C10d();
        pending.wait();
        values = {numbers.min().item<double>(), numbers.max().item<double>()};
      } else if (name == "traffic") {
        const std::int64_t before = ranks.bytes_exchanged();
        train_classifier(SmallNetwork{}, first, classifier_recipe(12, 5), ranks);
        values = {static_cast<double>(ranks.bytes_exchanged() - before)};
      } else {
        values = run_case(name, ranks);
      }
    });
    if (!error.empty()) std::ofstream(file(name + ".error")) << error;
    std::ofstream(file(name), std::ios::binary)
        .write(reinterpret_cast<const char*>(values.data()),
               static_cast<std::streamsize>(values.size() * sizeof(double)));
  }
}

/// Returns the largest difference, as a share of the largest value.
double difference(const Values& a, const Values& b) {
  if (a.size() != b.size() || a.empty()) return 1e9;
  double largest = 0, scale = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    largest = std::max(largest, std::abs(a[i] - b[i]));
    scale = std::max(scale, std::abs(a[i]));
  }
  return largest / scale;
}

/// Runs all cases by 2 and by 4 ranks, once.
class SeveralRanks : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (!distributed::C10d::is_available()) return;
    std::string cases;
    for (const std::string& name : training_cases) cases += name + " ";
    for (const std::string& name : norm_cases) cases += name + " ";
    std::string of_two = cases;
    for (const std::string& name : cases_of_two) of_two += name + " ";
    two = std::make_unique<Processes>(
        of_two +
            "rank_norm rank_buffers resumed own_norms_resumed stopped_encoding other_count own_buffers "
            "other_recipe other_data other_victim dropout traffic",
        2);
    two->wait();
    four = std::make_unique<Processes>(cases + "few_images", 4);
    four->wait();
  }

  static void TearDownTestSuite() {
    two.reset();
    four.reset();
  }

  void SetUp() override {
    if (!distributed::C10d::is_available())
      GTEST_SKIP() << "compiled without Gloo's headers (Debian: libgloo-dev)";
  }

  /// Compares the ranks with one process and with each other.
  static void expect_equal(const std::string& name, const Values& expected, double tolerance,
                           const std::vector<const Processes*>& of) {
    for (const Processes* processes : of) {
      const int size = static_cast<int>(processes->pids.size());
      const Values first = processes->values(name, 0);
      const double distance = difference(expected, first);
      RecordProperty(name + "_" + std::to_string(size), fmt::format("{:.1e}", distance));
      EXPECT_LE(distance, tolerance) << name << ", " << size << " ranks";
      for (int rank = 0; rank < size; ++rank) {
        EXPECT_EQ(processes->error(name, rank), "");
        const Values its = processes->values(name, rank);
        // Rank 0 has losses at the end; the weights are the same to the last bit.
        EXPECT_TRUE(!its.empty() && its.size() <= first.size() &&
                    std::equal(its.begin(), its.end(), first.begin()))
            << name << ": rank " << rank << " of " << size;
      }
    }
  }

  static inline std::unique_ptr<Processes> two, four;
};

TEST_F(SeveralRanks, BatchNorm_EqualsLibTorchOnTheWholeBatch) {
  use_threads(1);
  for (const std::string& name : norm_cases)
    expect_equal(name, norm_case(name).expected(), name == "norm_float" ? 1e-6 : 1e-14,
                 {two.get(), four.get()});
}

TEST_F(SeveralRanks, Training_EqualsOneProcess) {
  use_threads(1);
  distributed::Serial one;
  const auto tolerance = [](const std::string& name) {
    return name == "evaluation"         ? 0
           : name.ends_with("float64")  ? 1e-8
           : name.ends_with("gradient") ? 1e-5
                                        : 1e-3;
  };
  for (const std::string& name : training_cases)
    expect_equal(name, run_case(name, one), tolerance(name), {two.get(), four.get()});
  for (const std::string& name : cases_of_two)
    expect_equal(name, run_case(name, one), tolerance(name), {two.get()});
}

TEST_F(SeveralRanks, WithoutSyncBatchNorm_EachRankNormalizesItsImages) {
  use_threads(1);
  expect_equal("rank_norm", expected_with_own_norms(), 1e-5, {two.get()});
  distributed::Serial one;
  EXPECT_GT(difference(run_case("rank_norm", one), two->values("rank_norm", 0)), 1e-4);
  // The statistics are those of rank 0.
  EXPECT_EQ(two->values("rank_buffers", 0), two->values("rank_buffers", 1));
}

TEST_F(SeveralRanks, Checkpoint_ResumedRun_EqualsUninterruptedBitForBit) {
  for (int rank = 0; rank < 2; ++rank) {
    EXPECT_EQ(two->error("resumed", rank), "");
    // Rank 0 has losses at the end, of both epochs: the run was stopped within the second.
    EXPECT_FALSE(two->values("resumed", rank).empty());
    EXPECT_EQ(two->values("resumed", rank), two->values("original", rank));
  }
  EXPECT_EQ(two->values("resumed", 0).size(), two->values("resumed", 1).size() + 4);
}

// The sums of an epoch, too, are those of all ranks.
TEST_F(SeveralRanks, Checkpoint_ResumedByOneProcess_HasTheFiguresOfAll) {
  use_threads(1);
  Processes of_two("stopped", 2);
  of_two.wait();
  for (int rank = 0; rank < 2; ++rank) expect_words(of_two.error("stopped", rank), {"after step 6 of 8"});
  Recipe recipe = defense_recipe(TeacherInput::original);
  recipe.head_weight = 0;
  const auto train = [&](auto&&... observers) {
    auto defense = make_defense();
    History history;
    fit(defense, ranks_data().images, recipe, history, observers...);
    return history.epochs;
  };
  NoteList notes;
  const auto whole = train();
  const auto resumed = train(Checkpoint{.path = of_two.folder.path / "checkpoints", .resume = true}, notes);
  ASSERT_EQ(resumed.size(), whole.size());
  for (std::size_t i = 0; i < whole.size(); ++i) {
    EXPECT_NEAR(resumed[i].loss, whole[i].loss, 1e-3 * whole[i].loss);
    EXPECT_NEAR(resumed[i].accuracy, whole[i].accuracy, 0.05);
  }
  expect_words(notes.text, {"ranks: 1, when the checkpoint was written: 2"});
}

TEST_F(SeveralRanks, Checkpoint_StatisticsOfEachRank_AreNotResumedByOneProcess) {
  use_threads(1);
  for (int rank = 0; rank < 2; ++rank)
    expect_words(two->error("own_norms_resumed", rank), {"after step 2 of 4"});
  ClassifierRecipe recipe = classifier_recipe(12, 1);
  recipe.optimization.sync_batch_norm = false;
  const Checkpoint checkpoint{.path = two->folder.path / "own norms", .resume = true};
  expect_words(testing::error_of([&] { train_classifier(SmallNetwork{}, ranks_data(), recipe, checkpoint); }),
               {"statistics of BatchNorm", "those of the batch", "each of 2 ranks", "start as many ranks"});
}

TEST_F(SeveralRanks, StopWhileEncoding_StopsAllRanks) {
  for (int rank = 0; rank < 2; ++rank) expect_words(two->error("stopped_encoding", rank), {"ended"});
}

TEST_F(SeveralRanks, BatchNormOfTheCaller_IsThatOfRank0OnAllRanks) {
  EXPECT_FALSE(two->values("own_buffers", 0).empty());
  EXPECT_EQ(two->values("own_buffers", 0), two->values("own_buffers", 1));
}

// torchrun keeps its store when it starts the ranks again, and counts only the failures on its machine.
TEST_F(SeveralRanks, StartedAgain_MeetInTheSameStore) {
  c10d::TCPStoreOptions options;
  options.isServer = true;
  options.waitWorkers = false;
  options.port = 0;
  const auto store = c10::make_intrusive<c10d::TCPStore>("127.0.0.1", options);
  const int port = store->getPort();
  Processes first("lost", 2, {.store_port = port, .restarts = {"0", "0"}});
  first.wait_until_ready();
  first.kill();
  Processes second("lost", 2, {.store_port = port, .restarts = {"1", "0"}});
  second.wait_until_ready();
  second.kill();
  Processes third("restarted", 2, {.store_port = port, .restarts = {"1", "1"}});
  third.wait();
  for (int rank = 0; rank < 2; ++rank) {
    EXPECT_EQ(third.values("restarted", rank), Values{2});
    expect_words(third.error("restarted", rank), {"got restart 2", "--max-restarts 0"});
  }
}

TEST_F(SeveralRanks, Training_RanksThatDiffer_IsRefusedOnEachRank) {
  for (int rank = 0; rank < 2; ++rank) {
    expect_words(two->error("other_recipe", rank), {"the recipe of ranks 0 and 1 differ"});
    expect_words(two->error("other_data", rank), {"the training data of ranks 0 and 1 differ"});
    expect_words(two->error("other_victim", rank), {"the victim of ranks 0 and 1 differ"});
    expect_words(two->error("dropout", rank), {"dropout", "2 ranks"});
    expect_words(two->error("other_count", rank), {"the images of ranks 0 and 1 differ"});
  }
  for (int rank = 0; rank < 4; ++rank)
    expect_words(four->error("few_images", rank), {"batch_size", "got 2 images, 4 ranks"});
}

TEST_F(SeveralRanks, Training_SumsTheGradientOnceAStep) {
  const double gradient = 4.0 * static_cast<double>(values_of(*SmallNetwork{}.module).size());
  for (int rank = 0; rank < 2; ++rank) {
    const Values bytes = two->values("traffic", rank);
    ASSERT_EQ(bytes.size(), 1u);
    // The rest is for the statistics of BatchNorm, which are as large as this small gradient.
    EXPECT_GT(bytes[0], 0.9 * 20 * gradient);
    EXPECT_LT(bytes[0], 1.9 * 20 * gradient);
  }
}

TEST_F(SeveralRanks, Sum_RankKilledOrStopped_NamesItAndItsHost) {
  char host[256] = {};
  ::gethostname(host, sizeof host - 1);
  struct Loss {
    int signal, rank;
    Processes processes;
  };
  std::vector<std::unique_ptr<Loss>> losses;
  losses.emplace_back(new Loss{SIGKILL, 1, Processes("lost", 3)});
  losses.emplace_back(new Loss{SIGKILL, 0, Processes("lost", 2)});
  losses.emplace_back(new Loss{SIGSTOP, 1, Processes("lost", 2)});
  losses.emplace_back(new Loss{SIGSTOP, 0, Processes("lost", 2)});
  for (const auto& loss : losses) loss->processes.wait_until_ready();
  const auto begin = std::chrono::steady_clock::now();
  for (const auto& loss : losses)
    ::kill(loss->processes.pids[static_cast<std::size_t>(loss->rank)], loss->signal);
  for (const auto& loss : losses) {
    loss->processes.wait(loss->rank);
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(30));
    const ::pid_t pid = loss->processes.pids[static_cast<std::size_t>(loss->rank)];
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    for (int rank = 0; rank < static_cast<int>(loss->processes.pids.size()); ++rank) {
      if (rank == loss->rank) continue;
      const std::string words = "rank " + std::to_string(loss->rank) + " on " + host + " does not answer";
      expect_words(loss->processes.error("lost", rank), {words});
    }
  }
}

TEST(C10d, Begin_CommunicatorDestroyedBeforeWait_Completes) {
  if (!distributed::C10d::is_available()) GTEST_SKIP() << "compiled without Gloo's headers";
  Processes two("destroyed", 2);
  two.wait();
  for (int rank = 0; rank < 2; ++rank) EXPECT_EQ(two.values("destroyed", rank), (Values{3, 3}));  // 1 + 2
}

TEST(C10d, FromEnvironment_TimeOutOfRange_IsRefused) {
  ::setenv("RANK", "0", 1);
  ::setenv("WORLD_SIZE", "1", 1);
  using std::chrono::milliseconds;
  constexpr milliseconds year = std::chrono::hours(24 * 365), longest = milliseconds::max();
  const auto error_of = [](const distributed::C10dOptions& options) {
    return testing::error_of([&] { distributed::C10d::from_environment(options); });
  };
  EXPECT_EQ(error_of({.connect_timeout = year, .silence = year, .timeout = year}), "");
  expect_words(error_of({.connect_timeout = longest}), {"c10d.connect_timeout", "at most 31536000000 ms"});
  expect_words(error_of({.silence = year + milliseconds(1)}), {"c10d.silence", "got 31536000001 ms"});
  expect_words(error_of({.timeout = longest}), {"c10d.timeout", "got 9223372036854775807 ms"});
  expect_words(error_of({.timeout = milliseconds(0)}), {"c10d.timeout", "above 0 ms"});
}

TEST(C10d, FromEnvironment_MissingOrWrongVariable_IsRefused) {
  const auto error_with = [](const char* rank, const char* size) {
    rank != nullptr ? ::setenv("RANK", rank, 1) : ::unsetenv("RANK");
    size != nullptr ? ::setenv("WORLD_SIZE", size, 1) : ::unsetenv("WORLD_SIZE");
    return testing::error_of([] { distributed::C10d::from_environment(); });
  };
  expect_words(error_with("0", nullptr), {"WORLD_SIZE is not set"});
  expect_words(error_with(nullptr, "2"), {"RANK is not set"});
  expect_words(error_with("2", "2"), {"RANK", "got '2'"});
  expect_words(error_with("x", "2"), {"RANK", "got 'x'"});
  expect_words(error_with("0", "2"), {"MASTER_ADDR is not set"});
  EXPECT_EQ(error_with("0", "1"), "");
  EXPECT_EQ(distributed::C10d::size_in_environment(), 1);
}

TEST(C10d, FromEnvironment_VariablesOfOpenMpiAndSlurm_AreRead) {
  for (const char* name : {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}) ::unsetenv(name);
  const auto error_with = [](const char* rank, const char* size) {
    ::setenv(rank, "5", 1);
    ::setenv(size, "2", 1);
    const std::string error = testing::error_of([] { distributed::C10d::from_environment(); });
    ::setenv(rank, "1", 1);
    EXPECT_EQ(distributed::C10d::size_in_environment(), 2);
    const std::string no_address = testing::error_of([] { distributed::C10d::from_environment(); });
    ::unsetenv(rank);
    ::unsetenv(size);
    return error + no_address;
  };
  expect_words(error_with("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
               {"OMPI_COMM_WORLD_RANK", "got '5'", "MASTER_ADDR is not set"});
  // Slurm sets its variables for one process, too: without MASTER_ADDR, it is a single one.
  ::setenv("SLURM_PROCID", "1", 1);
  ::setenv("SLURM_NTASKS", "2", 1);
  EXPECT_EQ(distributed::C10d::from_environment_or_single().size(), 1);
  ::setenv("MASTER_ADDR", "127.0.0.1", 1);
  expect_words(error_with("SLURM_PROCID", "SLURM_NTASKS"),
               {"SLURM_PROCID", "got '5'", "MASTER_PORT is not set"});
  ::unsetenv("MASTER_ADDR");
}

TEST(RowsOfRank, Parts_CoverTheBatchOnce) {
  for (const std::int64_t size : {1, 2, 3, 4, 7}) {
    for (std::int64_t rows = 0; rows < 20; ++rows) {
      std::int64_t next = 0;
      for (std::int64_t rank = 0; rank < size; ++rank) {
        const auto part = distributed::rows_of_rank(rows, rank, size);
        EXPECT_EQ(part.first, next);
        EXPECT_LE(part.count, rows / size + 1);
        next += part.count;
      }
      EXPECT_EQ(next, rows);
    }
  }
}

}  // namespace
}  // namespace refine
