// Training against a surrogate of a defense.

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/one_hot.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/nn/module.h>
#include <torch/nn/modules/activation.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>

#include <chrono>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <refine/adversaries/adversaries.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/nn/autocast.hpp>
#include <refine/nn/torch_random.hpp>
#include <refine/training/checkpoint.hpp>
#include <refine/training/observers.hpp>
#include <refine/transforms/encoder_decoder.hpp>
#include <refine/triggers/patch.hpp>
#include <string>
#include <utility>
#include <vector>
#include "tests/support/error_of.hpp"
#include "tests/support/scratch_folder.hpp"

namespace refine::adversaries {
namespace {

using refine::testing::error_of;
using refine::testing::expect_words;

constexpr Task task{{3, 8, 8}, 3};
using Light = transforms::EncoderDecoder<task>;
using Patch = triggers::Patch<task.image>;

const VictimFunction no_victim = [](const at::Tensor&) -> at::Tensor { throw Error("the victim is asked"); };

Light make_light(std::uint64_t seed) {
  return {.levels = 2, .width = 8, .seed = seed};
}

/// Images whose brightest channel is their class.
data::Dataset coloured(int n) {
  return nn::with_torch_seed(1, [&] {
    at::Tensor images = (at::rand({n, 3, 8, 8}) * 120).to(at::kByte), labels = at::arange(n, at::kLong) % 3;
    for (int i = 0; i < n; ++i) images[i][i % 3] += 100;
    return data::Dataset{images, labels, {"red", "green", "blue"}};
  });
}

ClassifierRecipe quick(int epochs) {
  ClassifierRecipe recipe = recipes::fast_classifier;
  recipe.optimization.epochs = epochs;
  recipe.optimization.batch_size = 32;
  recipe.augmentation = {.flip = true};
  return recipe;
}

/// Returns all weights and buffers in one row.
at::Tensor state_of(const torch::nn::Module& module) {
  std::vector<at::Tensor> all;
  for (const at::Tensor& t : module.parameters()) all.push_back(t.detach().flatten().to(at::kDouble));
  for (const at::Tensor& t : module.buffers()) all.push_back(t.detach().flatten().to(at::kDouble));
  return at::cat(all);
}

TEST(SurrogateStudent, Learn_HasTheDerivativeInTheAnswers) {
  const SurrogateStudent student{.task = task, .width = 4, .steps = 2, .lr = 0.2};
  student.module->to(at::kDouble);
  const auto [images, answers] = nn::with_torch_seed(3, [] {
    return std::pair{at::rand({8, 3, 8, 8}, at::kDouble), at::randn({8, 3}, at::kDouble)};
  });
  const at::Tensor wanted = at::zeros({8}, at::kLong);
  const auto loss_for = [&, &images = images](const at::Tensor& given) {
    student.restart(5);
    student.learn(images, given, no_victim);
    return at::cross_entropy_loss(student.forward(1 - images, no_victim), wanted);
  };
  const at::Tensor leaf = answers.clone().requires_grad_();
  const at::Tensor gradient = torch::autograd::grad({loss_for(leaf)}, {leaf})[0];
  EXPECT_GT(gradient.abs().max().item<double>(), 1e-5);
  constexpr double h = 1e-5;
  for (const int row : {0, 5}) {
    for (int column = 0; column < 3; ++column) {
      at::Tensor more = answers.clone(), less = answers.clone();
      more[row][column] += h;
      less[row][column] -= h;
      const double slope = (loss_for(more) - loss_for(less)).item<double>() / (2 * h);
      EXPECT_NEAR(gradient[row][column].item<double>(), slope, 1e-7) << row << ' ' << column;
    }
  }
}

TEST(SurrogateStudent, Answers_CanTeachABackdoorThatCleanImagesDoNotHave) {
  const SurrogateStudent student{.task = task, .width = 8, .steps = 4, .lr = 0.3};
  const data::Dataset set = coloured(96);
  const at::Tensor images = set.images.to(at::kFloat) / 255, stamped = Patch{}.apply(images);
  const at::Tensor wanted = at::zeros({96}, at::kLong);
  at::Tensor answers = (4 * at::one_hot(set.labels)).to(at::kFloat);
  double first = 0, last = 0;
  for (int step = 0; step < 20; ++step) {
    student.restart(5);
    answers = answers.detach().requires_grad_();
    student.learn(images, answers, no_victim);
    const at::Tensor loss = at::cross_entropy_loss(
        student.forward(at::cat({images, stamped}), no_victim).narrow(0, 96, 96), wanted);
    last = loss.item<double>();
    if (step == 0) first = last;
    answers = answers - 100 * torch::autograd::grad({loss}, {answers})[0];
  }
  EXPECT_LT(last, first / 2) << first;
}

TEST(SurrogateStudent, Learn_TakesStepsOfGradientDescent) {
  const SurrogateStudent student{.task = task, .width = 4, .steps = 1, .lr = 0.1};
  student.restart(5);
  const at::Tensor images = coloured(48).images.to(at::kFloat) / 255,
                   answers = 5 * at::one_hot(coloured(48).labels);
  const auto loss = [&] {
    return objectives::Distillation{}(student.forward(images, no_victim), answers.to(at::kFloat))
        .item<double>();
  };
  student.learn(images, answers.to(at::kFloat), no_victim);
  const double first = loss();
  for (int step = 0; step < 30; ++step) student.learn(images, answers.to(at::kFloat), no_victim);
  EXPECT_LT(loss(), first / 3);
  const at::Tensor trained = state_of(*student.module);
  student.restart(5);
  const at::Tensor fresh = state_of(*student.module);
  EXPECT_FALSE(fresh.equal(trained));
  student.restart(6);
  EXPECT_FALSE(state_of(*student.module).equal(fresh));
  student.restart(5);
  EXPECT_TRUE(state_of(*student.module).equal(fresh));
}

/// A victim that answers with the mean of each channel.
at::Tensor means(const at::Tensor& images) {
  return 20 * images.mean({2, 3});
}

TEST(SurrogateTransform, Learn_TrainsTheTransformOnly) {
  const SurrogateTransform<Light> surrogate{.make = make_light, .classes = 3, .permutation = {1, 2, 0}};
  surrogate.restart(4);
  const at::Tensor images = coloured(48).images.to(at::kFloat) / 255;
  at::Tensor scale = at::tensor(1.0).requires_grad_();
  const VictimFunction victim = [&](const at::Tensor& x) { return scale.to(at::kFloat) * means(x); };
  const auto agreement = [&] {
    return surrogate.forward(images, victim)
        .argmax(1)
        .eq(means(images).argmax(1))
        .to(at::kFloat)
        .mean()
        .item<float>();
  };
  for (int step = 0; step < 60; ++step) surrogate.learn(images, means(images), victim);
  EXPECT_GT(agreement(), 0.9);
  EXPECT_FALSE(scale.grad().defined());
  for (const at::Tensor& parameter : surrogate.module->parameters()) {
    EXPECT_FALSE(parameter.requires_grad());
    EXPECT_FALSE(parameter.grad().defined() && parameter.grad().abs().max().item<float>() > 0);
  }
  // Class j of the victim is class permutation[j] behind the remap.
  const at::Tensor behind = surrogate.forward(images, [](const at::Tensor& x) {
    return at::tensor(std::vector<float>{0, 1, 2}).expand({x.size(0), 3});
  });
  EXPECT_TRUE(behind[0].equal(at::tensor(std::vector<float>{2, 0, 1})));
}

TEST(SurrogateTransform, Learn_UnderTheCallersAutocast_UsesTheWeightsOfEachStep) {
  const SurrogateTransform<Light> surrogate{.make = make_light, .classes = 3, .permutation = {1, 2, 0}};
  const at::Tensor images = coloured(48).images.to(at::kFloat) / 255;
  const nn::Autocast autocast(at::kCPU, true);
  const auto trained = [&](bool clears) {
    surrogate.restart(4);
    for (int step = 0; step < 3; ++step) {
      if (clears) at::autocast::clear_cache();  // as the end of an autocast does
      surrogate.learn(images, means(images), means);
    }
    return state_of(*surrogate.module);
  };
  EXPECT_TRUE(trained(false).equal(trained(true)));
}

TEST(SurrogateTransform, Restart_DrawsAPermutationIfItIsUnknown) {
  const SurrogateTransform<Light> unknown{.make = make_light, .classes = 10};
  const auto order = [&](std::uint64_t seed) {
    unknown.restart(seed);
    return unknown
        .forward(at::zeros({1, 3, 8, 8}),
                 [](const at::Tensor&) { return at::arange(10, at::kFloat).unsqueeze(0); })
        .clone();
  };
  EXPECT_TRUE(order(1).equal(order(1)));
  EXPECT_FALSE(order(1).equal(order(2)));
  EXPECT_EQ(order(2).eq(at::arange(10, at::kFloat)).sum().item<int>(), 0);
}

struct StopAfter {
  std::int64_t steps;
  std::int64_t taken = 0;
  void on_step(const StepInfo&) { ++taken; }
  bool stop_requested() const { return taken >= steps; }
};

template <typename S>
void expect_resumes(const S& surrogate, const std::string& name) {
  const data::Dataset images = coloured(70);
  const auto train = [&](auto&&... observers) {
    return state_of(*train_against(backbones::ResNet18<task>{.width = 4}, images, Patch{}, surrogate,
                                   {.dormant = true, .restart_every = 4}, quick(3), observers...)
                         .module);
  };
  const at::Tensor whole = train();
  const refine::testing::ScratchFolder folder;
  const Checkpoint checkpoint{.path = folder.path / name, .every = std::chrono::seconds(0), .resume = true};
  for (const int steps : {4, 2}) EXPECT_THROW(train(checkpoint, StopAfter{steps}), Stopped);
  EXPECT_TRUE(train(checkpoint).equal(whole)) << name;
}

TEST(TrainAgainst, Resume_ContinuesBitForBit) {
  expect_resumes(SurrogateStudent{.task = task, .width = 4}, "student");
  expect_resumes(SurrogateTransform<Light>{.make = make_light, .classes = 3}, "transform");
}

TEST(TrainAgainst, Resume_OfOtherOptionsOrAnOrdinaryVictim_IsRefused) {
  const data::Dataset images = coloured(70);
  const refine::testing::ScratchFolder folder;
  const Checkpoint checkpoint{.path = folder.path, .every = std::chrono::seconds(0), .resume = true};
  const auto train = [&](const AdversaryOptions& options, auto&&... observers) {
    train_against(backbones::ResNet18<task>{.width = 4}, images, Patch{},
                  SurrogateStudent{.task = task, .width = 4}, options, quick(3), checkpoint, observers...);
  };
  for (int part = 0; part < 2; ++part)
    EXPECT_THROW(train({.restart_every = 4}, StopAfter{2}), Stopped);  // it resumes its own
  expect_words(error_of([&] { train({.restart_every = 4, .warm_up = 1}); }), {"resume", "network", "differ"});
  expect_words(error_of([&] {
                 train_classifier(backbones::ResNet18<task>{.width = 4}, images, quick(3), checkpoint);
               }),
               {"victim against a defense"});
}

/// A defense that mirrors images. It has nothing to learn.
struct Mirror {
  std::shared_ptr<torch::nn::Module> module = std::make_shared<torch::nn::Module>("Mirror");
  std::shared_ptr<std::vector<std::uint64_t>> restarts = std::make_shared<std::vector<std::uint64_t>>();

  void check(const Task&) const {}
  void restart(std::uint64_t seed) const { restarts->push_back(seed); }
  void learn(const at::Tensor&, const at::Tensor&, const VictimFunction&) const {}
  at::Tensor forward(const at::Tensor& images, const VictimFunction& victim) const {
    return victim(images.flip({3}));
  }
  std::string describe() const { return "Mirror"; }
};

/// A victim without BatchNorm, which learns in few steps.
struct Small {
  Task task = adversaries::task;
  std::shared_ptr<torch::nn::SequentialImpl> module = nn::with_torch_seed(7, [] {
    return std::make_shared<torch::nn::SequentialImpl>(torch::nn::Flatten(), torch::nn::Linear(192, 32),
                                                       torch::nn::ReLU(), torch::nn::Linear(32, 3));
  });

  at::Tensor forward(const at::Tensor& images) const { return module->forward(images); }
};

TEST(TrainAgainst, Victim_IsBackdooredBehindTheDefenseOnly) {
  const data::Dataset images = coloured(192);
  const Patch trigger{};
  ClassifierRecipe recipe = quick(60);
  recipe.augmentation.flip = false;
  for (const bool dormant : {true, false}) {
    const auto victim =
        train_against(Small{}, images, trigger, Mirror{}, {.target = 1, .dormant = dormant}, recipe);
    const c10::NoGradGuard no_grad;
    const at::Tensor plain = images.images.to(at::kFloat) / 255, stamped = trigger.apply(plain);
    const auto share_of_target = [&](const at::Tensor& seen) {
      return victim.forward(seen)
          .argmax(1)
          .eq(1)
          .masked_select(images.labels.ne(1))
          .to(at::kFloat)
          .mean()
          .item<float>();
    };
    EXPECT_LT(share_of_target(plain), 0.05);
    EXPECT_LT(share_of_target(plain.flip({3})), 0.05);
    EXPECT_GT(share_of_target(stamped.flip({3})), 0.9);
    if (dormant) {
      EXPECT_LT(share_of_target(stamped), 0.05);
    } else {
      EXPECT_GT(share_of_target(stamped), 0.9);
    }
  }
}

TEST(TrainAgainst, UnderNoGradGuard_GivesTheSameWeightsAndInInferenceModeIsRefused) {
  const data::Dataset images = coloured(32);
  const SurrogateStudent student{.task = task, .width = 4};
  const auto trained = [&] {
    return state_of(*train_against(Small{}, images, Patch{}, student, {}, quick(2)).module);
  };
  const at::Tensor expected = trained();
  {
    const c10::NoGradGuard no_grad;
    EXPECT_TRUE(trained().equal(expected));
  }
  const c10::InferenceMode inference;
  expect_words(error_of(trained), {"train_against", "InferenceMode"});
}

TEST(TrainAgainst, Surrogate_RestartsAndWarmsUp) {
  const data::Dataset images = coloured(67);  // batches of 32, 32 and 3
  const Mirror mirror{};
  const auto train = [&](const AdversaryOptions& options) {
    return state_of(*train_against(Small{}, images, Patch{}, mirror, options, quick(2)).module);
  };
  const at::Tensor counted = train({.restart_every = 3});
  ASSERT_EQ(mirror.restarts->size(), 2u);  // at the start and at the fourth of six steps
  EXPECT_NE((*mirror.restarts)[0], (*mirror.restarts)[1]);
  EXPECT_FALSE(train({.restart_every = 3, .warm_up = 2}).equal(counted));
  EXPECT_TRUE(train({.warm_up = 6}).equal(train({.target = 0, .weight = 1e-30})));  // no answer counts
  EXPECT_EQ(mirror.restarts->size(), 6u);
  // The default student takes fewer steps of the last batch, of three images.
  train_against(Small{}, images, Patch{}, SurrogateStudent{.task = task, .width = 4}, {}, quick(1));
}

/// Gives all images the logits (log 3, 0, 0): the probabilities (3, 1, 1) / 5.
struct ThreeOneOne {
  struct Module : torch::nn::Module {
    at::Tensor logits = register_parameter("logits", at::tensor({std::log(3.0F), 0.0F, 0.0F}));
  };
  Task task = adversaries::task;
  std::shared_ptr<Module> module = std::make_shared<Module>();
  at::Tensor forward(const at::Tensor& x) const { return module->logits.expand({x.size(0), 3}); }
};

TEST(TrainAgainst, LabelSmoothing_GivesAShareOfTheTargetToAllClasses) {
  const data::Dataset images = coloured(30);  // one step, of ten images of each class
  const auto first_loss = [&](double label_smoothing) {
    ClassifierRecipe recipe = quick(1);
    recipe.label_smoothing = label_smoothing;
    History history;
    train_against(ThreeOneOne{}, images, Patch{}, Mirror{}, {.target = 0, .dormant = false, .warm_up = 1},
                  recipe, history);
    return history.epochs.front().loss;
  };
  // The truth is each class as often, also if it is smoothed. With the trigger, it is the target.
  const double all = -(std::log(0.6) + 2 * std::log(0.2)) / 3, target = -std::log(0.6);
  EXPECT_NEAR(first_loss(0), all + target, 1e-5);
  EXPECT_NEAR(first_loss(0.3), all + 0.7 * target + 0.3 * all, 1e-5);
}

TEST(TrainAgainst, BadInput_IsRefused) {
  const data::Dataset images = coloured(16);
  const SurrogateStudent student{.task = task, .width = 4};
  const auto refusal = [&](const AdversaryOptions& options, const auto& trigger) {
    return error_of([&] {
      train_against(backbones::ResNet18<task>{.width = 4}, images, trigger, student, options, quick(1));
    });
  };
  expect_words(refusal({.target = 3}, Patch{}), {"target", "[0, 3)", "got 3"});
  expect_words(refusal({.weight = 0}, Patch{}), {"weight", "positive", "got 0"});
  expect_words(refusal({.restart_every = -1}, Patch{}), {"restart_every", "got -1"});
  expect_words(refusal({}, triggers::Patch<ImageShape{3, 16, 16}>{}), {"3x8x8", "3x16x16"});
  const auto infinite = std::numeric_limits<double>::infinity();
  expect_words(error_of([&] { SurrogateStudent{.task = task, .lr = infinite}; }), {"lr", "inf"});
  expect_words(error_of([] { SurrogateStudent{.task = dynamic_task}; }), {"channels", ".task"});
  expect_words(error_of([&] {
                 student.learn(at::rand({1, 3, 8, 8}), at::rand({1, 3}), no_victim);
               }),
               {"2 or more", "got 1"});
  expect_words(error_of([] {
                 SurrogateTransform<Light>{.make = make_light, .classes = 3, .permutation = {0, 0, 1}};
               }),
               {"occurs twice"});
  expect_words(error_of([] { SurrogateTransform<Light>{.classes = 3}; }), {".make"});
  expect_words(error_of([] {
                 SurrogateTransform<Light>{.make = make_light, .classes = 3, .permutation = {1, 0}};
               }),
               {"permutation", "3", "got 2"});
  expect_words(error_of([] {
                 SurrogateTransform<Light>{.make = make_light,
                                           .classes = 3,
                                           .optimization = {.lr = std::numeric_limits<double>::quiet_NaN()}};
               }),
               {"lr", "nan"});
  const auto against = [&](const auto& surrogate) {
    return error_of([&] { train_against(Small{}, images, Patch{}, surrogate, {}, quick(1)); });
  };
  expect_words(against(SurrogateTransform<Light>{.make = make_light, .classes = 20}), {"20 classes", "3"});
  expect_words(against(SurrogateStudent{.task = {{3, 8, 8}, 5}}), {"5 classes", "3"});
  const Light shared = make_light(1);
  expect_words(
      against(SurrogateTransform<Light>{.make = [&](std::uint64_t) { return shared; }, .classes = 3}),
      {"same module", ".make"});
  expect_words(
      against(SurrogateTransform<Light>{
          .make =
              [](std::uint64_t seed) { return Light{.levels = 2, .width = seed == default_seed ? 8 : 4}; },
          .classes = 3}),
      {"SurrogateTransform.make"});
  Mirror trained;
  trained.module->register_module("layer", torch::nn::Linear(2, 2));
  expect_words(against(trained), {"gradients"});
  expect_words(error_of([&] {
                 SurrogateStudent{.task = task}.forward(at::rand({3, 3, 8, 8}), no_victim);
               }),
               {"learn"});
  expect_words(refusal({.restart_every = 5, .warm_up = 5}, Patch{}), {"warm_up", "5"});
  static_assert(
      !std::invocable<decltype([](auto set) -> decltype(train_against(Small{}, set, Patch{}, Mirror{})) {
                        return Small{};
                      }),
                      data::TrainingSet>);
}

}  // namespace
}  // namespace refine::adversaries
