// What a training computes in each step, against values that are worked out by hand.

#include <ATen/TensorOperators.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>
#include <torch/nn/module.h>
#include <torch/nn/modules/conv.h>
#include <refine/backbones/freeze.hpp>
#include <refine/data/dataset.hpp>
#include <refine/nn/torch_random.hpp>
#include <refine/objectives/objectives.hpp>
#include <refine/remaps/remaps.hpp>
#include <refine/training/training.hpp>
#include <refine/transforms/transform.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "tests/support/scratch_folder.hpp"

namespace refine {
namespace {

constexpr Task two_classes{ImageShape{3, 4, 4}, 2};

/// Image i has the value i in its left half and 200 in its right half. All are of class 0.
data::Dataset numbered(int images) {
  at::Tensor all = at::full({images, 3, 4, 4}, 200, at::kByte);
  for (int i = 0; i < images; ++i) all[i].slice(2, 0, 2).fill_(i);
  return {.images = all, .labels = at::zeros({images}, at::kLong), .classes = {"a", "b"}};
}

/// Answers every image with its only parameter, and records what it computes with in each step.
struct Bias {
  struct Module : torch::nn::Module {
    at::Tensor logits = register_parameter("logits", at::zeros({2}));
  };
  struct Record {
    std::vector<std::vector<double>> logits;
    std::vector<std::vector<int>> images;  ///< the number of each image of the batch
    std::vector<std::vector<bool>> flips;  ///< whether each was mirrored
    std::vector<at::Tensor> dropout;       ///< what a dropout makes of ones
  };
  static constexpr Task task = two_classes;
  std::shared_ptr<Module> module = std::make_shared<Module>();
  std::shared_ptr<Record> record = std::make_shared<Record>();

  static std::vector<double> values(const at::Tensor& logits) {
    return {logits[0].item<double>(), logits[1].item<double>()};
  }

  at::Tensor forward(const at::Tensor& x) const {
    record->logits.push_back(values(module->logits));
    record->images.emplace_back();
    record->flips.emplace_back();
    const at::Tensor bytes = (x.detach() * 255).round().to(at::kLong).cpu();
    for (std::int64_t i = 0; i < x.size(0); ++i) {
      const int left = bytes[i][0][0][0].item<int>(), right = bytes[i][0][0][3].item<int>();
      record->images.back().push_back(std::min(left, right));
      record->flips.back().push_back(left == 200);
    }
    record->dropout.push_back(at::dropout(at::ones({32}), 0.5, module->is_training()));
    return module->logits.expand({x.size(0), 2});
  }
};

/// Plain gradient descent: what a step changes is the learning rate times the gradient.
ClassifierRecipe descent(int epochs, int batch_size) {
  return {.optimization = {.optimizer = OptimizerKind::sgd,
                           .lr = 0.5,
                           .momentum = 0,
                           .weight_decay = 0,
                           .batch_size = batch_size,
                           .epochs = epochs}};
}

TEST(TrainClassifier, Epoch_HasEachImageOnceInAnOrderOfItsOwn) {
  const Bias network;
  train_classifier(network, numbered(32), descent(4, 8));
  ASSERT_EQ(network.record->images.size(), 16u);
  std::set<std::vector<int>> orders;
  for (int epoch = 0; epoch < 4; ++epoch) {
    std::vector<int> order;
    for (int batch = 0; batch < 4; ++batch) {
      const auto& images = network.record->images[static_cast<std::size_t>(4 * epoch + batch)];
      order.insert(order.end(), images.begin(), images.end());
    }
    EXPECT_EQ(std::set<int>(order.begin(), order.end()).size(), 32u) << epoch;
    orders.insert(order);
  }
  EXPECT_EQ(orders.size(), 4u);
}

TEST(TrainClassifier, Step_DrawsAugmentationAndDropoutAnew) {
  const Bias network;
  ClassifierRecipe recipe = descent(3, 32);
  recipe.augmentation = {.flip = true};
  train_classifier(network, numbered(64), recipe);
  const auto& record = *network.record;
  ASSERT_EQ(record.flips.size(), 6u);
  EXPECT_EQ((std::set<std::vector<bool>>(record.flips.begin(), record.flips.end()).size()), 6u)
      << "by the place in the batch";
  for (std::size_t a = 0; a < 6; ++a) {
    EXPECT_EQ(record.dropout[a].eq(0).logical_or(record.dropout[a].eq(2)).sum().item<int>(), 32);
    for (std::size_t b = 0; b < a; ++b) EXPECT_FALSE(record.dropout[a].equal(record.dropout[b])) << a << b;
  }
}

/// Returns the learning rate of each step. With b as logits and class 0 as truth, the gradient of the
/// cross-entropy is softmax(b) - (1, 0).
std::vector<double> rates_used(const Bias& network) {
  std::vector<std::vector<double>> logits = network.record->logits;
  logits.push_back(Bias::values(network.module->logits));
  std::vector<double> rates;
  for (std::size_t i = 0; i + 1 < logits.size(); ++i) {
    const double gradient = 1 / (1 + std::exp(logits[i][0] - logits[i][1]));
    rates.push_back((logits[i][1] - logits[i + 1][1]) / gradient);
  }
  return rates;
}

TEST(TrainClassifier, LearningRate_IsThatOfTheScheduleAndIsReported) {
  const auto expect_rates = [](const ClassifierRecipe& recipe, const std::vector<double>& factors) {
    const Bias network;
    History history;
    train_classifier(network, numbered(8), recipe, history);
    const std::vector<double> rates = rates_used(network);
    ASSERT_EQ(rates.size(), factors.size());
    for (std::size_t i = 0; i < rates.size(); ++i) EXPECT_NEAR(rates[i], 0.5 * factors[i], 1e-4) << i;
    // Two steps an epoch, of which the last is reported.
    ASSERT_EQ(2 * history.epochs.size(), factors.size());
    for (std::size_t i = 0; i < history.epochs.size(); ++i)
      EXPECT_NEAR(history.epochs[i].lr, 0.5 * factors[2 * i + 1], 1e-6) << i;
  };
  ClassifierRecipe recipe = descent(4, 4);
  recipe.optimization.schedule = Schedule::steps;
  recipe.optimization.milestones = {1, 3};
  recipe.optimization.decay = 0.5;
  expect_rates(recipe, {1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25});
  // torch.optim.lr_scheduler.OneCycleLR(SGD, max_lr=1.0, total_steps=4, pct_start=0.5): the cosine from 1/25
  // to 1 has one step, and that from 1 to 1/250,000 two.
  recipe = descent(2, 4);
  recipe.optimization.schedule = Schedule::one_cycle;
  recipe.optimization.warmup = 0.5;
  expect_rates(recipe, {0.04, 1, 0.500002, 0.000004});
}

/// Returns the loss of the first step.
double first_loss(const ClassifierRecipe& recipe) {
  const Bias network;
  {
    const c10::NoGradGuard no_grad;
    network.module->logits[0] = std::log(3.0);  // three to one
  }
  History history;
  train_classifier(network, numbered(8), recipe, history);
  return history.epochs.front().loss;
}

TEST(TrainClassifier, LabelSmoothing_GivesAShareOfTheTargetToAllClasses) {
  ClassifierRecipe recipe = descent(1, 8);
  EXPECT_NEAR(first_loss(recipe), -std::log(0.75), 1e-6);
  recipe.label_smoothing = 0.4;  // the target is (0.8, 0.2)
  EXPECT_NEAR(first_loss(recipe), -0.8 * std::log(0.75) - 0.2 * std::log(0.25), 1e-6);
}

/// A convolution whose bottleneck is the mean of its result.
struct Drawing {
  static constexpr ImageShape image = two_classes.image;
  std::shared_ptr<torch::nn::Conv2dImpl> module = nn::with_torch_seed(1, [] {
    return std::make_shared<torch::nn::Conv2dImpl>(torch::nn::Conv2dOptions(3, 3, 3).padding(1));
  });
  at::Tensor forward(const at::Tensor& x) const { return module->forward(x).sigmoid(); }
  transforms::Drawn draw(const at::Tensor& x) const { return {forward(x), module->forward(x).mean({2, 3})}; }
};

/// Answers by whether the red channel of an image is bright.
struct Red {
  static constexpr Task task = two_classes;
  static constexpr bool frozen = true;
  std::shared_ptr<torch::nn::Module> module = std::make_shared<torch::nn::Module>("Red");
  at::Tensor forward(const at::Tensor& x) const {
    const at::Tensor red = 40 * (x.select(1, 0).mean({1, 2}) - 0.5);
    return at::stack({-red, red}, 1);
  }
};

Pipeline<Drawing, Red, remaps::Derangement<two_classes>> pipeline() {
  return {Drawing{}, Red{}, remaps::Derangement<two_classes>{}};
}

/// Images of which half have a bright red channel.
at::Tensor reddish(int images) {
  at::Tensor all = nn::with_torch_seed(3, [&] { return at::randint(100, {images, 3, 4, 4}, at::kByte); });
  all.slice(0, 0, images / 2).select(1, 0).add_(150);
  return all;
}

/// Returns the loss of the first step of a defense.
double first_loss(double head_weight, double supcon_weight, double supcon_temperature = 0.07) {
  auto defense = pipeline();
  History history;
  fit(defense, reddish(16),
      Recipe{.head_weight = head_weight,
             .supcon_weight = supcon_weight,
             .supcon_temperature = supcon_temperature,
             .optimization = descent(1, 16).optimization},
      history);
  return history.epochs.front().loss;
}

TEST(Fit, SupCon_IsAddedWithItsWeightAndTemperature) {
  const auto defense = pipeline();
  const at::Tensor x = data::to_float(reddish(16), default_device());
  const c10::NoGradGuard no_grad;
  const at::Tensor drawn = defense.transformed(x), classes = defense.undefended(x).argmax(1);
  EXPECT_EQ(classes.sum().item<int>(), 8);
  const double without = first_loss(0, 0);
  for (const double temperature : {0.07, 0.5}) {
    const double supcon =
        objectives::SupCon{.temperature = temperature, .base_temperature = temperature}(drawn, classes)
            .item<double>();
    for (const double weight : {0.1, 2.0})
      EXPECT_NEAR(first_loss(0, weight, temperature) - without, weight * supcon, 1e-4) << temperature;
  }
}

TEST(Fit, Head_IsAddedWithItsWeight) {
  const double without = first_loss(0, 0), head = first_loss(1, 0) - without;
  EXPECT_GT(head, 0.1);  // two classes, of which it knows nothing: about log 2
  EXPECT_NEAR(first_loss(0.25, 0) - without, 0.25 * head, 1e-5);
  EXPECT_NEAR(first_loss(3, 0) - without, 3 * head, 1e-4);
}

// All images are of one class, so a defense that is right answers with one class, too.
TEST(Fit, OneClassThatIsRight_IsNoCollapse) {
  auto defense = pipeline();
  Recipe recipe{.supcon_weight = 0, .optimization = descent(70, 16).optimization};
  History history;
  fit(defense, reddish(64).slice(0, 0, 32), recipe, history);
  EXPECT_EQ(history.epochs.size(), 70u);  // 140 steps and 2240 images
  EXPECT_EQ(history.epochs[20].accuracy, 1);
}

TEST(JsonLines, EachLine_HasTheFiguresOfItsEpoch) {
  const testing::ScratchFolder folder;
  const auto file = folder.path / "log.jsonl";
  auto defense = pipeline();
  History history;
  Recipe recipe{.supcon_weight = 0, .optimization = descent(3, 8).optimization};
  recipe.optimization.schedule = Schedule::one_cycle;
  fit(defense, reddish(16), recipe, history, JsonLines(file));
  std::ifstream in(file);
  for (const EpochInfo& epoch : history.epochs) {
    std::string line;
    ASSERT_TRUE(std::getline(in, line));
    const auto json = nlohmann::json::parse(line);
    EXPECT_EQ(json["run"], "defense");
    EXPECT_EQ(json["epoch"], epoch.epoch);
    EXPECT_EQ(json["loss"], epoch.loss);
    EXPECT_EQ(json["accuracy"], epoch.accuracy);
    EXPECT_EQ(json["lr"], epoch.lr);
    EXPECT_EQ(json["seconds"], epoch.seconds);
    EXPECT_NE(epoch.loss, epoch.accuracy);
  }
  EXPECT_EQ(history.epochs.size(), 3u);
}

}  // namespace
}  // namespace refine
