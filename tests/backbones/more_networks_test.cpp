#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <c10/core/GradMode.h>
#include <fmt/core.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/batchnorm.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <refine/backbones/any_backbone.hpp>
#include <refine/backbones/detail/buildable.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/backbones/vgg.hpp>
#include <refine/formats/safetensors.hpp>
#include <refine/nn/module.hpp>

#include "tests/fixtures/pytorch.hpp"
#include "tests/support/error_of.hpp"

namespace refine::backbones {
namespace {

using refine::testing::distance;
using refine::testing::error_of;
using refine::testing::expect_words;

constexpr Task open_task = {{3, dynamic, dynamic}, 5};

/// Returns the numbers that make_more_networks_file.py computes, too.
at::Tensor numbers(std::int64_t index, at::IntArrayRef shape) {
  const std::int64_t n = c10::multiply_integers(shape);
  return ((at::arange(n, at::kLong) * 7919 + index * 104729) % 1009)
      .to(at::kDouble)
      .div(1009)
      .to(at::kFloat)
      .view(shape);
}

void fill(torch::nn::Module& module) {
  const c10::NoGradGuard no_grad;
  std::int64_t index = 0;
  for (const auto& [name, state] : nn::state_dict(module)) {
    if (name.ends_with("num_batches_tracked")) continue;
    at::Tensor tensor = state;
    const at::Tensor v = numbers(index++, tensor.sizes());
    if (tensor.dim() > 1) {
      const double fan_in = static_cast<double>(tensor.numel()) / static_cast<double>(tensor.size(0));
      tensor.copy_((v - 0.5) * std::sqrt(24 / fan_in));
    } else if (name.ends_with("weight") || name.ends_with("running_var")) {
      tensor.copy_(v + 0.5);
    } else {
      tensor.copy_((v - 0.5) * 0.6);
    }
  }
  module.eval();
}

std::vector<std::pair<std::string, AnyBackbone>> all_networks() {
  std::vector<std::pair<std::string, AnyBackbone>> all;
  for (const bool last_norm : {false, true}) {
    all.emplace_back(last_norm ? "preact.last_norm" : "preact",
                     AnyBackbone(PreActResNet18<>{.task = open_task, .width = 2, .last_norm = last_norm}));
  }
  for (const bool norm : {false, true}) {
    for (const Variant variant : {Variant::cifar, Variant::imagenet}) {
      all.emplace_back(
          fmt::format("vgg19{}{}", norm ? ".norm" : "", variant == Variant::imagenet ? ".large" : ""),
          AnyBackbone(Vgg19<>{.task = open_task, .width = 1, .batch_norm = norm, .variant = variant}));
    }
  }
  for (const int kernel : {3, 7}) {
    for (const bool pooling : {false, true}) {
      const std::string stem = fmt::format(".{}{}", kernel, pooling ? ".pool" : "");
      all.emplace_back(
          "resnet18" + stem,
          AnyBackbone(ResNet18<>{
              .task = open_task, .width = 2, .variant = Variant::imagenet, .stem = Stem{kernel, pooling}}));
      all.emplace_back(
          "resnet50" + stem,
          AnyBackbone(ResNet50<>{
              .task = open_task, .width = 1, .variant = Variant::imagenet, .stem = Stem{kernel, pooling}}));
    }
  }
  return all;
}

TEST(MoreNetworks, Forward_GivesPyTorchsLogits) {
  const auto expected = formats::read_safetensors("tests/fixtures/more_networks.safetensors").tensors;
  std::size_t compared = 0;
  for (const auto& [name, network] : all_networks()) {
    fill(*network.module);
    const auto frozen = freeze(network);
    for (const auto& [height, width] : {std::pair{32, 32}, std::pair{64, 36}}) {
      const at::Tensor images = numbers(1, {2, 3, height, width});
      const at::Tensor logits = expected.at(fmt::format("{}:{}x{}", name, height, width));
      const double scale = std::max(1.0, logits.abs().max().item<double>());
      EXPECT_LT(distance(network.forward(images), logits) / scale, 1e-4) << name;
      EXPECT_LT(distance(frozen.forward(images), logits) / scale, 1e-4) << name << ", frozen";
      EXPECT_TRUE(deep_copy(network).forward(images).equal(network.forward(images))) << name;
      ++compared;
    }
    at::Tensor input = numbers(2, {2, 3, 32, 32}).requires_grad_();
    frozen.forward(input).square().sum().backward();
    EXPECT_GT(input.grad().abs().max().item<float>(), 1e-6f) << name;
  }
  EXPECT_EQ(compared, expected.size());
}

std::size_t batch_norms(const torch::nn::Module& module) {
  const auto parts = module.modules(/*include_self=*/false);
  return static_cast<std::size_t>(std::ranges::count_if(parts, [](const auto& part) {
    return dynamic_cast<const torch::nn::BatchNorm2dImpl*>(part.get()) != nullptr;
  }));
}

TEST(PreActResNet18, Freeze_LeavesTheNormsAfterAnAddition) {
  const PreActResNet18<> plain{.task = open_task, .width = 1};
  EXPECT_EQ(batch_norms(*plain.module), 16u);
  EXPECT_EQ(batch_norms(*freeze(plain).module), 8u);
  const PreActResNet18<> last{.task = open_task, .width = 1, .last_norm = true};
  EXPECT_EQ(batch_norms(*freeze(last).module), 9u);
}

TEST(PreActResNet18, SmallImages_ReachEveryParameter) {
  const PreActResNet18<> network{.task = {{1, 8, 8}, 3}, .width = 2};
  network.module->train();
  const at::Tensor logits = network.forward(numbers(3, {4, 1, 8, 8}));
  EXPECT_EQ(logits.sizes(), (std::vector<std::int64_t>{4, 3}));
  logits.square().sum().backward();
  for (const auto& item : network.module->named_parameters()) {
    EXPECT_TRUE(item.value().grad().defined()) << item.key();
  }
}

TEST(MoreNetworks, Make_UnsupportedSizeOrStem_Throws) {
  expect_words(error_of([] {
                 (void)PreActResNet18<>{.task = {{3, 7, 32}, 10}};
               }),
               {"PreActResNet18", "3x7x32", "at least 8x8"});
  expect_words(error_of([] {
                 (void)Vgg19<>{.task = {{3, 28, 28}, 10}};
               }),
               {"VGG19", "3x28x28", "at least 32x32"});
  for (const auto& [stem, min_side] : {std::pair{Stem{3, false}, 8}, std::pair{Stem{3, true}, 16},
                                       std::pair{Stem{7, false}, 16}, std::pair{Stem{7, true}, 32}}) {
    const auto build = [stem = stem](int side) {
      ResNet18<> network{.task = {{3, side, side}, 10}, .width = 1, .stem = stem};
      network.module->eval();
      EXPECT_EQ(network.forward(numbers(1, {1, 3, side, side})).size(1), 10);
    };
    build(min_side);
    expect_words(error_of([&] { build(min_side - 1); }), {fmt::format("at least {0}x{0}", min_side)});
  }
  expect_words(error_of([] {
                 (void)ResNet50<>{.task = {{3, 32, 32}, 10}, .stem = Stem{5, false}};
               }),
               {"ResNet50", "stem", "3x3 or 7x7", "got 5x5"});
}

}  // namespace
}  // namespace refine::backbones
