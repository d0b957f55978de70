// Parts of a training that a user has written, and that do not do what they promise.

#include <ATen/TensorOperators.h>
#include <ATen/ops/complex.h>
#include <ATen/ops/full.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/normalized.hpp>
#include <refine/data/sources.hpp>
#include <refine/nn/torch_random.hpp>
#include <refine/remaps/remaps.hpp>
#include <refine/training/training.hpp>
#include <refine/transforms/transform.hpp>
#include <tests/training/task.hpp>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "tests/support/error_of.hpp"

namespace refine {
namespace {

using refine::testing::error_of;
using refine::testing::expect_words;

const data::Dataset& some_images() {
  static const data::Dataset set = [] {
    use_threads(1);
    return data::Synthetic{.task = task, .train = 64, .test = 0}.make().train;
  }();
  return set;
}

ClassifierRecipe short_training() {
  return {.optimization = {.lr = 0.01, .batch_size = 16}};
}

Recipe short_defense(ObjectiveKind objective = ObjectiveKind::bce) {
  return {.objective = objective, .optimization = short_training().optimization};
}

/// A linear classifier, of as many logits as it is given, whatever its task has.
struct Linear {
  int logits = 4;
  Task task = refine::task;
  std::shared_ptr<torch::nn::LinearImpl> module =
      nn::with_torch_seed(1, [this] { return std::make_shared<torch::nn::LinearImpl>(3 * 16 * 16, logits); });
  at::Tensor forward(const at::Tensor& x) const { return module->forward(x.flatten(1)); }
};

/// A convolution, and a function of images and its result.
struct Custom {
  std::function<at::Tensor(const at::Tensor& images, const at::Tensor& convolved)> function;
  ImageShape image = task.image;
  std::shared_ptr<torch::nn::Conv2dImpl> module = nn::with_torch_seed(1, [] {
    return std::make_shared<torch::nn::Conv2dImpl>(torch::nn::Conv2dOptions(3, 3, 3).padding(1));
  });
  at::Tensor forward(const at::Tensor& x) const { return function(x, module->forward(x)); }
};

/// A transform that keeps what it promises.
Custom sound() {
  return {[](const at::Tensor&, const at::Tensor& y) { return y.sigmoid(); }};
}

constexpr Task open_task{ImageShape{3, dynamic, dynamic}, 4};

TEST(TrainClassifier, BackboneWithLogitsOfOtherClasses_IsRefused) {
  for (const int logits : {5, 3}) {
    for (const Task& of : {task, open_task}) {
      expect_words(error_of([&] {
                     train_classifier(Linear{logits, of}, some_images(), short_training());
                   }),
                   {"train_classifier", "backbone", "16×4", "task", "got 16×" + std::to_string(logits)});
    }
  }
  EXPECT_EQ(error_of([] {
              train_classifier(Linear{5, {task.image, dynamic}}, some_images(), short_training());
            }),
            "")
      << "its task leaves that open";
}

TEST(Fit, BackboneWithLogitsOfOtherClasses_IsRefused) {
  for (const int logits : {5, 3}) {
    Custom transform = sound();
    transform.image = open_task.image;  // a pipeline of known images asks already
    Pipeline defense{transform, freeze(Linear{logits, open_task}), remaps::Derangement<task>{}};
    for (const auto objective : {ObjectiveKind::bce, ObjectiveKind::nll, ObjectiveKind::distillation}) {
      for (const Precision precision : {Precision::float32, Precision::automatic}) {
        Recipe recipe = short_defense(objective);
        recipe.optimization.precision = precision;
        expect_words(error_of([&] { fit(defense, some_images().images, recipe); }),
                     {"fit", "backbone", "×4", "task", "×" + std::to_string(logits)});
      }
    }
  }
}

struct NullBackbone : Linear {
  NullBackbone() { module = nullptr; }
};

TEST(TrainClassifier, NullBackbone_IsRefused) {
  expect_words(error_of([] { train_classifier(NullBackbone{}, some_images(), short_training()); }),
               {"backbone.module must not be null"});
}

/// One with an `output_shape`.
struct CustomShape : Custom {
  ImageShape output_shape = {3, 8, dynamic};
};

/// A victim that takes images of any size: the means of the channels and of all.
struct Means {
  static constexpr bool frozen = true;
  Task task = open_task;
  std::shared_ptr<torch::nn::Module> module = std::make_shared<torch::nn::Module>("Means");
  at::Tensor forward(const at::Tensor& x) const {
    return at::cat({x.mean({2, 3}), x.mean({1, 2, 3}).unsqueeze(1)}, 1);
  }
};

/// Returns the line with which `fit` refuses a transform; empty if it does not.
template <typename T, typename B = Means>
std::string refusal(const T& transform, const B& victim = {}, PixelDomain domain = PixelDomain::image) {
  Pipeline defense{transform, victim, remaps::Derangement<task>{}, domain};
  return error_of([&] { fit(defense, some_images().images, short_defense()); });
}

TEST(Fit, TransformThatDrawsOtherImages_IsRefused) {
  const auto lower = [](const at::Tensor&, const at::Tensor& y) { return y.narrow(2, 0, 8).sigmoid(); };
  expect_words(refusal(Custom{lower}),
               {"the transform must return", "16 images of 3x16x16", "got 16x3x8x16", "output_shape"});
  EXPECT_EQ(refusal(CustomShape{{lower}}), "") << "it promises that";
  expect_words(refusal(Custom{lower, {3, dynamic, dynamic}}), {"of 3x16x16", "got 16x3x8x16"});
  expect_words(refusal(CustomShape{{[](const at::Tensor&, const at::Tensor& y) { return y.sigmoid(); }}}),
               {"of 3x8x?", "got 16x3x16x16"});
  expect_words(
      refusal(Custom{[](const at::Tensor&, const at::Tensor& y) { return y.sigmoid().narrow(0, 0, 1); }}),
      {"got 1x3x16x16", "one for each"});
  expect_words(
      refusal(Custom{[](const at::Tensor&, const at::Tensor& y) { return y.sigmoid().mean(0, true); }}),
      {"got 1x3x16x16"});
  expect_words(refusal(Custom{[](const at::Tensor&, const at::Tensor& y) { return y.sigmoid()[0]; }}),
               {"got 3x16x16"});
  expect_words(refusal(Custom{[](const at::Tensor&, const at::Tensor&) { return at::Tensor(); }}),
               {"the transform must return images", "undefined"});
}

TEST(Fit, TransformThatLeavesTheRange_IsRefusedIfByFar) {
  const auto scaled = [](double by) {
    return Custom{[by](const at::Tensor& x, const at::Tensor& y) { return x * by + y * 0.01; }};
  };
  expect_words(refusal(scaled(255)), {"images in [0, 1]", " to 25", ".sigmoid()", ".clamp(0, 1)"});
  expect_words(refusal(scaled(-255)), {"got -25"});
  EXPECT_EQ(refusal(scaled(1.2)), "") << "an untrained transform without activation";
  // Whatever it draws, where the backbone takes normalised images.
  const auto victim = freeze(backbones::Normalized{Linear{}, normalizations::cifar10});
  EXPECT_EQ(refusal(scaled(2.5), victim, PixelDomain::reference), "");
}

TEST(Fit, ComplexLoss_IsRefused) {
  Pipeline defense{sound(), Means{}, remaps::Derangement<task>{}};
  const auto complex = [](const at::Tensor& remapped, const at::Tensor&) {
    return at::complex(remapped, at::zeros_like(remapped)).mean();
  };
  expect_words(error_of([&] { fit(defense, some_images().images, complex, short_defense()); }),
               {"objective", "loss", "real", "got ComplexFloat"});
}

/// What a function returns in inference mode.
template <typename Make>
auto made_in_inference_mode(Make&& make) {
  const c10::InferenceMode inference;
  return make();
}

TEST(Training, PartMadeInInferenceMode_IsRefusedByName) {
  expect_words(refusal(made_in_inference_mode(sound), freeze(Linear{})),
               {"fit", "the transform was made in c10::InferenceMode", "outside"});
  expect_words(refusal(sound(), made_in_inference_mode([] { return freeze(Linear{}); })),
               {"fit", "the victim was made in c10::InferenceMode"});
  expect_words(error_of([&] {
                 train_classifier(made_in_inference_mode([] { return Linear{}; }), some_images(),
                                  short_training());
               }),
               {"train_classifier", "the backbone was made in c10::InferenceMode"});
  auto defense = made_in_inference_mode([parts = std::pair{sound(), freeze(Linear{})}] {
    return Pipeline{parts.first, parts.second, remaps::Derangement<task>{}};
  });
  expect_words(error_of([&] { fit(defense, some_images().images, short_defense()); }),
               {"fit", "was made in c10::InferenceMode"});
}

}  // namespace
}  // namespace refine
