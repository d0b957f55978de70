// Checks a GPU against the CPU, times it, and defends CIFAR-10 on it at full size. Writes one JSON
// file.
//
//     tools/gpu_check/run figures.json --images cifar10.safetensors

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <c10/core/GradMode.h>
#include <fmt/core.h>
#include <fmt/ranges.h>
#include <spawn.h>
#include <sys/wait.h>
#include <torch/csrc/jit/serialization/import.h>
#include <torch/version.h>
#include <unistd.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <refine/attacks/attacks.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/normalized.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/backbones/zoo.hpp>
#include <refine/core/error.hpp>
#include <refine/core/file.hpp>
#include <refine/core/text.hpp>
#include <refine/data/augmentation.hpp>
#include <refine/data/dataset.hpp>
#include <refine/data/sources.hpp>
#include <refine/distributed/distributed.hpp>
#include <refine/evaluation/evaluate.hpp>
#include <refine/export/torchscript.hpp>
#include <refine/formats/safetensors.hpp>
#include <refine/nn/autocast.hpp>
#include <refine/nn/device.hpp>
#include <refine/nn/module.hpp>
#include <refine/objectives/objectives.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/remaps/remaps.hpp>
#include <refine/training/training.hpp>
#include <refine/transforms/any_transform.hpp>
#include <refine/transforms/encoder_decoder.hpp>
#include <refine/transforms/unet.hpp>

#include "benchmarks/program.hpp"

namespace refine::gpu_check {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr Task task = tasks::cifar10;

/// The command line.
struct Options {
  std::string device = "cuda", name, images, json;
  int width = 64;
  std::int64_t epoch_images = 50'000;
  std::int64_t check_images = 512;
  std::vector<int> batches = {64, 256};
  std::vector<std::string> parts = {"checks", "ranks", "epochs", "trial"};
  ClassifierRecipe victim = recipes::gpu_classifier;
  Recipe defense = recipes::gpu;
};

/// Makes an untrained victim.
auto make_victim(int width) {
  return backbones::Normalized{backbones::ResNet18<task>{.width = width}, normalizations::cifar10};
}

/// Makes an untrained defense of an untrained victim.
template <typename Transform>
auto make_defense(int width, Transform transform) {
  const auto victim = make_victim(width);
  victim.module->eval();
  return Pipeline{std::move(transform), freeze(victim), remaps::Derangement<task>{}};
}

/// Collects the outcomes as JSON and prints them to the standard error.
class Checks {
 public:
  /// Records an outcome.
  ///
  /// \param name  of the check
  /// \param passed  true if it passed
  /// \param figure  what was measured
  void record(const std::string& name, bool passed, const std::string& figure) {
    std::cerr << fmt::format("{:<6} {}: {}\n", passed ? "ok" : "FAILED", name, figure);
    list_.push_back({{"name", name}, {"passed", passed}, {"figure", figure}});
    failed_ += !passed;
  }

  /// Compares the results of CPU and device.
  ///
  /// \param name  of the check
  /// \param host  result of the CPU
  /// \param device  result of the device
  /// \param max  largest difference that passes
  void compare(const std::string& name, const at::Tensor& host, const at::Tensor& device, double max) {
    const double difference =
        (host.to(at::kDouble) - device.to(at::kCPU, at::kDouble)).abs().max().item<double>();
    record(name, difference <= max,
           fmt::format("largest difference from the CPU {:.1e}, at most {:.0e}", difference, max));
  }

  /// Returns all outcomes.
  const Json& list() const { return list_; }

  /// Returns the number of failed checks.
  int failed() const { return failed_; }

 private:
  Json list_ = Json::array();
  int failed_ = 0;
};

/// Compares the forward pass of a transform on CPU and device, and that of the exported file on the
/// device.
template <typename Transform>
void check_pipeline(Checks& checks, const std::string& name, const Transform& transform,
                    const fs::path& folder) {
  auto defense = make_defense(8, transform);
  const at::Tensor images = at::rand({16, 3, 32, 32});
  c10::NoGradGuard no_grad;
  const at::Tensor host = defense.forward(images), alarm = defense.alarm(images);
  defense.to(default_device());
  const at::Tensor on_device = images.to(default_device());
  checks.compare(name + ", logits", host, defense.forward(on_device), 1e-3);
  checks.compare(name + ", alarm", alarm, defense.alarm(on_device), 1e-3);
  export_torchscript(defense, folder / "defended.pt");
  auto exported = torch::jit::load((folder / "defended.pt").string(), default_device());
  checks.compare(name + ", exported", host, exported.forward({on_device}).toTensor(), 1e-3);
}

/// Compares values and gradients of the losses.
void check_losses(Checks& checks) {
  const at::Tensor remapped = at::rand({32, 10}) * 8, teacher = at::rand({32, 10}) * 8,
                   rewritten = at::rand({32, 3, 8, 8}), labels = at::randint(10, {32}, at::kLong);
  const auto compare = [&](const std::string& name, const at::Tensor& input, auto&& loss) {
    const auto with_gradient = [&](at::Device device) {
      const at::Tensor leaf = input.to(device).detach().clone().requires_grad_();
      const at::Tensor value = loss(leaf, device);
      value.backward();
      return std::pair{value.detach(), leaf.grad()};
    };
    const auto host = with_gradient(at::kCPU), device = with_gradient(default_device());
    checks.compare(name + ", value", host.first, device.first, 1e-4);
    checks.compare(name + ", gradient", host.second, device.second, 1e-5);
  };
  compare("BCE", remapped,
          [&](const at::Tensor& x, at::Device device) { return objectives::Bce{}(x, teacher.to(device)); });
  compare("distillation", remapped, [&](const at::Tensor& x, at::Device device) {
    return objectives::Distillation{}(x, teacher.to(device));
  });
  compare("NLL", remapped,
          [&](const at::Tensor& x, at::Device device) { return objectives::Nll{}(x, teacher.to(device)); });
  compare("SupCon", rewritten,
          [&](const at::Tensor& x, at::Device device) { return objectives::SupCon{}(x, labels.to(device)); });
}

/// Compares augmentation and triggers.
void check_images(Checks& checks) {
  const at::Tensor images = at::rand({64, 3, 32, 32});
  const at::Tensor on_device = images.to(default_device());
  const auto augment = [&](const std::string& name, const data::Augmentation& augmentation, double max) {
    checks.compare("augmentation, " + name, data::augment(images, augmentation, 7),
                   data::augment(on_device, augmentation, 7), max);
  };
  augment("flip and crop", {.flip = true, .crop_padding = 2}, 0);
  augment("mix", {.mix = 0.5}, 1e-6);
  augment("resized crop, grayscale", {.resized_crop_min_scale = 0.8, .grayscale = 0.2}, 1e-4);
  const auto stamp = [&](const std::string& name, const auto& attack) {
    checks.compare("trigger, " + name, attack.trigger.apply(images), attack.trigger.apply(on_device), 1e-4);
  };
  stamp("BadNets", attacks::BadNets<task>{});
  stamp("Blended", attacks::Blended<task>{});
  stamp("WaNet", attacks::WaNet<task>{});
}

/// Copies the state of a module to the CPU.
std::map<std::string, at::Tensor> copy_state(const torch::nn::Module& module) {
  std::map<std::string, at::Tensor> all;
  for (const auto& [name, tensor] : nn::state_dict(module))
    all[name] = tensor.detach().to(at::kCPU, at::kDouble).clone();
  return all;
}

/// Checks that training on the device lowers the loss in each precision and does not change the
/// victim.
void check_learning(Checks& checks, std::int64_t images) {
  const auto set = data::Synthetic{.task = task, .train = images, .test = 1}.make().train;
  std::vector<std::pair<std::string, Precision>> precisions = {{"float32", Precision::float32}};
  if (nn::has_bfloat16(default_device())) precisions.emplace_back("bfloat16", Precision::bfloat16);
  for (const auto& [name, precision] : precisions) {
    ClassifierRecipe classifier = recipes::fast_classifier;
    Recipe recipe = recipes::fast;
    for (Optimization* optimization : {&classifier.optimization, &recipe.optimization}) {
      optimization->epochs = 4;
      optimization->batch_size = 32;
      optimization->precision = precision;
    }
    History victim_history, history;
    const auto victim =
        train_classifier(backbones::ResNet18<task>{.width = 8}, set, classifier, victim_history);
    Pipeline defense{transforms::UNet<task>{.width = 8}, freeze(victim), remaps::Derangement<task>{}};
    const auto before = copy_state(*defense.backbone().module);
    fit(defense, set.images, recipe, history);
    const auto check_loss = [&](const std::string& what, const History& run) {
      checks.record(name + ", " + what, run.epochs.back().loss < run.epochs.front().loss,
                    fmt::format("loss {:.3f} → {:.3f}", run.epochs.front().loss, run.epochs.back().loss));
    };
    check_loss("a victim learns", victim_history);
    check_loss("a defense learns", history);
    bool unchanged = true;
    for (const auto& [tensor, now] : copy_state(*defense.backbone().module))
      unchanged = unchanged && now.equal(before.at(tensor));
    checks.record(name + ", the victim is unchanged", unchanged, fmt::format("{} tensors", before.size()));
  }
}

/// Compares the loss of training in float32 on CPU and device.
void check_training(Checks& checks, const std::string& device, std::int64_t images) {
  const auto set = data::Synthetic{.task = task, .train = images, .test = 1}.make().train;
  for (const auto& [name, teacher] : {std::pair{"asked always", TeacherInput::augmented},
                                      std::pair{"asked once", TeacherInput::original}}) {
    const auto loss_on = [&](const std::string& name_of_device) {
      use_device(name_of_device);
      auto defense = make_defense(8, transforms::UNet<task>{.width = 8});
      Recipe recipe = recipes::fast;
      recipe.teacher = teacher;
      recipe.optimization.epochs = 2;
      recipe.optimization.batch_size = 32;
      recipe.optimization.precision = Precision::float32;
      History history;
      fit(defense, set.images, recipe, history);
      return history.epochs.back().loss;
    };
    const double host = loss_on("cpu"), on_device = loss_on(device);
    checks.record(std::string("training, the victim ") + name, std::abs(on_device - host) <= 0.02 * host,
                  fmt::format("loss {:.4f}, on the CPU {:.4f}, at most 2 % apart", on_device, host));
  }
}

/// Checks that every network, dropout included, reaches the same loss with replayed steps and with
/// called steps.
void check_replay(Checks& checks, std::int64_t images) {
  const auto set = data::Synthetic{.task = task, .train = images, .test = 1}.make().train;
  const auto compare = [&](const std::string& name, auto&& loss_of) {
    const double called = loss_of(false), replayed = loss_of(true);
    checks.record("replayed, " + name, std::abs(replayed - called) <= 0.02 * called,
                  fmt::format("loss {:.4f}, called {:.4f}, at most 2 % apart", replayed, called));
  };
  // Small steps: large ones amplify a difference in the last bit to another network.
  Optimization optimization = recipes::fast.optimization;
  optimization.lr = 1e-3;
  optimization.adam_lr = 1e-4;
  optimization.epochs = 2;
  optimization.batch_size = 32;
  optimization.precision = Precision::float32;
  for (const auto& [name, width] :
       {std::pair{"ResNet18", 8}, {"ResNet50", 8}, {"VGG16", 8}, {"DenseNet121", 8}, {"ViT", 64}}) {
    compare(name, [&](bool cuda_graph_safe) {
      auto network = backbones::network_by_name(name, {.task = task, .width = width});
      network.cuda_graph_safe = cuda_graph_safe;
      ClassifierRecipe recipe = recipes::fast_classifier;
      recipe.optimization = optimization;
      History history;
      train_classifier(network, set, recipe, history);
      return history.epochs.back().loss;
    });
  }
  const auto defense_loss = [&](auto transform) {
    return [&, transform](bool cuda_graph_safe) {
      const auto victim = freeze(make_victim(8));
      transforms::AnyTransform any_transform(transform());
      any_transform.cuda_graph_safe = cuda_graph_safe;
      Pipeline defense{any_transform, victim, remaps::Derangement<task>{}};
      Recipe recipe = recipes::fast;
      recipe.optimization = optimization;
      History history;
      fit(defense, set.images, recipe, history);
      return history.epochs.back().loss;
    };
  };
  compare("U-Net", defense_loss([] { return transforms::UNet<task>{.width = 8}; }));
  compare("encoder-decoder", defense_loss([] { return transforms::EncoderDecoder<task>{.width = 28}; }));
}

/// Times epochs of `recipes::fast` at full width, with data and augmentation: the first, in which
/// the victim classifies each image, and the next three. Warms up the device before.
Json time_epochs(const Options& options) {
  const auto set = data::Synthetic{.task = task, .train = options.epoch_images, .test = 1}.make().train;
  Json list = Json::array();
  for (const int batch : options.batches) {
    for (const auto& [name, precision] :
         {std::pair{"float32", Precision::float32}, std::pair{"bfloat16", Precision::bfloat16}}) {
      if (precision == Precision::bfloat16 && !nn::has_bfloat16(default_device())) continue;
      auto defense = make_defense(options.width, transforms::UNet<task>{.width = options.width});
      Recipe recipe = recipes::fast;
      recipe.optimization.batch_size = batch;
      recipe.optimization.precision = precision;
      recipe.optimization.epochs = 1;
      fit(defense, set.images.narrow(0, 0, std::min<std::int64_t>(4 * batch, set.size())), recipe);
      recipe.optimization.epochs = 4;
      History history;
      fit(defense, set.images, recipe, history);
      std::vector<double> seconds;
      for (std::size_t i = 1; i < history.epochs.size(); ++i)
        seconds.push_back(history.epochs[i].seconds - history.epochs[i - 1].seconds);
      std::cerr << fmt::format("batches of {}, {}: the first epoch of {} images {:.2f} s, then {:.2f} s\n",
                               batch, name, set.size(), history.epochs[0].seconds, fmt::join(seconds, ", "));
      list.push_back({{"batch", batch},
                      {"precision", name},
                      {"images", set.size()},
                      {"first_epoch_seconds", history.epochs[0].seconds},
                      {"epoch_seconds", seconds}});
    }
  }
  return list;
}

/// Reads what pack_images wrote.
data::Split read_images(const std::string& path) {
  auto file = formats::read_safetensors(path);
  const auto take = [&](const std::string& name) {
    const auto found = file.tensors.find(name);
    if (found == file.tensors.end())
      throw Error("cannot read {}: no tensor '{}'; make the file with bazel run //tools:pack_images", path,
                  name);
    return found->second;
  };
  std::vector<std::string> classes;
  for (int c = 0; c < task.classes; ++c) classes.push_back(fmt::format("class {}", c));
  const data::Split split{{take("train.images"), take("train.labels"), classes},
                          {take("test.images"), take("test.labels"), classes}};
  split.train.validate();
  split.test.validate();
  return split;
}

/// Runs attack, victim, defense and evaluation on real images.
Json run_trial(const Options& options, const data::Split& split) {
  const attacks::BadNets<task> attack{};
  benchmarks::Clock clock;
  History victim_history, history;
  const auto victim = train_classifier(make_victim(options.width), attack.poison(split.train), options.victim,
                                       ProgressBar{}, victim_history);
  Pipeline defense{transforms::UNet<task>{.width = options.width}, freeze(victim),
                   remaps::Derangement<task>{}};
  fit(defense, split.train.images, options.defense, ProgressBar{}, history);
  const double seconds = clock.take();
  const Evaluation e = evaluate(defense, split.test, attack);
  const auto side = [](const metrics::AttackMetrics& f) {
    return Json{{"ba", f.ba.value()},
                {"asr", f.asr.value()},
                {"largest_lift", f.largest_lift.value()},
                {"largest_lift_class", f.largest_lift.cls},
                {"largest_pair_lift", f.largest_pair_lift.value()},
                {"moved", f.moved.value()}};
  };
  Json result = {{"images", split.train.size()},
                 {"width", options.width},
                 {"victim_recipe", Json(options.victim)},
                 {"defense_recipe", Json(options.defense)},
                 {"victim_seconds", victim_history.epochs.back().seconds},
                 {"defense_seconds", history.epochs.back().seconds},
                 {"both_seconds", seconds},
                 {"before", side(e.before)},
                 {"after", side(e.after)}};
  std::cerr << fmt::format("trial: {}\n", result.dump());
  return result;
}

/// Trains a victim in float32 with the images that a batch shares among ranks. Returns the loss of each epoch
/// on rank 0.
template <typename Ranks>
std::vector<double> losses_with(Ranks& ranks, std::int64_t images) {
  const auto split = data::Synthetic{.task = task, .train = images, .test = 10}.make();
  ClassifierRecipe recipe = recipes::fast_classifier;
  recipe.optimization.batch_size = 32;
  recipe.optimization.epochs = 2;
  recipe.optimization.precision = Precision::float32;
  History history;
  train_classifier(make_victim(8), split.train, recipe, ranks, history);
  std::vector<double> losses;
  for (const EpochInfo& epoch : history.epochs) losses.push_back(epoch.loss);
  return losses;
}

/// What one of the processes of `check_ranks` does.
void run_as_rank(const Options& options) {
  auto ranks = distributed::C10d::from_environment();
  const std::vector<double> losses = losses_with(ranks, options.check_images / 2);
  if (ranks.rank() == 0) files::write(options.json, Json(losses).dump());
  distributed::wait_for_all(ranks);
}

/// Compares the training by two processes, both on this device, with that by one. Gloo carries the tensors
/// over the host.
void check_ranks(Checks& checks, const Options& options, const fs::path& folder) {
  if (!distributed::C10d::is_available()) {
    std::cerr << "skipped ranks: compiled without Gloo's headers (Debian: libgloo-dev)\n";
    return;
  }
  const std::string file = (folder / "losses.json").string(), images = std::to_string(options.check_images),
                    port = std::to_string(20'000 + ::getpid() % 20'000);
  std::vector<::pid_t> processes;
  for (const char* rank : {"0", "1"}) {
    const std::vector<std::string> arguments = {"gpu_check", "--device", options.device,   "--parts", "rank",
                                                "--json",    file,       "--check_images", images};
    std::vector<std::string> variables = {std::string("RANK=") + rank, "WORLD_SIZE=2",
                                          "MASTER_ADDR=127.0.0.1", "MASTER_PORT=" + port};
    for (char** variable = environ; *variable != nullptr; ++variable) variables.emplace_back(*variable);
    const auto pointers = [](const std::vector<std::string>& texts) {
      std::vector<char*> result;
      for (const std::string& text : texts) result.push_back(const_cast<char*>(text.c_str()));
      result.push_back(nullptr);
      return result;
    };
    ::pid_t process = 0;
    if (::posix_spawn(&process, "/proc/self/exe", nullptr, nullptr, pointers(arguments).data(),
                      pointers(variables).data()) != 0)
      throw Error("cannot start a process");
    processes.push_back(process);
  }
  bool all_ended = true;
  for (const ::pid_t process : processes) {
    int status = 0;
    ::waitpid(process, &status, 0);
    all_ended = all_ended && status == 0;
  }
  if (!all_ended) throw Error("a rank failed; its line is above");
  distributed::Serial one;
  const std::vector<double> expected = losses_with(one, options.check_images / 2),
                            got = Json::parse(files::read(file)).get<std::vector<double>>();
  for (std::size_t i = 0; i < expected.size(); ++i) {
    checks.record(fmt::format("two ranks, epoch {}", i + 1),
                  std::abs(got[i] - expected[i]) <= 0.02 * expected[i],
                  fmt::format("loss {:.4f}, of one process {:.4f}", got[i], expected[i]));
  }
}

void run(const Options& options) {
  use_device(options.device);
  use_threads(0);
  if (options.parts == std::vector<std::string>{"rank"}) return run_as_rank(options);
  std::optional<data::Split> split;  // first, so that an unreadable file fails at once
  if (!options.images.empty()) split = read_images(options.images);
  const benchmarks::Scratch scratch("refine-gpu-check");

  Checks checks;
  Json out = {{"device", default_device().str()}, {"name", options.name}, {"libtorch", TORCH_VERSION}};
  // After each part, so that an interrupted run keeps its results.
  const auto write = [&] {
    out["checks"] = checks.list();
    if (!options.json.empty()) files::write(options.json, out.dump(1) + "\n");
  };
  const auto attempt = [&](const std::string& name, auto&& check) {
    try {
      check();
    } catch (const std::exception& error) {
      checks.record(name, false, text::one_line(error.what()));
    }
    write();
  };
  const auto is_selected = [&](const char* part) { return std::ranges::count(options.parts, part) > 0; };
  if (is_selected("checks")) {
    // The CPU computes in float32; by default, a GPU's convolutions have a shorter mantissa.
    auto& context = at::globalContext();
    const bool convolutions = context.allowTF32CuDNN(), products = context.allowTF32CuBLAS();
    context.setAllowTF32CuDNN(false);
    context.setAllowTF32CuBLAS(false);
    attempt("U-Net",
            [&] { check_pipeline(checks, "U-Net", transforms::UNet<task>{.width = 8}, scratch.path); });
    attempt("encoder-decoder", [&] {
      check_pipeline(checks, "encoder-decoder", transforms::EncoderDecoder<task>{.width = 28}, scratch.path);
    });
    attempt("losses", [&] { check_losses(checks); });
    attempt("images", [&] { check_images(checks); });
    attempt("training", [&] { check_training(checks, options.device, options.check_images / 2); });
    use_device(options.device);
    attempt("replay", [&] { check_replay(checks, options.check_images); });
    context.setAllowTF32CuDNN(convolutions);
    context.setAllowTF32CuBLAS(products);
    attempt("learning", [&] { check_learning(checks, options.check_images); });
  }
  if (is_selected("ranks")) attempt("ranks", [&] { check_ranks(checks, options, scratch.path); });
  if (is_selected("epochs")) out["epochs"] = time_epochs(options);
  write();
  if (is_selected("trial") && split) out["trial"] = run_trial(options, *split);
  write();
  if (checks.failed() > 0)
    throw Error("gpu_check: {} of {} checks failed", checks.failed(), checks.list().size());
  std::cerr << fmt::format("all {} checks passed\n", checks.list().size());
}

}  // namespace
}  // namespace refine::gpu_check

int main(int argc, char** argv) {
  using namespace refine;
  gpu_check::Options options;
  CLI::App app{"Checks a GPU against the CPU, times it, and defends CIFAR-10 on it.", "gpu_check"};
  app.add_option("--device", options.device, "cuda, cuda:N, or cpu to try this program")
      ->capture_default_str();
  app.add_option("--name", options.name, "name of the device, for the JSON file");
  app.add_option("--images", options.images,
                 "CIFAR-10, as written by `bazel run //tools:pack_images` (default: no trial)");
  app.add_option("--json", options.json, "write the results to this file");
  app.add_option("--width", options.width, "width of victim and U-Net")
      ->check(CLI::Range(2, 1024))
      ->capture_default_str();
  app.add_option("--epoch_images", options.epoch_images, "images of a timed epoch")
      ->check(CLI::Range(64, 10'000'000))
      ->capture_default_str();
  app.add_option("--check_images", options.check_images,
                 "images that the checks train on; half of them where the CPU trains, too")
      ->check(CLI::Range(64, 65'536))
      ->capture_default_str();
  app.add_option("--batches", options.batches, "batch sizes whose epochs are timed")
      ->check(CLI::Range(2, 65'536))
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--parts", options.parts, "parts to run, of checks,ranks,epochs,trial")
      ->check(CLI::IsMember({"checks", "ranks", "rank", "epochs", "trial"}))
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--victim_epochs", options.victim.optimization.epochs, "epochs of the trial's victim")
      ->check(CLI::Range(1, 10'000))
      ->capture_default_str();
  app.add_option("--defense_epochs", options.defense.optimization.epochs, "epochs of the trial's defense")
      ->check(CLI::Range(1, 10'000))
      ->capture_default_str();
  app.add_option("--batch", options.defense.optimization.batch_size, "batch size of the trial's defense")
      ->check(CLI::Range(2, 65'536))
      ->capture_default_str();
  return benchmarks::run_program(app, argc, argv, [&] { gpu_check::run(options); });
}
