// Compares losses, transforms, the defended forward pass and training with values that the authors'
// code computed.

#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include <refine/backbones/freeze.hpp>
#include <refine/backbones/normalized.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/backbones/vgg.hpp>
#include <refine/backbones/vit.hpp>
#include <refine/core/task.hpp>
#include <refine/nn/module.hpp>
#include <refine/objectives/objectives.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/remaps/remaps.hpp>
#include <refine/training/fit.hpp>
#include <refine/training/observers.hpp>
#include <refine/training/recipe.hpp>
#include <refine/transforms/unet.hpp>

#include "tests/parity/reference_values.hpp"

namespace refine {
namespace {

using testing::expect_parity;
using testing::reference;

constexpr Task task = tasks::cifar10;
const std::vector<std::int64_t> shuffle = {5, 7, 0, 9, 3, 4, 8, 1, 6, 2};

/// Returns the small U-Net with the fixtures' weights.
transforms::UNet<task> little_unet(int width) {
  const transforms::UNet<task> unet{.width = width, .activation = transforms::OutputActivation::clamp};
  testing::fill(*unet.module, 0.2);
  return unet;
}

/// Fills a backbone with the fixtures' weights and freezes it.
template <typename B>
auto victim(const B& backbone, double last) {
  testing::fill(*backbone.module, last);
  return freeze(backbones::Normalized{backbone, normalizations::cifar10});
}

auto vit() {
  return victim(backbones::ViT<task>{.width = 16, .depth = 2, .heads = 2, .head_width = 8, .mlp = 24}, 1);
}

TEST(LossParity, ValuesAndGradients_MatchReference) {
  at::Tensor logits = reference("loss.logits").clone().requires_grad_();
  at::Tensor features = reference("loss.features").clone().requires_grad_();
  const at::Tensor teacher = reference("loss.teacher");
  const at::Tensor bce = objectives::Bce{}(logits, teacher);
  const at::Tensor supcon = objectives::SupCon{}(features, teacher.argmax(1));
  const at::Tensor sum = bce + recipes::paper.supcon_weight * supcon;
  sum.backward();
  expect_parity("BCE", bce, reference("loss.bce"));
  expect_parity("SupCon", supcon, reference("loss.supcon"));
  expect_parity("the sum", sum, reference("loss.sum"));
  for (const auto& [name, ours] : {std::pair{"logits", logits.grad()}, {"features", features.grad()}}) {
    const at::Tensor theirs = reference(std::string("loss.sum.") + name);
    expect_parity(std::string("the gradient of the ") + name, ours, theirs,
                  theirs.abs().max().item<double>());
  }
}

/// A U-Net of the authors' code.
struct Kind {
  const char* name;  ///< its class
  int levels;        ///< depth
  double last;       ///< for `testing::fill`

  friend void PrintTo(const Kind& kind, std::ostream* out) { *out << kind.name; }
};

class TransformParity : public ::testing::TestWithParam<Kind> {};

TEST_P(TransformParity, Outputs_MatchReference) {
  const Kind kind = GetParam();
  const c10::NoGradGuard no_grad;
  const transforms::UNet<> unet{.image = {3, dynamic, dynamic},
                                .levels = kind.levels,
                                .width = 4,
                                .activation = transforms::OutputActivation::clamp};
  testing::fill(*unet.module, kind.last);
  for (const char* images : {"normalized", "odd"}) {
    const std::string name = std::string(kind.name) + ":" + images;
    expect_parity(name, unet.forward(reference(images).slice(0, 0, 2)), reference("transform." + name));
  }
}

TEST_P(TransformParity, ParameterShapes_MatchReference) {
  const Kind kind = GetParam();
  const std::string prefix = std::string("shape.") + kind.name + ".";
  const transforms::UNet<task> unet{.levels = kind.levels};
  std::size_t ours = 0, theirs = 0;
  for (const auto& [name, tensor] : nn::state_dict(*unet.module)) {
    if (tensor.dim() == 0) continue;
    ++ours;
    const at::Tensor shape = reference(prefix + name);
    ASSERT_EQ(std::vector<std::int64_t>(shape.data_ptr<std::int64_t>(),
                                        shape.data_ptr<std::int64_t>() + shape.numel()),
              tensor.sizes().vec())
        << name;
  }
  for (const auto& [name, shape] : testing::reference_values()) theirs += name.starts_with(prefix);
  EXPECT_EQ(ours, theirs);
}

INSTANTIATE_TEST_SUITE_P(Reference, TransformParity,
                         ::testing::Values(Kind{"UNetLittle", 4, 0.2}, Kind{"UNet", 4, 0.2},
                                           Kind{"UNet3Layer", 3, 0.6}, Kind{"UNet5Layer", 5, 0.3}),
                         [](const auto& info) { return std::string(info.param.name); });

/// Compares the victim's and the defended probabilities, with both remappings.
template <typename B>
void expect_defended(const std::string& name, const B& frozen) {
  const c10::NoGradGuard no_grad;
  const at::Tensor images = testing::reference_images();
  const Pipeline permuted{little_unet(4), frozen, remaps::Derangement<task>{.permutation = shuffle},
                          PixelDomain::reference};
  const Pipeline shifted{little_unet(4), frozen, remaps::Shift<task>{}, PixelDomain::reference};
  expect_parity(name + " alone", permuted.undefended(images).softmax(1), reference("victim." + name));
  expect_parity(name + ", permuted", permuted.forward(images).softmax(1),
                reference("defended." + name + ".permuted"));
  expect_parity(name + ", shifted", shifted.forward(images).softmax(1),
                reference("defended." + name + ".shifted"));
}

TEST(DefendedParity, ResNet18_MatchesReference) {
  expect_defended("ResNet18", victim(backbones::ResNet18<task>{.width = 4}, 0.3));
}

TEST(DefendedParity, ResNet50_MatchesReference) {
  expect_defended("ResNet50", victim(backbones::ResNet50<task>{.width = 4}, 0.01));
}

TEST(DefendedParity, Vgg16_MatchesReference) {
  expect_defended("VGG16", victim(backbones::Vgg16<task>{.width = 4, .batch_norm = false}, 3));
  expect_defended("VGG16_bn", victim(backbones::Vgg16<task>{.width = 4}, 3));
}

TEST(DefendedParity, ViT_MatchesReference) {
  expect_defended("ViT", vit());
}

/// Returns the gradient of the whole loss after one batch, by the names of the transform's
/// parameters, and the loss under the empty name.
std::map<std::string, at::Tensor> gradients(at::ScalarType precision) {
  const Pipeline defense{little_unet(2), vit(), remaps::Derangement<task>{.permutation = shuffle},
                         PixelDomain::reference};
  auto& transform = *defense.transform().module;
  transform.to(precision);
  defense.backbone().module->to(precision);
  const at::Tensor images = reference("bytes").to(precision) / 255, teacher = defense.undefended(images);
  transform.train();
  const at::Tensor rewritten = defense.transformed(images);
  const at::Tensor loss = objectives::Bce{}(defense.classify_transformed(rewritten), teacher) +
                          recipes::paper.supcon_weight * objectives::SupCon{}(rewritten, teacher.argmax(1));
  loss.backward();
  std::map<std::string, at::Tensor> found = {{"", loss.to(at::kFloat)}};
  for (const auto& item : transform.named_parameters()) {
    const at::Tensor& gradient = item.value().grad();  // undefined means 0
    found[item.key()] =
        gradient.defined() ? gradient.to(at::kFloat) : at::zeros_like(item.value(), at::kFloat);
  }
  return found;
}

TEST(TrainingParity, Gradient_MatchesReference) {
  for (const auto& [name, ours] : gradients(at::kDouble)) {
    if (name.empty()) {
      expect_parity("the loss", ours, reference("training.loss1"));
      continue;
    }
    // The gradient of a bias before BatchNorm is only rounding.
    const at::Tensor theirs = reference("training.gradient." + name);
    expect_parity("the gradient of " + name, ours, theirs, std::max(theirs.abs().max().item<double>(), 1e-6));
  }
}

/// An observer that records the loss of each epoch.
struct EpochLosses {
  std::vector<double> values = {};
  void on_epoch(const EpochInfo& info) { values.push_back(info.loss); }
};

TEST(TrainingParity, TwoSteps_MatchReference) {
  Pipeline defense{little_unet(2), vit(), remaps::Derangement<task>{.permutation = shuffle},
                   PixelDomain::reference};
  Recipe recipe = recipes::paper;
  recipe.augmentation = {};
  recipe.optimization.batch_size = 5;
  recipe.optimization.epochs = 2;
  EpochLosses losses;
  fit(defense, testing::reference_bytes(), recipe, losses);
  ASSERT_EQ(losses.values.size(), 2u);
  EXPECT_NEAR(losses.values[0], reference("training.loss1").item<double>(), 1e-5);
  EXPECT_NEAR(losses.values[1], reference("training.loss2").item<double>(), 1e-5);
  // A run as short as this one computes the statistics of BatchNorm anew, other than the reference.
  for (const auto& item : defense.transform().module->named_parameters())
    expect_parity(item.key() + " after two steps", item.value().detach(),
                  reference("training.after." + item.key()));
}

}  // namespace
}  // namespace refine
