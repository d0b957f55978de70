#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/lerp.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>
#include <fmt/core.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/conv.h>
#include <unistd.h>
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/backbones/vit.hpp>
#include <refine/data/sources.hpp>
#include <refine/nn/autocast.hpp>
#include <refine/nn/torch_random.hpp>
#include <refine/remaps/remaps.hpp>
#include <refine/training/detail/loop.hpp>
#include <refine/training/training.hpp>
#include <refine/transforms/transform.hpp>
#include <refine/transforms/unet.hpp>
#include <tests/training/masked.hpp>
#include <tests/training/task.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support/error_of.hpp"

namespace refine {
namespace {

using refine::testing::error_of;
using refine::testing::expect_words;

using Victim = backbones::ResNet18<task>;
using UNet = transforms::UNet<task>;

const data::Split& images() {
  static const data::Split split = [] {
    use_threads(1);
    return data::Synthetic{.task = task, .train = 256, .test = 64}.make();
  }();
  return split;
}

ClassifierRecipe quick(int epochs) {
  return {.optimization = {.optimizer = OptimizerKind::muon,
                           .lr = 0.05,
                           .weight_decay = 0,
                           .adam_lr = 0.01,
                           .schedule = Schedule::one_cycle,
                           .batch_size = 32,
                           .epochs = epochs},
          .augmentation = {.flip = true}};
}

Recipe quick_defense(int epochs) {
  Recipe recipe{.objective = ObjectiveKind::distillation, .optimization = quick(epochs).optimization};
  return recipe;
}

/// Trained once, for all tests of this file.
const Victim& victim() {
  static const Victim trained = train_classifier(Victim{.width = 4}, images().train, quick(4));
  return trained;
}

auto defense_of() {
  return Pipeline{UNet{.levels = 2, .width = 4}, freeze(victim()), remaps::Derangement<task>{}};
}

std::string bytes_of(const torch::nn::Module& module) {
  std::string all;
  const auto append = [&](const at::Tensor& tensor) {
    const at::Tensor flat = tensor.detach().contiguous();
    all.append(static_cast<const char*>(flat.const_data_ptr()), flat.nbytes());
  };
  for (const auto& parameter : module.parameters()) append(parameter);
  for (const auto& buffer : module.buffers()) append(buffer);
  return all;
}

double share(const at::Tensor& logits, const at::Tensor& labels) {
  return logits.argmax(1).eq(labels).to(at::kDouble).mean().item<double>();
}

TEST(TrainClassifier, SyntheticImages_AreLearned) {
  const auto& test = images().test;
  EXPECT_FALSE(victim().module->is_training());
  EXPECT_GT(share(victim().forward(data::to_float(test.images, at::kCPU)), test.labels),
            0.8);  // chance: 0.25
}

TEST(TrainClassifier, Seed_DeterminesWeightsBitwise) {
  const auto few = images().train.first(96);
  const auto weights = [&](std::uint64_t seed) {
    auto recipe = quick(2);
    recipe.seed = seed;
    return bytes_of(*train_classifier(Victim{.width = 4}, few, recipe).module);
  };
  const std::string one = weights(1);
  EXPECT_EQ(weights(1), one);
  EXPECT_NE(weights(2), one);
}

/// A network that records the type of the results of its first convolution.
struct RecordsPrecision {
  Task task = refine::task;
  std::shared_ptr<torch::nn::Conv2dImpl> module = nn::with_torch_seed(
      1, [] { return std::make_shared<torch::nn::Conv2dImpl>(torch::nn::Conv2dOptions(3, 4, 3)); });
  std::shared_ptr<std::vector<at::ScalarType>> seen = std::make_shared<std::vector<at::ScalarType>>();

  at::Tensor forward(const at::Tensor& x) const {
    const at::Tensor y = module->forward(x);
    seen->push_back(y.scalar_type());
    return y.mean({2, 3});
  }
};

TEST(TrainClassifier, Precision_IsTheRecipes) {
  const auto few = images().train.first(64);
  const at::Device device = default_device();
  const bool has = nn::has_bfloat16(device);
  for (const auto& [precision, expected] :
       {std::pair{Precision::float32, at::kFloat}, std::pair{Precision::bfloat16, at::kBFloat16},
        std::pair{Precision::automatic, has ? at::kBFloat16 : at::kFloat}}) {
    ClassifierRecipe recipe = quick(1);
    recipe.optimization.precision = precision;
    const RecordsPrecision network = train_classifier(RecordsPrecision{}, few, recipe);
    ASSERT_EQ(network.seen->size(), 2u);
    for (const at::ScalarType type : *network.seen) EXPECT_EQ(type, expected);
    EXPECT_EQ(network.module->weight.scalar_type(), at::kFloat);
    EXPECT_EQ(network.module->weight.grad().scalar_type(), at::kFloat);
    EXPECT_FALSE(at::autocast::is_autocast_enabled(device.type()));
  }
}

/// A convolution, BatchNorm and the mean over the pixels.
struct Normed {
  Task task = refine::task;
  std::shared_ptr<torch::nn::SequentialImpl> module = nn::with_torch_seed(1, [] {
    return torch::nn::Sequential(torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 4, 3)),
                                 torch::nn::BatchNorm2d(4))
        .ptr();
  });

  at::Tensor forward(const at::Tensor& x) const { return module->forward(x).mean({2, 3}); }
  at::Tensor convolution(const at::Tensor& x) const {
    return module->ptr(0)->as<torch::nn::Conv2dImpl>()->forward(x);
  }
  const torch::nn::BatchNorm2dImpl& norm() const { return *module->ptr(1)->as<torch::nn::BatchNorm2dImpl>(); }
};

/// A network with a BatchNorm that is not called.
struct NormedTwice : Normed {
  std::shared_ptr<torch::nn::BatchNorm2dImpl> idle =
      module->register_module("idle", std::make_shared<torch::nn::BatchNorm2dImpl>(4));
};

TEST(TrainClassifier, ShortRun_BatchNormHasTheStatisticsOfTheTrainedWeights) {
  const at::NoGradGuard no_grad;
  // Returns the largest difference of the running mean from the mean over the first images, in standard deviations.
  const auto lag = [&](std::int64_t count, int batch_size, int epochs, std::int64_t of = 64) {
    const auto few = images().train.first(count);
    ClassifierRecipe recipe{.optimization = {.lr = 0.2, .batch_size = batch_size, .epochs = epochs}};
    NormedTwice fresh;
    fresh.idle->running_mean.fill_(3);
    const NormedTwice network = [&] {
      const at::AutoGradMode grad(true);
      return train_classifier(fresh, few, recipe);
    }();
    EXPECT_EQ(network.norm().options.momentum(), 0.1);
    EXPECT_EQ(network.norm().num_batches_tracked.item<std::int64_t>(),
              (count + batch_size - 1) / batch_size * epochs);
    EXPECT_TRUE(network.idle->running_mean.eq(3).all().item<bool>());
    const at::Tensor y = network.convolution(data::to_float(few.first(of).images, at::kCPU));
    EXPECT_LT(((y.var({0, 2, 3}) / network.norm().running_var).log()).abs().max().item<float>(), 0.7);
    return ((y.mean({0, 2, 3}) - network.norm().running_mean) / y.std({0, 2, 3})).abs().max().item<float>();
  };
  EXPECT_LT(lag(64, 32, 3), 1e-4);
  EXPECT_GT(lag(64, 2, 16), 1e-2) << "512 steps: the averages of the training";
  EXPECT_LT(lag(66, 64, 3), 0.1) << "two images have no share of a half";
}

TEST(Fit, Bfloat16_TrainsAsWellAsFloat32) {
  const auto last_epoch = [](Precision precision) {
    auto defense = defense_of();
    Recipe recipe = quick_defense(6);
    recipe.optimization.precision = precision;
    History history;
    fit(defense, images().train.images, recipe, history);
    EXPECT_EQ(defense.forward(at::rand({2, 3, 16, 16}, default_device())).scalar_type(), at::kFloat);
    return history.epochs.back();
  };
  const EpochInfo float32 = last_epoch(Precision::float32), bfloat16 = last_epoch(Precision::bfloat16);
  EXPECT_NE(float32.loss, bfloat16.loss);
  EXPECT_NEAR(bfloat16.loss, float32.loss, 0.3 * float32.loss);
  EXPECT_NEAR(bfloat16.accuracy, float32.accuracy, 0.15);
}

/// A victim with an operator that does not take tensors of two types.
struct OneTypeVictim {
  static constexpr Task task = refine::task;
  std::shared_ptr<torch::nn::Module> module = std::make_shared<torch::nn::Module>("one type");
  at::Tensor kernel = nn::with_torch_seed(5, [] { return at::randn({3, 3, 3, 3}, default_device()); });
  static constexpr bool frozen = true;

  at::Tensor forward(const at::Tensor& x) const {
    const at::Tensor mean = at::lerp(at::conv2d(x, kernel, {}, 1, 1), x, 0.5).mean({2, 3});
    return 20 * at::cat({mean, mean.narrow(1, 0, 1).neg()}, 1);  // four classes
  }
};

/// Keeps what a training reports.
struct Notes {
  std::string text;
  void on_note(std::string_view line) { text += std::string(line) + "\n"; }
};

TEST(Fit, VictimThatIsNotForBfloat16_IsTrainedWithInFloat32) {
  const auto train = [](Precision precision) {
    Pipeline defense{UNet{.levels = 1, .width = 4}, OneTypeVictim{}, remaps::Derangement<task>{}};
    Recipe recipe = quick_defense(1);
    recipe.optimization.precision = precision;
    Notes notes;
    fit(defense, images().train.images, recipe, notes);
    return notes.text;
  };
  EXPECT_EQ(train(Precision::float32), "");
  const std::string noted = train(Precision::automatic);
  if (nn::has_bfloat16(default_device())) {
    expect_words(noted, {"the victim cannot be computed in bfloat16", "dtype", "float32"});
  } else {
    EXPECT_EQ(noted, "");
  }
  const std::string error = error_of([&] { train(Precision::bfloat16); });
  expect_words(error, {"precision", "bfloat16", "dtype", "float32 or automatic"});
}

TEST(Autocast, Destruction_RestoresUserSettings) {
  at::autocast::set_autocast_enabled(at::kCPU, true);
  at::autocast::set_autocast_dtype(at::kCPU, at::kHalf);
  { const nn::Autocast off(at::kCPU, false); }
  try {
    const nn::Autocast on(at::kCPU, true);
    EXPECT_EQ(at::autocast::get_autocast_dtype(at::kCPU), at::kBFloat16);
    throw Error("left early");
  } catch (const Error&) {
  }
  EXPECT_TRUE(at::autocast::is_autocast_enabled(at::kCPU));
  EXPECT_EQ(at::autocast::get_autocast_dtype(at::kCPU), at::kHalf);
  at::autocast::set_autocast_enabled(at::kCPU, false);
  at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
}

TEST(Autocast, InsideOneOfAnotherType_ComputesInBfloat16) {
  const torch::nn::Conv2d convolution(torch::nn::Conv2dOptions(3, 4, 3));
  const at::Tensor x = at::rand({1, 3, 5, 5});
  const auto type = [&] { return at::conv2d(x, convolution->weight).scalar_type(); };
  at::autocast::set_autocast_enabled(at::kCPU, true);
  at::autocast::set_autocast_dtype(at::kCPU, at::kHalf);
  EXPECT_EQ(type(), at::kHalf);
  {
    const nn::Autocast inner(at::kCPU, true);
    EXPECT_EQ(type(), at::kBFloat16);
  }
  EXPECT_EQ(type(), at::kHalf);
  at::autocast::clear_cache();
  at::autocast::set_autocast_enabled(at::kCPU, false);
  at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
}

/// Losses of each of a few steps.
std::vector<double> losses_of(Precision precision, auto&& train) {
  Optimization optimization{.lr = 0.02, .batch_size = 96, .epochs = 6, .precision = precision};
  History history;
  train(optimization, history);
  std::vector<double> losses;
  for (const EpochInfo& epoch : history.epochs) losses.push_back(epoch.loss);
  return losses;
}

TEST(Training, UnderTheCallersAutocast_UsesTheWeightsOfEachStep) {
  const auto few = images().train.first(96);
  const at::Tensor x = data::to_float(few.images, at::kCPU);
  // The casts are kept as long as there is an autocast: one of the caller's may exist before the training and after it.
  const auto in_autocast = [&](const auto& classify, const auto& train) {
    const nn::Autocast autocast(at::kCPU, true);
    classify(x);
    train();
    const at::Tensor answer = classify(x);
    at::autocast::clear_cache();
    EXPECT_TRUE(answer.equal(classify(x)));
    EXPECT_TRUE(at::autocast::is_autocast_cache_enabled());
  };
  const auto classifier = [&](const Victim& network) {
    return [&](const Optimization& optimization, History& history) {
      train_classifier(network, few, ClassifierRecipe{.optimization = optimization}, history);
    };
  };
  const Victim network{.width = 8}, alone{.width = 8};
  const auto losses = losses_of(Precision::bfloat16, classifier(alone));
  network.module->eval();  // what it classifies before the training changes no statistics
  in_autocast([&](const at::Tensor& images) { return network.forward(images); },
              [&] { EXPECT_EQ(losses_of(Precision::float32, classifier(network)), losses); });
  EXPECT_TRUE(bytes_of(*network.module) == bytes_of(*alone.module));

  const auto fitted = [&](auto& defense) {
    return [&](const Optimization& optimization, History& history) {
      // SupCon multiplies matrices, which the caller's autocast computes in bfloat16.
      fit(defense, few.images, Recipe{.supcon_weight = 0, .optimization = optimization}, history);
    };
  };
  auto plain = defense_of(), outer = defense_of();
  const auto defended = losses_of(Precision::bfloat16, fitted(plain));
  outer.transform().module->eval();
  in_autocast([&](const at::Tensor& images) { return outer.forward(images); },
              [&] { EXPECT_EQ(losses_of(Precision::float32, fitted(outer)), defended); });
  EXPECT_TRUE(bytes_of(*outer.transform().module) == bytes_of(*plain.transform().module));
}

TEST(Training, UnderNoGradGuard_GivesTheSameWeights) {
  const auto few = images().train.first(64);
  const auto trained = [&] {
    auto defense = defense_of();
    fit(defense, few.images, quick_defense(1));
    return bytes_of(*train_classifier(Victim{.width = 4}, few, quick(1)).module) +
           bytes_of(*defense.transform().module);
  };
  const std::string expected = trained();
  const c10::NoGradGuard no_grad;
  EXPECT_EQ(trained(), expected);
  EXPECT_FALSE(c10::GradMode::is_enabled());
}

TEST(Training, InInferenceMode_IsRefusedByName) {
  auto defense = defense_of();
  const Victim network{.width = 4};
  const c10::InferenceMode inference;
  expect_words(error_of([&] { fit(defense, images().train.images, quick_defense(1)); }),
               {"fit", "c10::InferenceMode"});
  expect_words(error_of([&] { train_classifier(network, images().train, quick(1)); }),
               {"train_classifier", "c10::InferenceMode"});
}

/// Dropout draws from LibTorch's global generator, which the program shares.
TEST(TrainClassifier, Dropout_IsIndependentOfTheGlobalGenerator) {
  const auto trained = [] {
    const backbones::ViT<> fresh{.task = {{3, 16, 16}, 3}, .width = 16, .depth = 1, .dropout = 0.5};
    const auto set = data::Synthetic{.task = fresh.task, .train = 24, .test = 0}.make().train;
    ClassifierRecipe recipe{.optimization = {.optimizer = OptimizerKind::adam, .lr = 0.01, .batch_size = 8}};
    return train_classifier(fresh, set, recipe).module->parameters();
  };
  at::manual_seed(1);
  const auto first = trained();
  const at::Tensor after = at::rand({8});
  const auto second = trained();
  for (std::size_t i = 0; i < first.size(); ++i) EXPECT_TRUE(first[i].equal(second[i])) << i;
  at::manual_seed(1);
  EXPECT_TRUE(at::rand({8}).equal(after)) << "training leaves the global generator unchanged";
}

TEST(TrainClassifier, EveryOptimizer_LowersTheLoss) {
  for (const auto& [kind, lr] : {std::pair{OptimizerKind::sgd, 0.05}, {OptimizerKind::adam, 0.005}}) {
    auto recipe = quick(2);
    recipe.optimization.optimizer = kind;
    recipe.optimization.lr = lr;
    History history;
    train_classifier(Victim{.width = 4}, images().train, recipe, history);
    ASSERT_EQ(history.epochs.size(), 2u);
    EXPECT_LT(history.epochs[1].loss, history.epochs[0].loss);
  }
}

TEST(Fit, ImagesWithoutLabels_TrainTheTransformOnly) {
  auto defense = defense_of();
  const std::string victim_before = bytes_of(*defense.backbone().module);
  const std::string transform_before = bytes_of(*defense.transform().module);
  History history;
  fit(defense, images().train.images, quick_defense(6), history);
  EXPECT_EQ(bytes_of(*defense.backbone().module), victim_before);
  EXPECT_NE(bytes_of(*defense.transform().module), transform_before);
  EXPECT_FALSE(defense.transform().module->is_training());
  const at::Tensor test = data::to_float(images().test.images, at::kCPU);
  // Without training, the agreement is near 0, since every class is renamed.
  EXPECT_GT(share(defense.forward(test), defense.undefended(test).argmax(1)), 0.6);
  EXPECT_LT(history.epochs.back().loss, history.epochs.front().loss);
}

TEST(Fit, SeedWithEveryObjective_DeterminesWeightsBitwise) {
  for (const auto objective : {ObjectiveKind::bce, ObjectiveKind::nll, ObjectiveKind::distillation}) {
    const auto weights = [&](std::uint64_t seed) {
      auto defense = defense_of();
      auto recipe = quick_defense(1);
      recipe.objective = objective;
      recipe.seed = seed;
      recipe.augmentation = {.flip = true, .crop_padding = 2, .grayscale = 0.2};
      fit(defense, images().train.images.narrow(0, 0, 96), recipe);
      return bytes_of(*defense.transform().module);
    };
    const std::string one = weights(1);
    EXPECT_EQ(weights(1), one);
    EXPECT_NE(weights(2), one);
  }
}

/// The weights after `fit` with these arguments, which follow the images.
template <typename... Arguments>
std::string fitted_weights(Arguments&&... arguments) {
  auto defense = defense_of();
  fit(defense, images().train.images.narrow(0, 0, 96), arguments...);
  return bytes_of(*defense.transform().module);
}

/// The built-in `objectives::Nll`, written by a user.
struct MyNll {
  at::Tensor operator()(const at::Tensor& remapped, const at::Tensor& teacher) const {
    return at::cross_entropy_loss(remapped, teacher.argmax(1));
  }
};

/// An objective that is not built in: the distance of the logits.
struct SquaredError {
  at::Tensor operator()(const at::Tensor& remapped, const at::Tensor& teacher) const {
    return (remapped - teacher).square().mean();
  }
};

TEST(Fit, ObjectiveEqualToABuiltInOne_GivesItsWeightsBitwise) {
  Recipe recipe = quick_defense(2);
  recipe.augmentation = {.flip = true};
  recipe.objective = ObjectiveKind::nll;
  const std::string nll = fitted_weights(recipe);
  recipe.objective = ObjectiveKind::bce;  // has no effect where an objective is passed
  EXPECT_NE(fitted_weights(recipe), nll);
  EXPECT_EQ(fitted_weights(MyNll{}, recipe), nll);
  EXPECT_EQ(fitted_weights(objectives::Nll{}, recipe), nll);
  EXPECT_EQ(fitted_weights(
                [](const at::Tensor& remapped, const at::Tensor& teacher) {
                  return at::cross_entropy_loss(remapped, teacher.argmax(1));
                },
                recipe),
            nll);
}

TEST(Fit, BuiltInObjectivePassed_GivesTheWeightsOfItsName) {
  Recipe recipe = quick_defense(1);
  recipe.temperature = 2;
  recipe.objective = ObjectiveKind::distillation;
  EXPECT_EQ(fitted_weights(objectives::Distillation{.temperature = 2}, recipe), fitted_weights(recipe));
  EXPECT_NE(fitted_weights(objectives::Distillation{.temperature = 4}, recipe), fitted_weights(recipe));
  recipe.objective = ObjectiveKind::bce;
  EXPECT_EQ(fitted_weights(objectives::Bce{}, recipe), fitted_weights(recipe));
}

TEST(Fit, AnotherObjective_TrainsToAnotherResult) {
  auto defense = defense_of();
  History history;
  fit(defense, images().train.images, SquaredError{}, quick_defense(9), history);
  EXPECT_LT(history.epochs.back().loss, history.epochs.front().loss);
  const at::Tensor test = data::to_float(images().test.images, at::kCPU);
  EXPECT_GT(share(defense.forward(test), defense.undefended(test).argmax(1)), 0.6);

  const std::string squared = fitted_weights(SquaredError{}, quick_defense(1));
  EXPECT_EQ(fitted_weights(SquaredError{}, quick_defense(1)), squared);
  for (const auto kind : {ObjectiveKind::bce, ObjectiveKind::nll, ObjectiveKind::distillation}) {
    Recipe recipe = quick_defense(1);
    recipe.objective = kind;
    EXPECT_NE(fitted_weights(recipe), squared);
  }
}

TEST(Fit, ObjectiveThatReturnsNoLoss_IsRefused) {
  const auto line = [](const auto& objective) {
    return error_of([&] { fitted_weights(objective, quick_defense(1)); });
  };
  expect_words(line([](const at::Tensor& remapped, const at::Tensor& teacher) {
                 return (remapped - teacher).square().sum(1);
               }),
               {"objective", "no dimensions", "got 1", ".mean()"});
  expect_words(line([](const at::Tensor&, const at::Tensor& teacher) { return teacher.sum(); }),
               {"objective", "no gradient", "remapped"});
  expect_words(line([](const at::Tensor&, const at::Tensor&) { return at::Tensor(); }),
               {"objective", "undefined"});
  expect_words(line([](const at::Tensor& remapped, const at::Tensor&) { return remapped.sum() * NAN; }),
               {"training the defense diverged", "nan"});
}

/// A victim that records the images that it sees without gradient, as a teacher does.
struct RecordsImages {
  Task task = refine::task;
  std::shared_ptr<torch::nn::Conv2dImpl> module = nn::with_torch_seed(
      1, [] { return std::make_shared<torch::nn::Conv2dImpl>(torch::nn::Conv2dOptions(3, 4, 16)); });
  std::shared_ptr<std::vector<at::Tensor>> seen = std::make_shared<std::vector<at::Tensor>>();

  at::Tensor forward(const at::Tensor& x) const {
    if (!at::GradMode::is_enabled()) {
      for (const at::Tensor& image : x.detach().cpu().unbind(0)) seen->push_back(image.clone());
    }
    return module->forward(x).flatten(1);
  }
};

std::vector<at::Tensor> seen_by_teacher(TeacherInput teacher, const at::Tensor& bytes) {
  const RecordsImages victim;
  Pipeline defense{UNet{.levels = 2, .width = 4}, freeze(victim), remaps::Derangement<task>{}};
  victim.seen->clear();  // both have asked it
  Recipe recipe = quick_defense(3);
  recipe.teacher = teacher;
  recipe.augmentation = {.flip = true, .crop_padding = 2, .mix = 0.5};
  fit(defense, bytes, recipe);
  return *victim.seen;
}

TEST(Fit, TeacherInputOriginal_SeesEachImageOnceUnchanged) {
  const at::Tensor bytes = images().train.images.narrow(0, 0, 50);
  const at::Tensor plain = data::to_float(bytes, at::kCPU);
  const auto among_plain = [&](const at::Tensor& image) {
    return plain.eq(image).flatten(1).all(1).nonzero().numel() > 0;
  };
  const auto once = seen_by_teacher(TeacherInput::original, bytes);
  EXPECT_EQ(once.size(), 50u);
  EXPECT_TRUE(std::ranges::all_of(once, among_plain));
  const auto always = seen_by_teacher(TeacherInput::augmented, bytes);
  EXPECT_EQ(always.size(), 150u);
  EXPECT_LT(std::ranges::count_if(always, among_plain), 30);
}

TEST(Fit, TeacherInputWithoutAugmentation_MakesNoDifference) {
  const auto weights = [&](TeacherInput teacher) {
    auto defense = defense_of();
    Recipe recipe = quick_defense(2);
    recipe.objective = ObjectiveKind::nll;  // depends on the class only, which rounding does not change
    recipe.teacher = teacher;
    fit(defense, images().train.images.narrow(0, 0, 96), recipe);
    return bytes_of(*defense.transform().module);
  };
  EXPECT_EQ(weights(TeacherInput::original), weights(TeacherInput::augmented));
}

TEST(TeacherAnswers, MixedImage_GetsTheMixtureOfTwoAnswers) {
  constexpr std::int64_t n = 12;
  const at::Tensor bytes = at::arange(n).mul(20).to(at::kByte).view({n, 1, 1, 1}).repeat({1, 3, 2, 2});
  const auto grey = [](std::int64_t which) { return static_cast<double>(which * 20) / 255; };
  const auto truth = [&](std::int64_t which) { return 1 / (1 + std::exp(-2 * (4 * grey(which) - 2))); };
  const auto forward = [](const at::Tensor& x) {
    const at::Tensor logit = 4 * x.mean({1, 2, 3}) - 2;
    return at::stack({logit, -logit}, 1);
  };
  const Recipe recipe{.teacher = TeacherInput::original, .augmentation = {.mix = 1}, .seed = 5};
  const detail::BatchAugmentation augmentation(recipe.augmentation);
  detail::TeacherAnswers answers(recipe, n);
  int mixed = 0;
  for (std::int64_t step = 0; step < 3; ++step) {
    const at::Tensor indices = at::arange(n).mul(5).add(step).remainder(n);  // another order at each step
    const at::Tensor plain = data::to_float(bytes.index_select(0, indices), at::kCPU);
    const at::Tensor changed = augmentation(plain, indices, recipe.seed, step);
    const at::Tensor answer =
        answers({changed, plain, indices, step, step == 0}, augmentation, forward).softmax(1);
    for (std::int64_t i = 0; i < n; ++i) {
      const auto first = indices[i].item<std::int64_t>(),
                 second = indices[(i + n - 1) % n].item<std::int64_t>();
      const double share = (changed[i][0][0][0].item<double>() - grey(second)) / (grey(first) - grey(second));
      EXPECT_NEAR(answer[i][0].item<double>(), share * truth(first) + (1 - share) * truth(second), 1e-4);
      mixed += share < 0.95;
    }
  }
  EXPECT_GT(mixed, n);
}

struct CountsEpochs {
  int epochs = 0;
  void on_epoch(const EpochInfo&) { ++epochs; }
};

struct RecordsEvents {
  std::vector<std::string> events;
  void on_begin(const RunInfo& info) {
    events.push_back(fmt::format("begin {} {} {} {}", info.name, info.epochs, info.batches, info.images));
  }
  void on_step(const StepInfo& info) {
    events.push_back(fmt::format("step {} {} {}", info.epoch, info.batch, info.images));
  }
  void on_epoch(const EpochInfo& info) { events.push_back(fmt::format("epoch {}", info.epoch)); }
  void on_end() { events.push_back("end"); }
};

// An observer has at least one event; objectives are not observers, nor observers objectives.
struct NoEvents {};
struct WrongEvent {
  void on_epoch(int) {}
};
static_assert(Observer<CountsEpochs> && Observer<RecordsEvents&> && Observer<History> && Observer<JsonLines>);
static_assert(Observer<ProgressBar&>);

struct NllDescribeIsNotConst : MyNll {
  std::string describe() { return ""; }
};
static_assert(objectives::Objective<MyNll> && objectives::Objective<objectives::Distillation>);
static_assert(!objectives::Objective<NllDescribeIsNotConst>, "its settings would not be compared");

// A function that would never be called is an error.
struct Begins {
  void on_begin(const RunInfo&) {}
};
struct EpochTakesStep : Begins {
  void on_epoch(const StepInfo&) {}
};
struct StepTakesNumbers : Begins {
  void on_step(int, int) {}
};
struct EndTakesNumber : Begins {
  void on_end(int) {}
};
struct WarningTakesNothing : Begins {
  void on_warning() {}
};
struct StopReturnsText : Begins {
  std::string stop_requested() { return ""; }
};
struct Generic : Begins {
  void on_step(const auto&) {}
  void on_note(std::string_view) {}
  void on_note(int) {}
};
class PrivateHelper : public Begins {
  void on_epoch(int) {}
};
static_assert(Observer<Begins> && Observer<Generic&> && Observer<PrivateHelper>);
static_assert(!Observer<EpochTakesStep> && !Observer<StepTakesNumbers&> && !Observer<EndTakesNumber>);
static_assert(!Observer<WarningTakesNothing> && !Observer<StopReturnsText>);
static_assert(!Observer<NoEvents> && !Observer<WrongEvent> && !Observer<Recipe>);
static_assert(!Observer<const CountsEpochs&>, "on_epoch changes it");
static_assert(!Observer<MyNll> && !Observer<objectives::Nll&> && !objectives::Objective<History>);
static_assert(!objectives::Objective<ProgressBar> && !objectives::Objective<Recipe>);

using Defense = decltype(defense_of());
template <typename... Arguments>
concept Fits = requires(Defense& defense, const at::Tensor& bytes, Arguments... arguments) {
  fit(defense, bytes, arguments...);
};
static_assert(Fits<> && Fits<Recipe> && Fits<Recipe, History> && Fits<Recipe, History, ProgressBar>);
static_assert(Fits<MyNll> && Fits<MyNll, Recipe> && Fits<MyNll, Recipe, History, ProgressBar>);
static_assert(!Fits<History> && !Fits<History, Recipe>, "an observer is not taken for an objective");
static_assert(!Fits<Recipe, MyNll> && !Fits<MyNll, Recipe, SquaredError>,
              "an objective among observers is refused");
static_assert(!Fits<objectives::SupCon, Recipe>);

TEST(Observer, Events_ArriveInOrder) {
  CountsEpochs epochs;
  RecordsEvents all;
  train_classifier(Victim{.width = 4}, images().train.first(80), quick(2), epochs, all);
  EXPECT_EQ(epochs.epochs, 2);
  EXPECT_EQ(all.events, (std::vector<std::string>{"begin victim 2 3 80", "step 1 1 32", "step 1 2 64",
                                                  "step 1 3 80", "epoch 1", "step 2 1 112", "step 2 2 144",
                                                  "step 2 3 160", "epoch 2", "end"}));
}

TEST(JsonLines, TwoRuns_AppendOneLinePerEpoch) {
  const auto folder =
      std::filesystem::path(::testing::TempDir()) / fmt::format("refine-lines-{}", ::getpid());
  const auto path = folder / "deep" / "log.jsonl";
  auto defense = defense_of();
  for (int run = 0; run < 2; ++run)
    fit(defense, images().train.images.narrow(0, 0, 64), quick_defense(2), JsonLines(path));
  std::ifstream in(path);
  std::string line;
  int lines = 0;
  while (std::getline(in, line)) {
    const auto json = nlohmann::json::parse(line);
    std::vector<std::string> keys;
    for (const auto& [key, value] : json.items()) keys.push_back(key);
    EXPECT_EQ(keys, (std::vector<std::string>{"accuracy", "epoch", "loss", "lr", "run", "seconds"}));
    EXPECT_EQ(json["run"], "defense");
    EXPECT_EQ(json["epoch"], lines % 2 + 1);
    EXPECT_TRUE(json["loss"].is_number_float());
    ++lines;
  }
  EXPECT_EQ(lines, 4) << "the second run appends";
  expect_words(error_of([&] { JsonLines lines_of(folder); }), {"cannot write " + folder.string()});
  expect_words(error_of([&] { JsonLines lines_of(path / "below"); }), {"cannot write"});
  std::filesystem::remove_all(folder);
}

TEST(JsonLines, FullDisk_IsReported) {
  JsonLines full("/dev/full");
  expect_words(error_of([&] { full.on_epoch({.epoch = 1}); }), {"cannot write /dev/full", "No space"});
}

TEST(ProgressBar, File_GetsNoControlCharacters) {
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::tmpfile(), &std::fclose);
  train_classifier(Victim{.width = 4}, images().train.first(64), quick(2), ProgressBar(file.get()));
  std::string text(static_cast<std::size_t>(std::ftell(file.get())), '\0');
  std::rewind(file.get());
  ASSERT_EQ(std::fread(text.data(), 1, text.size(), file.get()), text.size());
  EXPECT_TRUE(text.ends_with("\n"));
  EXPECT_TRUE(text.starts_with("victim 100%  128/128 img")) << text;
  EXPECT_NE(text.find("epoch 2/2: loss "), std::string::npos) << text;
  EXPECT_TRUE(std::ranges::none_of(text, [](char c) {
    return c != '\n' && static_cast<unsigned char>(c) < 32;
  })) << text;
}

// A warning may name the tensors of a stranger's file.
TEST(ProgressBar, Notes_GetNoControlCharacters) {
  for (const bool is_running : {false, true}) {
    std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::tmpfile(), &std::fclose);
    ProgressBar bar(file.get());
    if (is_running) bar.on_begin({.name = "victim", .epochs = 1, .batches = 1, .images = 1});
    bar.on_note("a\x1b[2Jb\nc");
    bar.on_warning("d\u202ee");
    std::string text(static_cast<std::size_t>(std::ftell(file.get())), '\0');
    std::rewind(file.get());
    ASSERT_EQ(std::fread(text.data(), 1, text.size(), file.get()), text.size());
    EXPECT_EQ(text, "a\\x1b[2Jb\\x0ac\nwarning: d\\xe2\\x80\\xaee\n");
  }
}

TEST(Training, Divergence_NamesTheLearningRate) {
  auto recipe = quick(2);
  recipe.optimization.optimizer = OptimizerKind::sgd;
  recipe.optimization.schedule = Schedule::constant;
  recipe.optimization.lr = 1e30;
  expect_words(error_of([&] { train_classifier(Victim{.width = 4}, images().train.first(64), recipe); }),
               {"training the victim diverged", "lower the recipe's learning rates", "lr is 1e+30"});
  for (const auto objective : {ObjectiveKind::bce, ObjectiveKind::nll, ObjectiveKind::distillation}) {
    auto defense = defense_of();
    const Recipe wild{.objective = objective, .optimization = recipe.optimization};
    expect_words(error_of([&] { fit(defense, images().train.images.narrow(0, 0, 64), wild); }),
                 {"training the defense diverged"});
  }
}

/// An objective whose loss is finite and whose gradient is NaN.
struct NanGradient {
  at::Tensor operator()(const at::Tensor& remapped, const at::Tensor& teacher) const {
    return objectives::Nll{}(remapped, teacher) + (remapped * 0).sum().sqrt();
  }
};

TEST(Training, WeightsThatTheLastStepMakesNan_EndTheRun) {
  Recipe recipe = quick_defense(1);
  recipe.optimization.batch_size = 64;  // one step
  const at::Tensor few = images().train.images.narrow(0, 0, 64);
  auto defense = defense_of();
  expect_words(
      error_of([&] { fit(defense, few, NanGradient{}, recipe); }),
      {"training the defense diverged", "the weights are not finite", "got nan in epoch 1", "lr is 0.05"});
  Pipeline masked{Masked{}, freeze(victim()), remaps::Derangement<task>{}};
  EXPECT_EQ(error_of([&] { fit(masked, few, recipe); }), "") << "it was infinite before";
  Pipeline overflows{Masked{.mean = INFINITY}, freeze(victim()), remaps::Derangement<task>{}};
  expect_words(error_of([&] { fit(overflows, few, recipe); }), {"the weights are not finite"});
}

/// A victim that returns the logarithms of probabilities, of which one is 0.
struct LogProbabilities {
  Task task = refine::task;
  std::shared_ptr<torch::nn::Module> module = victim().module;
  at::Tensor forward(const at::Tensor& x) const { return at::softmax(1000 * victim().forward(x), 1).log(); }
};

TEST(Fit, VictimWithLogitsThatAreNotFinite_IsNamed) {
  for (const auto objective : {ObjectiveKind::distillation, ObjectiveKind::bce}) {
    Pipeline defense{UNet{.levels = 2, .width = 4}, freeze(LogProbabilities{}), remaps::Derangement<task>{}};
    Recipe recipe = quick_defense(2);
    recipe.objective = objective;
    expect_words(error_of([&] { fit(defense, images().train.images, recipe); }),
                 {"training the defense", "victim's logits", "not finite"});
  }
}

TEST(Fit, ImagesThatDoNotFit_AreRefused) {
  auto defense = defense_of();
  expect_words(error_of([&] {
                 fit(defense, at::zeros({4, 3, 8, 8}, at::kByte));
               }),
               {"the pipeline takes 3x16x16", "the data has 3x8x8"});
  const std::initializer_list<std::string_view> bytes = {"fit", "uint8 N×C×H×W", "data::to_bytes"};
  expect_words(error_of([&] { fit(defense, at::zeros({4, 3, 16, 16})); }), bytes);
  expect_words(error_of([&] { fit(defense, at::zeros({3, 16, 16}, at::kByte)); }), bytes);
  expect_words(error_of([&] { fit(defense, at::Tensor()); }), bytes);
  expect_words(error_of([&] {
                 fit(defense, at::empty({0, 3, 16, 16}, at::kByte));
               }),
               {"the defense", "too few images", "got 0"});
}

TEST(Fit, BadRecipeOrTransform_IsRefused) {
  auto defense = defense_of();
  auto wrong = recipes::fast;
  wrong.optimization.batch_size = 0;
  expect_words(error_of([&] { fit(defense, images().train.images, wrong); }), {"batch_size"});
  Pipeline nothing{transforms::None<task.image>{}, freeze(victim()), remaps::Derangement<task>{}};
  expect_words(error_of([&] { fit(nothing, images().train.images); }), {"no parameters to train"});
}

TEST(TrainClassifier, DataThatDoesNotFit_IsRefused) {
  const auto other = data::Synthetic{.task = {ImageShape{3, 8, 8}, 4}, .train = 4, .test = 0}.make().train;
  expect_words(error_of([&] { train_classifier(Victim{.width = 4}, other); }),
               {"the backbone takes 3x16x16", "the data has 3x8x8"});
  auto classes = images().train;
  classes.classes.push_back("more");
  expect_words(error_of([&] { train_classifier(Victim{.width = 4}, classes); }),
               {"predicts 4", "the data has 5"});
  expect_words(error_of([&] { train_classifier(Victim{.width = 4}, images().train.first(0)); }),
               {"too few images", "got 0"});
  expect_words(error_of([&] { train_classifier(freeze(victim()), images().train); }),
               {"no parameters to train"});
}

TEST(TrainClassifier, LastBatchOfOneImage_JoinsTheOneBefore) {
  // 8×8 images shrink to one pixel: a batch of one would give BatchNorm a single value per channel.
  constexpr Task small{{3, 8, 8}, 10};
  const auto [train, test] = data::Synthetic{.task = small, .train = 33, .test = 4}.make();
  ClassifierRecipe recipe = recipes::two_cores_classifier;
  recipe.optimization.batch_size = 16;
  int seen = 0;
  struct Count {
    int& images;
    void on_step(const StepInfo& info) { images = static_cast<int>(info.images); }
  } count{seen};
  train_classifier(backbones::ResNet18<small>{.width = 4}, train, recipe, count);
  EXPECT_EQ(seen, 33 * recipe.optimization.epochs);
  expect_words(
      error_of([&] { train_classifier(backbones::ResNet18<small>{.width = 4}, train.first(1), recipe); }),
      {"too few images", "got 1", "expected 2"});
}

}  // namespace
}  // namespace refine
