#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/linear.h>

#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <refine/backbones/backbones.hpp>
#include <refine/nn/nn.hpp>

#include "tests/fixtures/pytorch.hpp"
#include "tests/support/error_of.hpp"

namespace refine::backbones {
namespace {

using refine::testing::distance;
using refine::testing::error_of;
using refine::testing::expect_words;
using refine::testing::load_from_pytorch;
using refine::testing::pytorch;

using SmallResNet = ResNet18<tasks::cifar10>;

/// Returns the network with the weights of the fixture that PyTorch wrote.
SmallResNet resnet_of_pytorch() {
  SmallResNet net{.width = 4};
  load_from_pytorch(*net.module, "resnet18");
  return net;
}

int norms_of(const torch::nn::Module& module) {
  int count = 0;
  for (const auto& part : module.modules(/*include_self=*/false)) {
    count += dynamic_cast<const torch::nn::BatchNorm2dImpl*>(part.get()) != nullptr;
  }
  return count;
}

std::map<std::string, at::Tensor> copy_state(const torch::nn::Module& module) {
  auto state = nn::state_dict(module);
  for (auto& [name, tensor] : state) tensor = tensor.detach().clone();
  return state;
}

bool equal_states(const std::map<std::string, at::Tensor>& a, const std::map<std::string, at::Tensor>& b) {
  if (a.size() != b.size()) return false;
  for (const auto& [name, tensor] : a) {
    if (!b.contains(name) || !b.at(name).equal(tensor)) return false;
  }
  return true;
}

at::Tensor host_generator_state() {
  return at::detail::getDefaultCPUGenerator().get_state();
}

TEST(ResNet18, Forward_GivesPyTorchsLogits) {
  EXPECT_LT(distance(resnet_of_pytorch().forward(pytorch().at("images")), pytorch().at("resnet18:images")),
            1e-5);
}

TEST(ResNet18, Parameters_AreAsManyAsInThePaper) {
  // By hand, for width f, C channels and K classes: the stem has 9Cf + 2f, each block two 3×3
  // convolutions and two norms, the first block of stages 2–4 a 1×1 shortcut and its norm, and the
  // last layer 8fK + K.
  const std::int64_t f = 4, channels = 1, classes = 3;
  std::int64_t expected = 9 * channels * f + 2 * f;
  for (std::int64_t in = f, level = 0; level < 4; ++level) {
    const std::int64_t out = f << level;
    expected += 9 * in * out + 3 * 9 * out * out + 4 * 2 * out;
    if (in != out) expected += in * out + 2 * out;
    in = out;
  }
  expected += 8 * f * classes + classes;
  const ResNet18<> net{.task = {{1, 8, 8}, 3}, .width = 4};
  std::int64_t count = 0;
  for (const auto& parameter : net.module->parameters()) count += parameter.numel();
  EXPECT_EQ(count, expected);
  EXPECT_EQ(net.forward(at::rand({2, 1, 8, 8})).sizes(), (std::vector<std::int64_t>{2, 3}));
}

TEST(ResNet18, Make_UnsupportedTaskOrWidth_Throws) {
  expect_words(error_of([] { (void)ResNet18<>{}; }),
               {"ResNet18", "channels and classes must be known", ".task = Task{ImageShape{3, 32, 32}, 10}"});
  expect_words(error_of([] {
                 (void)ResNet18<>{.task = {{3, 7, 32}, 10}};
               }),
               {"ResNet18", "too small", "got 3x7x32", "at least 8x8", "three times"});
  expect_words(error_of([] {
                 (void)ResNet18<>{.task = {{3, 32, 32}, 1}};
               }),
               {"ResNet18", "1 channel and 2 classes", "got 3x32x32 images, 1 classes"});
  expect_words(error_of([] {
                 (void)SmallResNet{.task = {{3, 32, 32}, 9}};
               }),
               {"ResNet18<3x32x32, 10>", "task", "got 3x32x32, 9 classes"});
  // An open extent.
  expect_words(error_of([] {
                 (void)ResNet18<Task{{3, 32, dynamic}, dynamic}>{.task = {{1, 32, 32}, 9}};
               }),
               {"ResNet18<3x32x?, ?>", "task", "got 1x32x32, 9 classes"});
  expect_words(error_of([] {
                 (void)SmallResNet{.task = {{1, 32, dynamic}, dynamic}};
               }),
               {"ResNet18<3x32x32, 10>", "task", "got 1x32x?, ? classes"});
  expect_words(error_of([] { (void)SmallResNet{.width = 0}; }), {"ResNet18", "width", "at least 1", "got 0"});
}

TEST(Seed, SameSeed_GivesTheSameWeights) {
  const SmallResNet one{.width = 2}, again{.width = 2}, other{.width = 2, .seed = 7};
  EXPECT_TRUE(equal_states(copy_state(*one.module), copy_state(*again.module)));
  EXPECT_FALSE(one.module->parameters()[0].equal(other.module->parameters()[0]));
}

TEST(Seed, DefaultGenerator_IsUnchanged) {
  at::Generator(at::detail::getDefaultCPUGenerator()).set_current_seed(5);
  const at::Tensor before = host_generator_state();
  const SmallResNet net{.width = 2};
  EXPECT_TRUE(host_generator_state().equal(before)) << "making it";
  (void)deep_copy(net);
  EXPECT_TRUE(host_generator_state().equal(before)) << "copying it";
  (void)freeze(net);
  EXPECT_TRUE(host_generator_state().equal(before)) << "freezing it";
  EXPECT_THROW(nn::with_torch_seed(1, []() -> int { throw Error("stop"); }), Error);
  EXPECT_TRUE(host_generator_state().equal(before)) << "failing to make it";
}

TEST(DeepCopy, Copy_IsIndependentOfTheOriginal) {
  const SmallResNet net = resnet_of_pytorch(), shared = net, copy = deep_copy(net);
  EXPECT_TRUE(equal_states(copy_state(*net.module), copy_state(*copy.module)));
  EXPECT_FALSE(copy.module->is_training());
  {
    c10::NoGradGuard no_grad;
    for (auto& parameter : copy.module->parameters()) parameter.zero_();
  }
  EXPECT_LT(distance(net.forward(pytorch().at("images")), pytorch().at("resnet18:images")), 1e-5);
  EXPECT_EQ(copy.forward(pytorch().at("images")).abs().max().item<float>(), 0.0f);
  EXPECT_EQ(shared.module, net.module);
}

TEST(Freeze, Frozen_GivesTheSameLogitsWithoutBatchNorm) {
  const auto frozen = freeze(resnet_of_pytorch());
  EXPECT_LT(distance(frozen.forward(pytorch().at("images")), pytorch().at("resnet18:images")), 1e-5);
  EXPECT_EQ(norms_of(*frozen.module), 0);
  EXPECT_EQ(frozen.module->buffers().size(), 0u);
  EXPECT_FALSE(frozen.module->is_training());
  for (const auto& parameter : frozen.module->parameters()) {
    EXPECT_FALSE(parameter.requires_grad());
    EXPECT_TRUE(parameter.dim() != 4 || parameter.is_contiguous(at::MemoryFormat::ChannelsLast));
  }
  static_assert(FrozenBackbone<Frozen<SmallResNet>> && !FrozenBackbone<SmallResNet>);
  static_assert(static_task_of<Frozen<SmallResNet>>() == tasks::cifar10);
  EXPECT_EQ(frozen.task, tasks::cifar10);
}

TEST(Freeze, Frozen_PassesGradientsToTheInput) {
  const SmallResNet net = resnet_of_pytorch();
  const auto frozen = freeze(net);
  const auto gradient = [](const auto& backbone) {
    at::Tensor images = pytorch().at("images").clone().requires_grad_();
    backbone.forward(images).square().sum().backward();
    return images.grad();
  };
  const at::Tensor actual = gradient(frozen), expected = gradient(net);
  EXPECT_GT(expected.abs().max().item<float>(), 1e-5);
  EXPECT_LT(distance(actual, expected), 1e-4 * expected.abs().max().item<double>());
  for (const auto& parameter : frozen.module->parameters()) EXPECT_FALSE(parameter.grad().defined());
}

TEST(Freeze, Original_IsUnchanged) {
  const SmallResNet net = resnet_of_pytorch();
  net.module->train();
  const auto before = copy_state(*net.module);
  (void)freeze(net);
  EXPECT_TRUE(equal_states(copy_state(*net.module), before));
  EXPECT_EQ(norms_of(*net.module), 1 + 8 * 2 + 3);
  EXPECT_TRUE(net.module->is_training());
  for (const auto& parameter : net.module->parameters()) EXPECT_TRUE(parameter.requires_grad());
  net.forward(pytorch().at("images")).sum().backward();
  EXPECT_TRUE(net.module->parameters()[0].grad().defined());
}

TEST(Freeze, FrozenBackbone_IsReturnedUnchanged) {
  const auto once = freeze(resnet_of_pytorch());
  const auto twice = freeze(once);
  static_assert(std::is_same_v<decltype(once), decltype(twice)>);
  EXPECT_EQ(once.module, twice.module);
}

TEST(Fold, Folded_KeepsStrideGroupsAndBias) {
  torch::nn::Conv2d convolution(torch::nn::Conv2dOptions(4, 6, 3).stride(2).padding(1).groups(2).bias(true));
  torch::nn::BatchNorm2d norm(6);
  {
    c10::NoGradGuard no_grad;
    norm->running_mean.copy_(at::rand({6}) - 0.5);
    norm->running_var.copy_(at::rand({6}) + 0.1);
    norm->weight.copy_(at::rand({6}) - 0.5);
    norm->bias.copy_(at::rand({6}) - 0.5);
  }
  norm->eval();
  const at::Tensor x = at::rand({2, 4, 9, 7});
  EXPECT_LT(distance(nn::folded(convolution, norm)->forward(x), norm->forward(convolution->forward(x))),
            1e-5);
}

TEST(Fold, NormWithoutAffineParameters_IsFoldedAndWithoutStatisticsRefused) {
  torch::nn::Conv2d convolution(torch::nn::Conv2dOptions(4, 6, 3));
  torch::nn::BatchNorm2d norm(torch::nn::BatchNorm2dOptions(6).affine(false));
  norm->running_mean.copy_(at::rand({6}) - 0.5);
  norm->running_var.copy_(at::rand({6}) + 0.1);
  norm->eval();
  const at::Tensor x = at::rand({2, 4, 9, 7});
  EXPECT_LT(distance(nn::folded(convolution, norm)->forward(x), norm->forward(convolution->forward(x))),
            1e-5);
  const torch::nn::BatchNorm2d of_batches(torch::nn::BatchNorm2dOptions(6).track_running_stats(false));
  expect_words(error_of([&] { nn::folded(convolution, of_batches); }), {"BatchNorm", "running statistics"});
}

/// Returns the means of the channels as logits, so that they show what reached the network.
struct ChannelMeans {
  static constexpr Task task = {ImageShape{3, dynamic, dynamic}, 3};
  std::shared_ptr<torch::nn::Module> module = std::make_shared<torch::nn::Module>("ChannelMeans");
  at::Tensor forward(const at::Tensor& images) const { return images.mean({2, 3}); }
};

TEST(Normalized, Forward_FollowsTheFormula) {
  const Normalized net(ChannelMeans{}, {.mean = {0.5, 0.25, 0}, .deviation = {0.5, 2, 0.1}});
  const at::Tensor images =
      at::tensor(std::vector<float>{1, 0.75, 0.2f}).view({1, 3, 1, 1}).expand({2, 3, 4, 4});
  const at::Tensor logits = net.forward(images);
  EXPECT_NEAR(logits[1][0].item<float>(), (1 - 0.5) / 0.5, 1e-6);
  EXPECT_NEAR(logits[1][1].item<float>(), (0.75 - 0.25) / 2, 1e-6);
  EXPECT_NEAR(logits[1][2].item<float>(), (0.2 - 0) / 0.1, 1e-6);
  EXPECT_LT(distance(net.normalize(images).mean({2, 3}), logits), 1e-6);
  EXPECT_LT(distance(net.forward_normalized(images), images.mean({2, 3})), 1e-6);
  static_assert(NormalizingBackbone<Normalized<ChannelMeans>> && !NormalizingBackbone<ChannelMeans>);
  static_assert(static_task_of<Normalized<ChannelMeans>>() == ChannelMeans::task);
}

TEST(Normalized, Freeze_KeepsTheNormalization) {
  const Normalized net(resnet_of_pytorch(), normalizations::cifar10);
  const auto frozen = freeze(net);
  static_assert(NormalizingBackbone<Frozen<Normalized<SmallResNet>>> &&
                !NormalizingBackbone<Frozen<SmallResNet>>);
  const at::Tensor images = pytorch().at("images");
  EXPECT_LT(distance(frozen.forward(images), net.forward(images)), 1e-4);
  EXPECT_LT(distance(frozen.forward_normalized(images), pytorch().at("resnet18:images")), 1e-5);
  EXPECT_TRUE(frozen.normalize(images).equal(net.normalize(images)));
  EXPECT_NE(frozen.module, net.module);
  EXPECT_GT(norms_of(*net.module), 0);
}

TEST(Normalized, InvalidDeviationOrChannels_Throws) {
  for (const auto& [deviation, text] :
       {std::pair{0.0, "got 0"}, std::pair{-1.0, "got -1"}, std::pair{std::nan(""), "got nan"}}) {
    expect_words(error_of([&] {
                   Normalized(ChannelMeans{}, {.deviation = {1, deviation, 1}});
                 }),
                 {"deviations must be positive", text});
  }
  constexpr double infinity = std::numeric_limits<double>::infinity();
  for (const double deviation : {infinity, 1e39, 1e-60}) {  // the last two are infinite and 0 as float
    expect_words(error_of([&] {
                   Normalized(ChannelMeans{}, {.deviation = {1, deviation, 1}});
                 }),
                 {"Normalized: deviations must be positive and finite"});
  }
  for (const double mean : {infinity, -infinity, 1e39, std::nan("")}) {
    expect_words(error_of([&] {
                   Normalized(ChannelMeans{}, {.mean = {0, 0, mean}});
                 }),
                 {"Normalized: means", "finite"});
  }
  for (const int channels : {1, 2}) {  // one channel with three different numbers
    expect_words(error_of([&] {
                   Normalized(ResNet18<>{.task = {{channels, 8, 8}, 2}, .width = 1}, normalizations::cifar10);
                 }),
                 {"Normalized", "has 3", "takes " + std::to_string(channels), "in the backbone itself"});
  }
}

TEST(Normalized, GreyImages_UseOneOfThreeEqualNumbers) {
  const ResNet18<> network{.task = {{1, 8, 8}, 2}, .width = 1};
  network.module->eval();
  const Normalized grey{network, {.mean = {0.5, 0.5, 0.5}, .deviation = {0.25, 0.25, 0.25}}};
  const at::Tensor images = at::full({1, 1, 8, 8}, 0.75);
  EXPECT_TRUE(at::equal(grey.normalize(images), at::ones({1, 1, 8, 8})));  // (0.75 - 0.5) / 0.25
  EXPECT_TRUE(at::equal(grey.forward(images), network.forward(at::ones({1, 1, 8, 8}))));
}

TEST(Device, UseDevice_SelectsByNameAndRefusesOthers) {
  use_device("cpu");
  EXPECT_TRUE(default_device().is_cpu());
  for (const char* name : {"gpu", "cuda:", "cuda:x", "", "cpu:"}) {
    expect_words(error_of([&] { use_device(name); }),
                 {std::string("'") + name + "'", "auto, cpu, cuda or cuda:N"});
  }
  expect_words(error_of([] { use_device("cuda:999"); }), {"cuda:999", "cpu or auto"});
  EXPECT_TRUE(default_device().is_cpu()) << "a refused device must change nothing";
  EXPECT_NE(error_of([] { use_threads(-1); }), "");
}

// ---- The snippet of refine/nn/README.md ----

struct FoldingStem : torch::nn::Cloneable<FoldingStem>, nn::Foldable {
  torch::nn::Conv2d conv{nullptr};
  torch::nn::BatchNorm2d bn{nullptr};

  FoldingStem() { reset(); }
  void reset() override {
    conv = register_module("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 4, 3)));
    bn = register_module("bn", torch::nn::BatchNorm2d(4));
  }
  at::Tensor forward(const at::Tensor& x) { return nn::apply_batch_norm(bn, conv->forward(x)); }
  void fold() override { nn::fold_conv_bn(*this, "conv", conv, "bn", bn); }
};

TEST(Readme, FoldableModule_FoldsItsBatchNorm) {
  FoldingStem stem;
  {
    c10::NoGradGuard no_grad;
    stem.bn->running_mean.add_(0.5);
    stem.bn->running_var.mul_(3);
  }
  stem.eval();
  const at::Tensor x = at::rand({2, 3, 8, 8}), before = stem.forward(x);
  nn::fold_all(stem);
  EXPECT_TRUE(stem.bn.is_empty());
  EXPECT_LT(distance(stem.forward(x), before), 1e-5);
}

// ---- The snippet of refine/backbones/README.md ----

/// A linear classifier on the pixels.
struct Linear {
  struct Module : torch::nn::Cloneable<Module> {
    explicit Module(const Task& task) : task(task) { reset(); }
    void reset() override {
      const auto& [channels, height, width] = task.image;
      layer = register_module("layer", torch::nn::Linear(channels * height * width, task.classes));
    }
    Task task;
    torch::nn::Linear layer{nullptr};
  };

  Task task = tasks::cifar10;
  std::shared_ptr<Module> module =
      nn::with_torch_seed(default_seed, [this] { return std::make_shared<Module>(task); });

  at::Tensor forward(const at::Tensor& images) const { return module->layer->forward(images.flatten(1)); }
};
static_assert(Backbone<Linear>);

TEST(Readme, CustomBackbone_CanBeFrozen) {
  const Linear net{.task = {{1, 4, 4}, 3}};
  const auto frozen = freeze(net);
  const at::Tensor images = at::rand({5, 1, 4, 4});
  EXPECT_EQ(frozen.forward(images).sizes(), (std::vector<std::int64_t>{5, 3}));
  EXPECT_TRUE(frozen.forward(images).equal(net.forward(images)));
  EXPECT_NE(frozen.module, net.module);
  EXPECT_TRUE(net.module->parameters()[0].requires_grad());
}

}  // namespace
}  // namespace refine::backbones
