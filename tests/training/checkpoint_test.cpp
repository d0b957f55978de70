// A run that is interrupted and resumed is compared with one that never was, which has no checkpoints.

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <fmt/core.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <torch/nn/module.h>
#include <unistd.h>
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/inception.hpp>
#include <refine/backbones/normalized.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/backbones/vit.hpp>
#include <refine/data/sources.hpp>
#include <refine/formats/safetensors.hpp>
#include <refine/remaps/remaps.hpp>
#include <refine/training/checkpoint.hpp>
#include <refine/training/stop_on_signal.hpp>
#include <refine/training/training.hpp>
#include <refine/transforms/encoded.hpp>
#include <refine/transforms/unet.hpp>
#include <tests/training/checkpoint_digest.hpp>
#include <tests/training/masked.hpp>
#include <tests/training/task.hpp>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <memory>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support/error_of.hpp"
#include "tests/support/scratch_folder.hpp"

namespace refine {
namespace {

namespace fs = std::filesystem;
using refine::testing::content;
using refine::testing::digest;
using refine::testing::error_of;
using refine::testing::expect_words;
using refine::testing::ScratchFolder;
using std::chrono_literals::operator""h;
using std::chrono_literals::operator""ms;

using Network = backbones::ResNet18<task>;

/// Three steps an epoch, of 32, 32 and 17 images.
constexpr std::int64_t image_count = 81;
constexpr int epoch_count = 3, step_count = 9;

const data::Dataset& dataset() {
  static const data::Dataset set = [] {
    use_threads(1);
    return data::Synthetic{.task = task, .train = image_count, .test = 0}.make().train;
  }();
  return set;
}

Optimization optimization_of(OptimizerKind kind) {
  return {.optimizer = kind,
          .lr = kind == OptimizerKind::adam ? 0.003 : 0.05,
          .nesterov = kind == OptimizerKind::sgd,
          .adam_lr = 0.01,
          .schedule = Schedule::one_cycle,
          .batch_size = 32,
          .epochs = epoch_count};
}

ClassifierRecipe victim_recipe(OptimizerKind kind = OptimizerKind::muon) {
  return {.label_smoothing = 0.1,
          .optimization = optimization_of(kind),
          .augmentation = {.flip = true, .crop_padding = 2, .rotation = 10}};
}

Recipe defense_recipe(OptimizerKind kind = OptimizerKind::muon) {
  return {.objective = ObjectiveKind::distillation,
          .teacher = TeacherInput::original,
          .optimization = optimization_of(kind),
          .augmentation = {.flip = true, .mix = 0.5}};
}

std::string bytes_of(const torch::nn::Module& module) {
  std::string all;
  for (const auto& [name, tensor] : nn::state_dict(module)) {
    const at::Tensor flat = tensor.detach().contiguous();
    all += name;
    all.append(static_cast<const char*>(flat.const_data_ptr()), flat.nbytes());
  }
  return all;
}

/// Requests a stop after a number of steps.
struct StopAfter {
  std::int64_t steps;
  std::int64_t taken = 0;
  void on_step(const StepInfo&) { ++taken; }
  bool stop_requested() const { return taken >= steps; }
};

/// Ends the process' run as a crash would, as far as that is possible in a test: nothing is saved.
struct FailAfter {
  std::int64_t steps;
  void on_step(const StepInfo&) {
    if (--steps == 0) throw std::runtime_error("crash");
  }
};

struct Lines {
  std::vector<std::string> notes, warnings;
  void on_note(std::string_view text) { notes.emplace_back(text); }
  void on_warning(std::string_view text) { warnings.emplace_back(text); }
};

static_assert(Observer<Checkpoint> && Observer<const Checkpoint&> && Observer<std::stop_token>);
static_assert(Observer<StopAfter> && Observer<Lines>);

/// What a run leaves: weights, and the results of its epochs without the times.
struct Outcome {
  std::string weights;
  std::vector<double> results;
  bool operator==(const Outcome&) const = default;
};

Outcome outcome_of(const torch::nn::Module& module, const History& history) {
  Outcome outcome{.weights = bytes_of(module), .results = {}};
  for (const EpochInfo& e : history.epochs)
    outcome.results.insert(outcome.results.end(), {e.loss, e.accuracy, e.lr, static_cast<double>(e.epoch)});
  return outcome;
}

/// Half of the images ask for more augmentation, as an attack's do.
data::TrainingSet training_set() {
  data::TrainingSet set{dataset()};
  set.augmentation = {.brightness = 0.3};
  set.no_augment_mask = at::arange(image_count).remainder(2).to(at::kBool);
  return set;
}

template <typename... Observers>
Outcome train_victim(const ClassifierRecipe& recipe, Observers&&... observers) {
  History history;
  const Network network =
      train_classifier(Network{.width = 4}, training_set(), recipe, history, observers...);
  return outcome_of(*network.module, history);
}

const Network& victim() {
  static const Network trained = train_classifier(Network{.width = 4}, dataset(), victim_recipe());
  return trained;
}

auto make_defense() {
  return Pipeline{transforms::UNet<task>{.levels = 2, .width = 4}, freeze(victim()),
                  remaps::Derangement<task>{}};
}

template <typename... Observers>
Outcome train_defense(const Recipe& recipe, Observers&&... observers) {
  History history;
  auto defense = make_defense();
  fit(defense, dataset().images, recipe, history, observers...);
  return outcome_of(*defense.transform().module, history);
}

std::vector<std::string> files_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename().string());
  std::ranges::sort(names);
  return names;
}

TEST(Checkpoint, Victim_ResumedAtAnyStep_IsTheUninterruptedOne) {
  for (const OptimizerKind kind : {OptimizerKind::sgd, OptimizerKind::adam, OptimizerKind::muon}) {
    const Outcome expected = train_victim(victim_recipe(kind));
    for (const std::int64_t step : {1, 2, 3, 4, 7, 9}) {
      const ScratchFolder folder;
      const Checkpoint checkpoint{.path = folder.path / "run", .resume = true};
      try {
        train_victim(victim_recipe(kind), checkpoint, StopAfter{step});
        ADD_FAILURE() << "it was not stopped";
      } catch (const Stopped& stopped) {
        EXPECT_EQ(stopped.step(), step);
        EXPECT_EQ(stopped.steps(), step_count);
        EXPECT_TRUE(fs::exists(stopped.checkpoint()));
      }
      Lines lines;
      EXPECT_EQ(train_victim(victim_recipe(kind), checkpoint, lines), expected)
          << "optimizer " << static_cast<int>(kind) << ", step " << step;
      ASSERT_EQ(lines.notes.size(), 1u);
      expect_words(lines.notes[0], {fmt::format("resumed after step {} of {}", step, step_count)});
      EXPECT_TRUE(lines.warnings.empty());
    }
  }
}

TEST(Checkpoint, Defense_ResumedAtAnyStep_IsTheUninterruptedOne) {
  for (const TeacherInput teacher : {TeacherInput::original, TeacherInput::augmented}) {
    Recipe recipe =
        defense_recipe(teacher == TeacherInput::original ? OptimizerKind::muon : OptimizerKind::sgd);
    recipe.teacher = teacher;
    const Outcome expected = train_defense(recipe);
    for (const std::int64_t step : {1, 2, 3, 4, 8, 9}) {
      const ScratchFolder folder;
      const Checkpoint checkpoint{.path = folder.path, .resume = true};
      EXPECT_THROW(train_defense(recipe, checkpoint, StopAfter{step}), Stopped);
      EXPECT_EQ(train_defense(recipe, checkpoint), expected) << "step " << step;
    }
  }
}

/// The pixels as features.
struct Pixels {
  ImageShape image = task.image;
  int features = image.channels * image.height * image.width;
  std::shared_ptr<torch::nn::Module> module = std::make_shared<torch::nn::Module>("Pixels");
  at::Tensor forward(const at::Tensor& images) const { return images.flatten(1); }
};

TEST(Checkpoint, DefenseWithEncoderAndHead_ResumedAtAnyStep_IsTheUninterruptedOne) {
  Recipe recipe = recipes::encoded;
  recipe.optimization = optimization_of(OptimizerKind::muon);
  const auto train = [&](auto&&... observers) {
    History history;
    const Pixels pixels;
    Pipeline defense{
        transforms::Encoded<Pixels>{
            .image = task.image,
            .encoder = pixels,
            .decoder = {.features = pixels.features, .image = task.image, .bottleneck = 8, .width = 8}},
        freeze(victim()), remaps::Derangement<task>{}};
    fit(defense, dataset().images, recipe, history, observers...);
    return outcome_of(*defense.transform().module, history);
  };
  const Outcome expected = train();
  for (const std::int64_t step : {1, 3, 5}) {
    const ScratchFolder folder;
    const Checkpoint checkpoint{.path = folder.path, .resume = true};
    EXPECT_THROW(train(checkpoint, StopAfter{step}), Stopped);
    EXPECT_EQ(train(checkpoint), expected) << "step " << step;
  }
}

TEST(Checkpoint, Dropout_IsDrawnAsInTheUninterruptedRun) {
  const auto train = [](auto&&... observers) {
    const auto network =
        train_classifier(backbones::ViT<task>{.patch = 4, .width = 16, .depth = 1, .heads = 2}, dataset(),
                         victim_recipe(OptimizerKind::adam), observers...);
    return bytes_of(*network.module);
  };
  const std::string expected = train();
  const ScratchFolder folder;
  const Checkpoint checkpoint{.path = folder.path, .resume = true};
  EXPECT_THROW(train(checkpoint, StopAfter{4}), Stopped);
  EXPECT_EQ(train(checkpoint), expected);
}

TEST(Checkpoint, EveryStepStopped_IsTheUninterruptedRun) {
  const Outcome expected = train_victim(victim_recipe());
  const ScratchFolder folder;
  const Checkpoint checkpoint{.path = folder.path, .resume = true};
  for (int step = 1; step <= step_count; ++step)
    EXPECT_THROW(train_victim(victim_recipe(), checkpoint, StopAfter{1}), Stopped);
  EXPECT_EQ(train_victim(victim_recipe(), checkpoint), expected);
  EXPECT_EQ(files_in(folder.path),
            (std::vector<std::string>{".refine-lock", "0000000008.safetensors", "0000000009.safetensors"}));
  EXPECT_EQ(train_victim(victim_recipe(), checkpoint), expected) << "a finished run is its result";
  checkpoint.remove();
  EXPECT_FALSE(fs::exists(folder.path));
  fs::create_directory(folder.path);
}

TEST(Checkpoint, BackgroundWriter_SurvivesACrash) {
  const Outcome expected = train_victim(victim_recipe());
  const ScratchFolder folder;
  const Checkpoint checkpoint{.path = folder.path, .every = 0ms, .resume = true};
  EXPECT_THROW(train_victim(victim_recipe(), checkpoint, FailAfter{5}), std::runtime_error);
  const auto files = files_in(folder.path);
  EXPECT_TRUE(files.size() >= 2 && files.size() <= 3) << files.size();
  folder.write(".refine-1-1.partial", "left by a killed writer");
  Lines lines;
  EXPECT_EQ(train_victim(victim_recipe(), checkpoint, lines), expected);
  ASSERT_EQ(lines.notes.size(), 1u);
  EXPECT_FALSE(fs::exists(folder.path / ".refine-1-1.partial"));
}

TEST(Checkpoint, Without_ChangesNothing) {
  const ScratchFolder folder;
  EXPECT_EQ(train_defense(defense_recipe(), Checkpoint{.path = folder.path, .every = 0ms}),
            train_defense(defense_recipe()));
}

TEST(Checkpoint, StopToken_EndsTheRunAfterTheStep) {
  std::stop_source source;
  source.request_stop();
  try {
    train_victim(victim_recipe(), source.get_token());
    ADD_FAILURE() << "it was not stopped";
  } catch (const Stopped& stopped) {
    EXPECT_EQ(stopped.step(), 1);
    EXPECT_TRUE(stopped.checkpoint().empty());
    expect_words(stopped.what(), {"victim", "step 1 of 9", "not saved"});
  }
}

/// A folder with a victim's run that was stopped after four steps.
struct InterruptedVictim : ScratchFolder {
  Checkpoint checkpoint{.path = path, .resume = true};
  InterruptedVictim() {
    for (int part = 0; part < 2; ++part)
      EXPECT_THROW(train_victim(victim_recipe(), checkpoint, StopAfter{2}), Stopped);
  }
};

TEST(Checkpoint, OtherRun_IsRefusedByName) {
  const InterruptedVictim run;
  const auto refusal = [&](const ClassifierRecipe& recipe, const data::TrainingSet& set, Network network) {
    return error_of([&] { train_classifier(network, set, recipe, run.checkpoint); });
  };
  ClassifierRecipe other = victim_recipe();
  other.optimization.lr = 0.04;
  expect_words(refusal(other, training_set(), {.width = 4}),
               {"cannot resume", "recipe.optimization.lr is 0.04", "the checkpoint has 0.05"});
  other = victim_recipe();
  ++other.optimization.epochs;  // many fields may follow from it
  other.augmentation.crop_padding = 1;
  expect_words(refusal(other, training_set(), {.width = 4}), {"recipe.optimization.epochs is"});
  other = victim_recipe();
  other.seed = 1;
  expect_words(refusal(other, training_set(), {.width = 4}), {"recipe.seed is 1", "666"});

  data::TrainingSet set = training_set();
  set.images = set.images.clone();
  set.images[3][1][2][5] += 1;
  expect_words(refusal(victim_recipe(), set, {.width = 4}), {"images or labels differ", "SHA-256"});
  set = training_set();
  set.labels = set.labels.clone();
  set.labels[0] = (set.labels[0] + 1).remainder(4);
  expect_words(refusal(victim_recipe(), set, {.width = 4}), {"images or labels differ"});
  set = training_set();
  set.augmentation.brightness = 0.2;
  expect_words(refusal(victim_recipe(), set, {.width = 4}), {"images or labels differ"});

  expect_words(refusal(victim_recipe(), training_set(), {.width = 8}), {"network, or its initial weights"});
  expect_words(refusal(victim_recipe(), training_set(), {.width = 4, .seed = 1}),
               {"network, or its initial weights"});
  expect_words(error_of([&] { train_defense(defense_recipe(), run.checkpoint); }),
               {"this run trains a defense, the checkpoint's a victim"});
  // The same weights, and another computation.
  expect_words(error_of([&] {
                 train_classifier(backbones::Normalized{Network{.width = 4}, normalizations::imagenet},
                                  training_set(), victim_recipe(), run.checkpoint);
               }),
               {"network, or its initial weights"});
  EXPECT_EQ(refusal(victim_recipe(), training_set(), {.width = 4}), "") << "the run itself is not refused";
}

TEST(Checkpoint, OtherVictimOrObjective_IsRefusedByName) {
  const ScratchFolder folder;
  const Checkpoint checkpoint{.path = folder.path, .resume = true};
  EXPECT_THROW(train_defense(defense_recipe(), checkpoint, StopAfter{2}), Stopped);
  const Network other = train_classifier(Network{.width = 4, .seed = 3}, dataset(), victim_recipe());
  Pipeline defense{transforms::UNet<task>{.levels = 2, .width = 4}, freeze(other),
                   remaps::Derangement<task>{}};
  expect_words(error_of([&] { fit(defense, dataset().images, defense_recipe(), checkpoint); }),
               {"victim differs"});
  Pipeline permuted{transforms::UNet<task>{.levels = 2, .width = 4}, freeze(victim()),
                    remaps::Derangement<task>{.seed = 5}};
  expect_words(error_of([&] { fit(permuted, dataset().images, defense_recipe(), checkpoint); }),
               {"victim differs"});
  Pipeline normalized{transforms::UNet<task>{.levels = 2, .width = 4},
                      freeze(backbones::Normalized{victim(), normalizations::imagenet}),
                      remaps::Derangement<task>{}};
  expect_words(error_of([&] { fit(normalized, dataset().images, defense_recipe(), checkpoint); }),
               {"victim differs"});
  backbones::ResNet18<> pooling{.task = task, .width = 4, .stem = backbones::Stem{3, true}};
  nn::load_state_dict(*pooling.module, nn::state_dict(*victim().module), "the victim");
  Pipeline pooled{transforms::UNet<task>{.levels = 2, .width = 4}, freeze(pooling),
                  remaps::Derangement<task>{}};
  expect_words(error_of([&] { fit(pooled, dataset().images, defense_recipe(), checkpoint); }),
               {"victim differs"});
  auto same = make_defense();
  expect_words(
      error_of([&] { fit(same, dataset().images, objectives::Bce{}, defense_recipe(), checkpoint); }),
      {"objective"});
}

TEST(Checkpoint, OtherPixelDomainOrSettingsOfAnObjective_AreRefusedByName) {
  const ScratchFolder folder;
  const Checkpoint checkpoint{.path = folder.path, .resume = true};
  const auto train = [&](PixelDomain domain, double temperature, auto&&... observers) {
    Pipeline defense{transforms::UNet<task>{.levels = 2, .width = 4},
                     freeze(backbones::Normalized{victim(), normalizations::cifar10}),
                     remaps::Derangement<task>{}, domain};
    fit(defense, dataset().images, objectives::Distillation{temperature}, defense_recipe(), checkpoint,
        observers...);
  };
  EXPECT_THROW(train(PixelDomain::reference, 2, StopAfter{1}), Stopped);
  expect_words(error_of([&] { train(PixelDomain::image, 2); }),
               {"cannot resume", "pixel domain is image", "checkpoint has reference"});
  expect_words(error_of([&] { train(PixelDomain::reference, 8); }),
               {"objective", "temperature 8", "temperature 2"});
  EXPECT_THROW(train(PixelDomain::reference, 2, StopAfter{1}), Stopped) << "the run itself is not refused";
}

TEST(Checkpoint, OtherVersion_IsRefusedByName) {
  const InterruptedVictim run;
  const fs::path file = run.path / "0000000004.safetensors";
  const std::string bytes = content(file);
  std::string other = bytes;
  const std::string key = "\"version\":\"";
  const auto at_version = other.find(key);
  ASSERT_NE(at_version, std::string::npos);
  other[at_version + key.size()] = '7';
  std::ofstream(file, std::ios::binary) << other;
  fs::remove(run.path / "0000000002.safetensors");
  expect_words(error_of([&] { train_victim(victim_recipe(), run.checkpoint); }),
               {"no checkpoint is intact", "SHA-256"});

  // With a digest that fits, as the other version would have written it.
  auto forged = formats::read_safetensors(file);
  forged.metadata["sha256"] = digest(forged);
  formats::write_safetensors(file, forged);
  const std::string then = "7" + std::string(version.substr(1));
  expect_words(error_of([&] { train_victim(victim_recipe(), run.checkpoint); }),
               {"this is refine " + std::string(version), "the checkpoint is of " + then});
}

TEST(Checkpoint, ViTWithOtherHeads_IsRefused) {
  const ScratchFolder folder;
  const Checkpoint checkpoint{.path = folder.path, .resume = true};
  const auto train = [&](int heads, int head_width, auto&&... observers) {
    train_classifier(
        backbones::ViT<task>{
            .patch = 4, .width = 16, .depth = 1, .heads = heads, .head_width = head_width, .mlp = 16},
        dataset(), victim_recipe(OptimizerKind::adam), checkpoint, observers...);
  };
  EXPECT_THROW(train(2, 8, StopAfter{2}), Stopped);
  // The tensors have the same shapes and values.
  expect_words(error_of([&] { train(4, 4); }), {"network, or its initial weights"});
}

TEST(Checkpoint, OtherNetworkOfTheSameWeights_IsRefused) {
  const auto expect_refused = [](const auto& network, const auto& other) {
    const ScratchFolder folder;
    const Checkpoint checkpoint{.path = folder.path, .resume = true};
    ClassifierRecipe recipe = victim_recipe(OptimizerKind::adam);
    recipe.optimization.batch_size = 2;
    recipe.augmentation = {};
    const auto train = [&](auto backbone, auto&&... observers) {
      train_classifier(backbone, dataset().first(6), recipe, checkpoint, observers...);
    };
    EXPECT_THROW(train(network, StopAfter{1}), Stopped);
    expect_words(error_of([&] { train(other); }), {"network, or its initial weights"});
  };
  using ResNet = backbones::ResNet18<>;
  expect_refused(ResNet{.task = task, .width = 2, .stem = backbones::Stem{3, false}},
                 ResNet{.task = task, .width = 2, .stem = backbones::Stem{3, true}});
  using Inception = backbones::InceptionV3<task>;
  expect_refused(Inception{.width = 2, .resize = 75}, Inception{.width = 2, .resize = 96});
  using ViT = backbones::ViT<task>;
  expect_refused(ViT{.width = 16, .depth = 1, .dropout = 0}, ViT{.width = 16, .depth = 1, .dropout = 0.5});
}

TEST(Checkpoint, WithoutResume_AnInterruptedRunIsRefused) {
  const InterruptedVictim run;
  const Checkpoint fresh{.path = run.path};
  for (const std::string& line :
       {error_of([&] { train_victim(victim_recipe(), fresh); }), error_of([&] { fresh.check(); })}) {
    expect_words(line, {run.path.string(), "step 4", "--resume", "delete the folder"});
  }
  EXPECT_EQ(error_of([&] { run.checkpoint.check(); }), "");
  run.checkpoint.remove();
  fs::create_directory(run.path);
  EXPECT_EQ(error_of([&] { fresh.check(); }), "");
}

TEST(Checkpoint, BadFields_AreRefused) {
  const ScratchFolder folder;
  expect_words(error_of([] { Checkpoint{}.check(); }), {"checkpoint.path"});
  expect_words(error_of([&] { Checkpoint{.path = folder.path, .keep = 0}.check(); }),
               {"checkpoint.keep", "got 0"});
  expect_words(error_of([&] { Checkpoint{.path = folder.path, .every = -1ms}.check(); }),
               {"checkpoint.every"});
  const Checkpoint one{.path = folder.path / "a"}, two{.path = folder.path / "b"};
  expect_words(error_of([&] { train_victim(victim_recipe(), one, two); }), {"two are specified"});
  const fs::path file = folder.write("file", "");
  expect_words(error_of([&] { train_victim(victim_recipe(), Checkpoint{.path = file}); }), {file.string()});
}

TEST(Checkpoint, Damage_IsNoticedAndThePreviousOneUsed) {
  const Outcome expected = train_victim(victim_recipe());
  const InterruptedVictim run;
  const fs::path newest = run.path / "0000000004.safetensors", previous = run.path / "0000000002.safetensors";
  const std::string good = content(newest), older = content(previous);
  const auto restore = [&] {
    for (const auto& entry : fs::directory_iterator(run.path)) fs::remove(entry.path());
    std::ofstream(previous, std::ios::binary) << older;
  };
  int tried = 0;
  const auto expect_previous = [&](const std::string& damaged) {
    restore();
    std::ofstream(newest, std::ios::binary) << damaged;
    Lines lines;
    EXPECT_THROW(train_victim(victim_recipe(), run.checkpoint, lines, StopAfter{1}), Stopped);
    ASSERT_EQ(lines.warnings.size(), 1u);
    expect_words(lines.warnings[0], {newest.string(), previous.string()});
    EXPECT_EQ(lines.warnings[0].find('\n'), std::string::npos);
    expect_words(lines.notes.at(0), {"resumed after step 2"});
    EXPECT_TRUE(fs::exists(newest.string() + ".damaged"));
    ++tried;
  };
  for (const double share : {0.0, 0.01, 0.5, 0.999}) {
    expect_previous(good.substr(0, static_cast<std::size_t>(share * static_cast<double>(good.size()))));
  }
  const std::size_t header = good.find("                ") != std::string::npos ? 0 : 1;
  for (std::size_t i = header; i < good.size(); i += good.size() / 24) {
    std::string flipped = good;
    flipped[i] = static_cast<char>(flipped[i] ^ (1 << (i % 8)));
    expect_previous(flipped);
  }
  EXPECT_GE(tried, 24);
  EXPECT_EQ(train_victim(victim_recipe(), run.checkpoint), expected);
}

TEST(Checkpoint, Folder_IsUsedByOneRun) {
  const ScratchFolder folder;
  const Checkpoint checkpoint{.path = folder.path, .resume = true};
  {
    const auto store = checkpoint.open();
    for (const std::string& line :
         {error_of([&] { train_victim(victim_recipe(), checkpoint); }), error_of([&] { checkpoint.check(); }),
          error_of([&] { checkpoint.remove(); })}) {
      expect_words(line, {folder.path.string(), "another run", fmt::format("process {}", ::getpid())});
    }
  }
  EXPECT_EQ(error_of([&] { checkpoint.check(); }), "");

  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const ::pid_t child = ::fork();
  if (child == 0) {
    const auto store = checkpoint.open();
    [[maybe_unused]] const auto written = ::write(ready[1], "x", 1);
    for (;;) ::pause();
  }
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  expect_words(error_of([&] { checkpoint.check(); }), {fmt::format("process {}", child)});
  ASSERT_EQ(::kill(child, SIGKILL), 0);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(error_of([&] { checkpoint.check(); }), "") << "a crash releases the lock";
  ::close(ready[0]);
  ::close(ready[1]);
}

TEST(Checkpoint, HeldFolder_IsUsedByThisProcessOnly) {
  const ScratchFolder folder;
  const Checkpoint checkpoint{.path = folder.path / "checkpoints/"};  // which does not exist yet
  auto hold = checkpoint.hold();
  const auto error_elsewhere = [&] {
    int channel[2];
    EXPECT_EQ(::pipe(channel), 0);
    const ::pid_t child = ::fork();
    if (child == 0) {
      const std::string line = error_of([&] { [[maybe_unused]] const auto store = checkpoint.open(); });
      [[maybe_unused]] const auto written = ::write(channel[1], line.data(), line.size());
      ::_exit(0);
    }
    ::close(channel[1]);
    char text[1000] = {};
    const ::ssize_t size = ::read(channel[0], text, sizeof text);
    ::close(channel[0]);
    ::waitpid(child, nullptr, 0);
    return std::string(text, size > 0 ? static_cast<std::size_t>(size) : 0);
  };
  expect_words(error_elsewhere(), {"another run", fmt::format("process {}", ::getpid())});
  EXPECT_EQ(train_victim(victim_recipe(), checkpoint), train_victim(victim_recipe()));
  expect_words(error_elsewhere(), {"another run"});
  checkpoint.remove();
  EXPECT_FALSE(fs::exists(checkpoint.path));
  hold = checkpoint.hold();
  hold.reset();
  EXPECT_FALSE(fs::exists(checkpoint.path)) << "nothing but the lock was in it";
  EXPECT_EQ(error_elsewhere(), "");
}

TEST(Checkpoint, FilesOfTheUser_AreLeftAlone) {
  const ScratchFolder folder;
  const std::vector<std::string> names = {"0000000001.damaged", "image.damaged", "lock"};
  for (const std::string& name : names) folder.write(name, "my notes\n");
  folder.write("0000000001.safetensors.damaged", "of the run");
  const Checkpoint checkpoint{.path = folder.path, .resume = true};
  checkpoint.check();
  EXPECT_THROW(train_victim(victim_recipe(), checkpoint, StopAfter{1}), Stopped);
  checkpoint.remove();
  EXPECT_EQ(files_in(folder.path), names);
  for (const std::string& name : names) EXPECT_EQ(content(folder.path / name), "my notes\n") << name;
}

TEST(Checkpoint, FileOfTheLockThatIsNotOne_IsRefusedAndKept) {
  const ScratchFolder folder;
  const fs::path lock = folder.path / ".refine-lock", notes = folder.write("notes.txt", "my notes\n");
  const Checkpoint checkpoint{.path = folder.path};
  const auto expect_refused = [&] {
    expect_words(error_of([&] { checkpoint.check(); }),
                 {folder.path.string(), ".refine-lock", "move it away"});
  };
  for (const std::string text : {"my notes\n", "12", "\n", "1 2\n", "1\n2\n", "12345678901234567890\n"}) {
    folder.write(lock, text);
    expect_refused();
    EXPECT_EQ(content(lock), text);
  }
  for (const std::string text : {"", "7\n", "4194304\n"}) {
    folder.write(lock, text);
    EXPECT_EQ(error_of([&] { checkpoint.check(); }), "") << text;
    EXPECT_EQ(content(lock), fmt::format("{}\n", ::getpid()));
  }
  fs::remove(lock);
  fs::create_symlink("notes.txt", lock);
  expect_refused();
  EXPECT_EQ(content(notes), "my notes\n");
  fs::remove(notes);  // now the link leads nowhere
  expect_refused();
  EXPECT_FALSE(fs::exists(notes));
  fs::remove(lock);
  fs::create_directory(lock);
  expect_refused();
}

/// Allows no further open file while it exists.
class NoMoreFiles {
 public:
  NoMoreFiles() {
    ::getrlimit(RLIMIT_NOFILE, &old_);
    const int next = ::dup(0);
    ::close(next);
    ::rlimit limit = old_;
    limit.rlim_cur = static_cast<::rlim_t>(next);
    ::setrlimit(RLIMIT_NOFILE, &limit);
  }
  NoMoreFiles(const NoMoreFiles&) = delete;
  ~NoMoreFiles() { ::setrlimit(RLIMIT_NOFILE, &old_); }

 private:
  ::rlimit old_ = {};
};

TEST(Checkpoint, FolderThatCannotBeListed_IsNotTakenForAnEmptyOne) {
  const InterruptedVictim run;
  const Checkpoint fresh{.path = run.path};
  const auto hold = run.checkpoint.hold();
  std::vector<std::string> lines;
  {
    const NoMoreFiles limit;
    lines = {error_of([&] { fresh.check(); }),
             error_of([&] { train_victim(victim_recipe(), run.checkpoint); }),
             error_of([&] { run.checkpoint.remove(); })};
  }
  for (const std::string& line : lines)
    expect_words(line, {"cannot list", run.path.string(), "Too many open files"});
  EXPECT_EQ(error_of([&] { train_victim(victim_recipe(), run.checkpoint); }), "");
}

TEST(Checkpoint, FileThatCannotBeRead_IsNotTakenForADamagedOne) {
  const InterruptedVictim run;
  const fs::path newest = run.path / "0000000004.safetensors", kept = run.path / "kept";
  fs::rename(newest, kept);
  fs::create_directory(newest);  // reading it fails, also for root
  const auto before = files_in(run.path);
  expect_words(error_of([&] { train_victim(victim_recipe(), run.checkpoint); }),
               {"cannot read", newest.string(), "directory"});
  EXPECT_EQ(files_in(run.path), before);
  fs::remove(newest);
  fs::rename(kept, newest);
  EXPECT_EQ(train_victim(victim_recipe(), run.checkpoint), train_victim(victim_recipe()));
}

/// Changes the working folder after two steps.
struct ChangeFolder {
  fs::path folder;
  int steps = 0;
  void on_step(const StepInfo&) {
    if (++steps == 2) fs::current_path(folder);
  }
};

TEST(Checkpoint, RelativePath_IsThatOfTheWorkingFolderAtTheStart) {
  const ScratchFolder folder;
  fs::create_directory(folder.path / "other");
  const fs::path before = fs::current_path();
  fs::current_path(folder.path);
  fs::path saved;
  try {
    train_victim(victim_recipe(), Checkpoint{.path = "run", .every = 0ms},
                 ChangeFolder{folder.path / "other"}, StopAfter{5});
    ADD_FAILURE() << "it was not stopped";
  } catch (const Stopped& stopped) {
    saved = stopped.checkpoint();
  }
  EXPECT_TRUE(fs::exists(saved)) << saved;
  fs::current_path(before);
  EXPECT_TRUE(fs::equivalent(saved, folder.path / "run" / "0000000005.safetensors")) << saved;
  EXPECT_EQ(files_in(folder.path / "run").size(), 3u) << "two checkpoints are kept, and the lock";
  EXPECT_TRUE(files_in(folder.path / "other").empty());
}

TEST(Checkpoint, RecipeAtTheLimit_IsComparedAndALargerOneIsNot) {
  const InterruptedVictim run;
  const fs::path newest = run.path / "0000000004.safetensors";
  auto changed = formats::read_safetensors(newest);
  const auto error = [&](std::size_t bytes) {
    changed.metadata.at("recipe") = "{\"a\":\"" + std::string(bytes - 8, 'a') + "\"}";
    changed.metadata.at("sha256") = digest(changed);
    formats::write_safetensors(newest, changed);
    return error_of([&] { train_victim(victim_recipe(), run.checkpoint); });
  };
  expect_words(error(65'536),
               {"cannot resume", "recipe.optimization.epochs is", "the checkpoint has missing"});
  expect_words(error(65'537), {"cannot resume", "recipe has more than 65536 bytes"});
}

TEST(Checkpoint, NumberWithARest_IsRefused) {
  const InterruptedVictim run;
  const fs::path newest = run.path / "0000000004.safetensors";
  const auto good = formats::read_safetensors(newest);
  for (const char* key : {"step", "steps", "collapsed", "seconds"}) {
    for (const char* rest : {" ", ",5", "x"}) {
      auto changed = good;
      changed.metadata.at(key) += rest;
      changed.metadata.at("sha256") = digest(changed);
      formats::write_safetensors(newest, changed);
      expect_words(error_of([&] { train_victim(victim_recipe(), run.checkpoint); }),
                   {"cannot resume", newest.string(), fmt::format("its {} is not a number", key)});
    }
  }
}

TEST(ParseNumber, Text_IsReadWholeOrNotAtAll) {
  EXPECT_EQ(detail::parse_number<double>("-0.25"), -0.25);
  EXPECT_EQ(detail::parse_number<double>("1e-3"), 0.001);
  EXPECT_EQ(detail::parse_number<double>("5e-324"), 5e-324);
  EXPECT_TRUE(std::isnan(detail::parse_number<double>("nan").value()));
  EXPECT_EQ(detail::parse_number<std::int64_t>("-9223372036854775808"),
            std::numeric_limits<std::int64_t>::min());
  for (const char* text : {"", "x", "0,5", "0.5x", "0.5 ", "1e999"})
    EXPECT_FALSE(detail::parse_number<double>(text)) << text;
  EXPECT_FALSE(detail::parse_number<std::int64_t>("9223372036854775808"));
}

/// Limits the size of files while it exists: writing then fails as on a full disk.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(std::size_t bytes) {
    ::getrlimit(RLIMIT_FSIZE, &old_);
    handler_ = std::signal(SIGXFSZ, SIG_IGN);
    ::rlimit limit = old_;
    limit.rlim_cur = bytes;
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &old_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  ::rlimit old_ = {};
  void (*handler_)(int) = SIG_DFL;
};

TEST(Checkpoint, FullDisk_LeavesNoHalfWrittenFile) {
  const Outcome expected = train_victim(victim_recipe());
  const ScratchFolder folder;
  const Checkpoint checkpoint{.path = folder.path, .every = 0ms, .resume = true};
  EXPECT_THROW(train_victim(victim_recipe(), checkpoint, StopAfter{2}), Stopped);
  const std::string good = content(folder.path / "0000000002.safetensors");
  const auto before = files_in(folder.path);
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{5'000}, good.size() - 1}) {
    const FileSizeLimit limit(bytes);
    Lines lines;
    EXPECT_THROW(train_victim(victim_recipe(), checkpoint, lines, FailAfter{4}), std::runtime_error);
    ASSERT_FALSE(lines.warnings.empty()) << "training continues with a warning";
    expect_words(lines.warnings[0], {"cannot write", "File too large", "training continues"});
    expect_words(error_of([&] { train_victim(victim_recipe(), checkpoint, StopAfter{2}); }),
                 {"cannot write", "0000000004.safetensors", "File too large"});
    EXPECT_EQ(files_in(folder.path), before);
    EXPECT_EQ(content(folder.path / "0000000002.safetensors"), good);
  }
  EXPECT_EQ(train_victim(victim_recipe(), checkpoint), expected) << "there is room again";
}

/// An objective that is not a number after some steps.
struct BecomesNan {
  std::shared_ptr<int> steps;
  at::Tensor operator()(const at::Tensor& remapped, const at::Tensor& teacher) const {
    const at::Tensor loss = objectives::Bce{}(remapped, teacher);
    return --*steps < 0 ? loss * std::numeric_limits<double>::quiet_NaN() : loss;
  }
};

TEST(Checkpoint, Divergence_NamesTheLastGoodFile) {
  const ScratchFolder folder;
  auto defense = make_defense();
  const Checkpoint checkpoint{.path = folder.path, .every = 0ms};
  const std::string line = error_of([&] {
    fit(defense, dataset().images, BecomesNan{std::make_shared<int>(4)}, defense_recipe(), checkpoint);
  });
  expect_words(line,
               {"diverged", "not finite", "got nan in epoch 2", "lr is 0.05", "last good checkpoint is"});
  const auto path = line.find(folder.path.string());
  ASSERT_NE(path, std::string::npos);
  const auto file = formats::read_safetensors(line.substr(path));
  EXPECT_TRUE(std::isfinite(file.tensors.at("epoch.loss").item<double>()));
  for (const auto& [name, tensor] : file.tensors) EXPECT_TRUE(tensor.isfinite().all().item<bool>()) << name;
  EXPECT_LE(std::stoi(file.metadata.at("step")), 4);
}

/// An objective whose loss stays finite and whose gradient becomes NaN in the step that `left` counts
/// down to.
struct GradientBecomesNan {
  std::shared_ptr<int> left;
  at::Tensor operator()(const at::Tensor& remapped, const at::Tensor& teacher) const {
    const at::Tensor loss = objectives::Distillation{}(remapped, teacher);
    return --*left == 0 ? loss + (remapped * 0).sum().sqrt() : loss;
  }
};

TEST(Checkpoint, WeightsThatAreNotFinite_AreNoticedByTheLastSave) {
  const ScratchFolder folder;
  const auto error_after = [&](int step, std::int64_t stop) {  // `stop`: above the number of steps for none
    auto defense = make_defense();
    return error_of([&] {
      fit(defense, dataset().images, GradientBecomesNan{std::make_shared<int>(step)}, defense_recipe(),
          Checkpoint{.path = folder.path, .every = 1h}, StopAfter{stop});
    });
  };
  expect_words(error_after(step_count, step_count + 1), {"diverged", "the weights are", "epoch 3"});
  expect_words(error_after(step_count - 2, step_count - 2), {"diverged", "the weights are", "epoch 3"});
  for (const std::string& name : files_in(folder.path)) EXPECT_FALSE(name.ends_with(".safetensors")) << name;
}

TEST(Checkpoint, BufferThatWasInfiniteBefore_IsSaved) {
  const ScratchFolder folder;
  const Checkpoint checkpoint{.path = folder.path, .every = 0ms, .resume = true};
  const auto train = [&](double mean, auto&&... observers) {
    Pipeline defense{Masked{.mean = mean, .type = at::kDouble}, freeze(victim()),
                     remaps::Derangement<task>{}};
    fit(defense, dataset().images, defense_recipe(OptimizerKind::sgd), observers...);
    return bytes_of(*defense.transform().module);
  };
  EXPECT_THROW(train(0, checkpoint, StopAfter{4}), Stopped);
  EXPECT_EQ(train(0, checkpoint), train(0));
  checkpoint.remove();
  expect_words(error_of([&] { train(INFINITY, checkpoint); }), {"diverged", "the weights are"});
  EXPECT_FALSE(fs::exists(folder.path)) << "nothing was saved";
}

/// A module of one number.
struct OneNumber : torch::nn::Module {
  at::Tensor value = register_parameter("value", at::zeros({1}));
};

/// A transform that has collapsed: all images become the same one.
struct Collapsed {
  static constexpr ImageShape image = task.image;
  std::shared_ptr<OneNumber> module = std::make_shared<OneNumber>();
  at::Tensor forward(const at::Tensor& x) const {
    return (at::ones_like(x) * 0.5 + module->value.view({1, 1, 1, 1})).clamp(0, 1);
  }
};

TEST(Fit, CollapsedTransform_EndsTheRun) {
  const ScratchFolder folder;
  Pipeline defense{Collapsed{}, freeze(victim()), remaps::Derangement<task>{}};
  Recipe recipe = defense_recipe(OptimizerKind::sgd);
  recipe.optimization.epochs = 60;
  History history;
  expect_words(error_of([&] {
                 fit(defense, dataset().images, recipe, history,
                     Checkpoint{.path = folder.path, .every = 0ms});
               }),
               {"collapsed", "one class", "lr is 0.05", "last good checkpoint is", folder.path.string()});
  EXPECT_GE(history.epochs.size() * image_count, 1000u) << "few images of one class show nothing";
  EXPECT_GE(3 * history.epochs.size(), 100u) << "nor do few steps";
  EXPECT_LE(history.epochs.size(), 51u);
}

TEST(TrainClassifier, NoProgress_IsAWarning) {
  const data::Dataset many = data::Synthetic{.task = task, .train = 160, .test = 0}.make().train;
  ClassifierRecipe recipe = victim_recipe(OptimizerKind::sgd);
  recipe.optimization.epochs = 2;
  recipe.optimization.lr = 1e-9;
  Lines lines;
  train_classifier(Network{.width = 4}, many, recipe, lines);
  ASSERT_EQ(lines.warnings.size(), 1u);
  expect_words(lines.warnings[0], {"victim", "chance", "labels", "lr is 1e-09"});

  recipe = victim_recipe();
  recipe.optimization.epochs = 30;
  recipe.augmentation = {};
  Lines none;
  train_classifier(Network{.width = 4}, many, recipe, none);
  EXPECT_TRUE(none.warnings.empty()) << none.warnings.front();
}

TEST(TrainClassifier, NoProgressAfterHalfOfTheSteps_EndsTheRun) {
  const ScratchFolder folder;
  const data::Dataset many = data::Synthetic{.task = task, .train = 1000, .test = 0}.make().train;
  ClassifierRecipe recipe = victim_recipe(OptimizerKind::sgd);
  recipe.optimization.lr = 1e-9;
  recipe.optimization.batch_size = 20;  // 50 steps an epoch
  recipe.optimization.epochs = 5;
  History history;
  Lines lines;
  const auto train = [&](auto&... observers) {
    return error_of([&] { train_classifier(Network{.width = 4}, many, recipe, history, observers...); });
  };
  Checkpoint checkpoint{.path = folder.path, .every = 0ms};
  expect_words(train(lines, checkpoint),
               {"after 200 of 250 steps the victim answers no better than chance", "on 1000 images", "labels",
                "lr is 1e-09", "last good checkpoint is", folder.path.string()});
  EXPECT_EQ(history.epochs.size(), 4u);
  EXPECT_EQ(lines.warnings.size(), 1u);
  recipe.optimization.epochs = 1;  // it has ended by itself
  EXPECT_EQ(train(lines), "");
  data::Dataset uneven = many;
  uneven.labels = (at::arange(1000) % 5 == 0).to(at::kLong);  // 800 of one class
  recipe.optimization.epochs = 5;
  EXPECT_EQ(error_of([&] { train_classifier(Network{.width = 4}, uneven, recipe, lines); }), "");
}

TEST(TrainClassifier, OneClass_IsNoWarning) {
  data::Dataset many = data::Synthetic{.task = task, .train = 160, .test = 0}.make().train;
  many.labels = at::zeros_like(many.labels);
  ClassifierRecipe recipe = victim_recipe(OptimizerKind::sgd);
  recipe.optimization.epochs = 1;
  Lines lines;
  train_classifier(Network{.width = 4}, many, recipe, lines);
  EXPECT_TRUE(lines.warnings.empty()) << lines.warnings.front();
}

TEST(ResumeCommand, Words_AreQuotedForAShell) {
  const char* words[] = {"refine", "defend",  "--resume", "--out", "my results/it's",
                         "--mean", "0.5,0.5", "",         "$(a)"};
  EXPECT_EQ(resume_command(9, words),
            "refine defend --out 'my results/it'\\''s' --mean 0.5,0.5 '' '$(a)' --resume");
}

// What a person reads who presses Ctrl-C twice.
TEST(StopOnSignalDeathTest, SecondSignal_EndsAtOnceAndSaysHowToGoOn) {
  const auto ended = [](int first, int second) {
    StopOnSignal signals("program --resume");
    signals.on_begin({});
    std::raise(first);
    if (!signals.stop_requested()) std::_Exit(1);
    std::raise(second);
    std::_Exit(2);
  };
  const char* const text =
      "stopped at once: the steps since the last checkpoint are lost\ngo on with: program --resume";
  EXPECT_EXIT(ended(SIGINT, SIGINT), ::testing::ExitedWithCode(130), text);
  EXPECT_EXIT(ended(SIGINT, SIGTERM), ::testing::ExitedWithCode(143), text);
  const auto unsaved = [] {
    StopOnSignal signals;
    signals.on_begin({});
    std::raise(SIGINT);
    std::raise(SIGINT);
  };
  EXPECT_EXIT(unsaved(), ::testing::ExitedWithCode(130), "^$");
}

TEST(StopOnSignalDeathTest, SignalAfterATrainingThatFailed_EndsAtOnce) {
  StopOnSignal signals("program --resume");
  EXPECT_THROW(train_victim(victim_recipe(), signals, FailAfter{2}), std::runtime_error);
  const auto raise = [] {
    std::raise(SIGINT);
    std::_Exit(1);
  };
  EXPECT_EXIT(raise(), ::testing::ExitedWithCode(130), "^$") << "nothing was saved";
  train_victim(victim_recipe(), signals);
  EXPECT_EXIT(raise(), ::testing::ExitedWithCode(130), "training is complete and saved");
  EXPECT_THROW(train_victim(victim_recipe(), signals, FailAfter{2}), std::runtime_error);
  EXPECT_EXIT(raise(), ::testing::ExitedWithCode(130), "^$") << "the first one was";
}

/// Raises a signal in a step.
struct RaiseAt {
  std::int64_t step;
  void on_step(const StepInfo&) {
    if (--step == 0) std::raise(SIGINT);
  }
};

TEST(StopOnSignal, NextTraining_IsStoppedByASignalThatNoneHasAnswered) {
  StopOnSignal signals;
  const auto steps_of = [&](auto&&... observers) -> std::int64_t {
    try {
      train_victim(victim_recipe(), signals, observers...);
    } catch (const Stopped& stopped) {
      return stopped.step();
    } catch (const std::runtime_error&) {
      return 0;
    }
    return step_count;
  };
  EXPECT_EQ(steps_of(RaiseAt{3}), 3);
  EXPECT_EQ(StopOnSignal::exit_status(), 130);
  EXPECT_EQ(steps_of(), step_count) << "the signal has stopped another one";
  EXPECT_EQ(steps_of(RaiseAt{2}, FailAfter{2}), 0);
  EXPECT_EQ(steps_of(), 1) << "the one that it was for has failed before";
}

}  // namespace
}  // namespace refine
