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
#include <map>
#include <refine/backbones/backbones.hpp>
#include <refine/nn/nn.hpp>
#include <string>
#include <tests/fixtures/pytorch.hpp>
#include <vector>
#include "tests/support/error_of.hpp"

namespace refine::backbones {
namespace {

using refine::testing::distance;
using refine::testing::error_of;
using refine::testing::load_from_pytorch;
using refine::testing::pytorch;

using Tiny = ResNet18<tasks::cifar10>;

Tiny like_pytorch() {
  Tiny net{.width = 4};
  load_from_pytorch(*net.module, "resnet18");
  return net;
}

int batch_norms(const torch::nn::Module& module) {
  int count = 0;
  for (const auto& part : module.modules(/*include_self=*/false)) {
    count += dynamic_cast<const torch::nn::BatchNorm2dImpl*>(part.get()) != nullptr;
  }
  return count;
}

std::map<std::string, at::Tensor> copied(const torch::nn::Module& module) {
  auto state = nn::state_dict(module);
  for (auto& [name, tensor] : state) tensor = tensor.detach().clone();
  return state;
}

bool same(const std::map<std::string, at::Tensor>& a, const std::map<std::string, at::Tensor>& b) {
  if (a.size() != b.size()) return false;
  for (const auto& [name, tensor] : a) {
    if (!b.contains(name) || !b.at(name).equal(tensor)) return false;
  }
  return true;
}

at::Tensor host_generator_state() {
  return at::detail::getDefaultCPUGenerator().get_state();
}

TEST(ResNet18, ComputesWhatPyTorchDoes) {
  EXPECT_LT(distance(like_pytorch().forward(pytorch().at("images")), pytorch().at("resnet18:images")), 1e-5);
}

TEST(ResNet18, HasTheParametersOfThePaper) {
  // Worked by hand for width f, C channels, K classes: 9Cf + 2f in the stem, per block two 3×3 convolutions
  // and two norms, in the first block of stages 2–4 a 1×1 shortcut and its norm, 8fK + K at the end.
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

TEST(ResNet18, RefusesTasksThatItCantTake) {
  EXPECT_EQ(error_of([] { (void)ResNet18<>{}; }),
            "refine: a ResNet18 needs to know its channels and classes; say .task = Task{ImageShape{3, 32, "
            "32}, 10}");
  EXPECT_EQ(error_of([] {
              (void)ResNet18<>{.task = {{3, 7, 32}, 10}};
            }),
            "refine: a ResNet18 halves its images three times, 3x7x32 is too small; 8x8 is the least");
  EXPECT_EQ(
      error_of([] {
        (void)ResNet18<>{.task = {{3, 32, 32}, 1}};
      }),
      "refine: a ResNet18 was asked for 3x32x32 images and 1 classes; it needs 1 channel and 2 classes at "
      "least");
  EXPECT_EQ(error_of([] {
              (void)Tiny{.task = {{3, 32, 32}, 9}};
            }),
            "refine: ResNet18<3x32x32, 10> was told another task: 3x32x32, 9 classes");
  EXPECT_EQ(error_of([] { (void)Tiny{.width = 0}; }),
            "refine: a ResNet18 of width 0 was asked for; width is at least 1");
}

TEST(Seeds, SayTheInitialWeights) {
  const Tiny one{.width = 2}, again{.width = 2}, other{.width = 2, .seed = 7};
  EXPECT_TRUE(same(copied(*one.module), copied(*again.module)));
  EXPECT_FALSE(one.module->parameters()[0].equal(other.module->parameters()[0]));
}

TEST(Seeds, LeaveTheDefaultGeneratorAlone) {
  at::Generator(at::detail::getDefaultCPUGenerator()).set_current_seed(5);
  const at::Tensor before = host_generator_state();
  const Tiny net{.width = 2};
  EXPECT_TRUE(host_generator_state().equal(before)) << "making it";
  (void)deep_copy(net);
  EXPECT_TRUE(host_generator_state().equal(before)) << "copying it";
  (void)freeze(net);
  EXPECT_TRUE(host_generator_state().equal(before)) << "freezing it";
  EXPECT_THROW(nn::with_torch_seed(1, []() -> int { throw Error("stop"); }), Error);
  EXPECT_TRUE(host_generator_state().equal(before)) << "failing to make it";
}

TEST(DeepCopy, IsIndependent) {
  const Tiny net = like_pytorch(), shared = net, copy = deep_copy(net);
  EXPECT_TRUE(same(copied(*net.module), copied(*copy.module)));
  EXPECT_FALSE(copy.module->is_training());
  {
    c10::NoGradGuard no_grad;
    for (auto& parameter : copy.module->parameters()) parameter.zero_();
  }
  EXPECT_LT(distance(net.forward(pytorch().at("images")), pytorch().at("resnet18:images")), 1e-5);
  EXPECT_EQ(copy.forward(pytorch().at("images")).abs().max().item<float>(), 0.0f);
  EXPECT_EQ(shared.module, net.module);
}

TEST(Freeze, ComputesTheSameWithoutBatchNorm) {
  const auto frozen = freeze(like_pytorch());
  EXPECT_LT(distance(frozen.forward(pytorch().at("images")), pytorch().at("resnet18:images")), 1e-5);
  EXPECT_EQ(batch_norms(*frozen.module), 0);
  EXPECT_EQ(frozen.module->buffers().size(), 0u);
  EXPECT_FALSE(frozen.module->is_training());
  for (const auto& parameter : frozen.module->parameters()) {
    EXPECT_FALSE(parameter.requires_grad());
    EXPECT_TRUE(parameter.dim() != 4 || parameter.is_contiguous(at::MemoryFormat::ChannelsLast));
  }
  static_assert(FrozenBackbone<Frozen<Tiny>> && !FrozenBackbone<Tiny>);
  static_assert(static_task_of<Frozen<Tiny>>() == tasks::cifar10);
  EXPECT_EQ(frozen.task, tasks::cifar10);
}

TEST(Freeze, LetsGradientsThroughToTheInput) {
  const Tiny net = like_pytorch();
  const auto frozen = freeze(net);
  const auto gradient = [](const auto& backbone) {
    at::Tensor images = pytorch().at("images").clone().requires_grad_();
    backbone.forward(images).square().sum().backward();
    return images.grad();
  };
  const at::Tensor mine = gradient(frozen), theirs = gradient(net);
  EXPECT_GT(theirs.abs().max().item<float>(), 1e-5);
  EXPECT_LT(distance(mine, theirs), 1e-4 * theirs.abs().max().item<double>());
  for (const auto& parameter : frozen.module->parameters()) EXPECT_FALSE(parameter.grad().defined());
}

TEST(Freeze, LeavesTheOriginalAsItWas) {
  const Tiny net = like_pytorch();
  net.module->train();
  const auto before = copied(*net.module);
  (void)freeze(net);
  EXPECT_TRUE(same(copied(*net.module), before));
  EXPECT_EQ(batch_norms(*net.module), 1 + 8 * 2 + 3);
  EXPECT_TRUE(net.module->is_training());
  for (const auto& parameter : net.module->parameters()) EXPECT_TRUE(parameter.requires_grad());
  net.forward(pytorch().at("images")).sum().backward();
  EXPECT_TRUE(net.module->parameters()[0].grad().defined());
}

TEST(Freeze, OfAFrozenBackboneIsTheSame) {
  const auto once = freeze(like_pytorch());
  const auto twice = freeze(once);
  static_assert(std::is_same_v<decltype(once), decltype(twice)>);
  EXPECT_EQ(once.module, twice.module);
}

TEST(Fold, KeepsStrideGroupsAndBias) {
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

/// Logits are the means of the channels: what reaches it can be read off.
struct Means {
  static constexpr Task task = {ImageShape{3, dynamic, dynamic}, 3};
  std::shared_ptr<torch::nn::Module> module = std::make_shared<torch::nn::Module>("Means");
  at::Tensor forward(const at::Tensor& images) const { return images.mean({2, 3}); }
};

TEST(Normalized, IsTheFormula) {
  const Normalized net(Means{}, {.mean = {0.5, 0.25, 0}, .deviation = {0.5, 2, 0.1}});
  const at::Tensor images =
      at::tensor(std::vector<float>{1, 0.75, 0.2f}).view({1, 3, 1, 1}).expand({2, 3, 4, 4});
  const at::Tensor logits = net.forward(images);
  EXPECT_NEAR(logits[1][0].item<float>(), (1 - 0.5) / 0.5, 1e-6);
  EXPECT_NEAR(logits[1][1].item<float>(), (0.75 - 0.25) / 2, 1e-6);
  EXPECT_NEAR(logits[1][2].item<float>(), (0.2 - 0) / 0.1, 1e-6);
  EXPECT_LT(distance(net.normalize(images).mean({2, 3}), logits), 1e-6);
  EXPECT_LT(distance(net.forward_normalized(images), images.mean({2, 3})), 1e-6);
  static_assert(NormalizingBackbone<Normalized<Means>> && !NormalizingBackbone<Means>);
  static_assert(static_task_of<Normalized<Means>>() == Means::task);
}

TEST(Normalized, FreezesWithItsNormalisation) {
  const Normalized net(like_pytorch(), normalizations::cifar10);
  const auto frozen = freeze(net);
  static_assert(NormalizingBackbone<Frozen<Normalized<Tiny>>> && !NormalizingBackbone<Frozen<Tiny>>);
  const at::Tensor images = pytorch().at("images");
  EXPECT_LT(distance(frozen.forward(images), net.forward(images)), 1e-4);
  EXPECT_LT(distance(frozen.forward_normalized(images), pytorch().at("resnet18:images")), 1e-5);
  EXPECT_TRUE(frozen.normalize(images).equal(net.normalize(images)));
  EXPECT_NE(frozen.module, net.module);
  EXPECT_GT(batch_norms(*net.module), 0);
}

TEST(Normalized, RefusesWhatIsNoNormalisation) {
  for (const double deviation : {0.0, -1.0, std::nan("")}) {
    EXPECT_NE(error_of([&] {
                Normalized(Means{}, {.deviation = {1, deviation, 1}});
              }).find("deviations are above 0"),
              std::string::npos);
  }
  for (const int channels : {1, 2}) {  // one channel with three different numbers
    EXPECT_EQ(error_of([&] {
                Normalized(ResNet18<>{.task = {{channels, 8, 8}, 2}, .width = 1}, normalizations::cifar10);
              }),
              "refine: a Normalization has 3 channels, the backbone takes " + std::to_string(channels) +
                  "; normalise in the backbone itself");
  }
}

TEST(Normalized, TakesOneNumberForGreyImages) {
  const ResNet18<> network{.task = {{1, 8, 8}, 2}, .width = 1};
  network.module->eval();
  const Normalized grey{network, {.mean = {0.5, 0.5, 0.5}, .deviation = {0.25, 0.25, 0.25}}};
  const at::Tensor images = at::full({1, 1, 8, 8}, 0.75);
  EXPECT_TRUE(at::equal(grey.normalize(images), at::ones({1, 1, 8, 8})));  // (0.75 - 0.5) / 0.25
  EXPECT_TRUE(at::equal(grey.forward(images), network.forward(at::ones({1, 1, 8, 8}))));
}

TEST(Device, IsSaidOnceAndByName) {
  use_device("cpu");
  EXPECT_TRUE(default_device().is_cpu());
  for (const char* name : {"gpu", "cuda:", "cuda:x", "", "cpu:"}) {
    EXPECT_NE(error_of([&] { use_device(name); }).find("say auto, cpu, cuda or cuda:N"), std::string::npos)
        << name;
  }
  EXPECT_NE(error_of([] { use_device("cuda:999"); }).find("say cpu or auto"), std::string::npos);
  EXPECT_TRUE(default_device().is_cpu()) << "a refused device changes nothing";
  EXPECT_NE(error_of([] { use_threads(-1); }), "");
}

// ---- The snippet of refine/nn/README.md ----

struct Stem : torch::nn::Cloneable<Stem>, nn::Foldable {
  torch::nn::Conv2d conv{nullptr};
  torch::nn::BatchNorm2d bn{nullptr};

  Stem() { reset(); }
  void reset() override {
    conv = register_module("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 4, 3)));
    bn = register_module("bn", torch::nn::BatchNorm2d(4));
  }
  at::Tensor forward(const at::Tensor& x) { return nn::apply_batch_norm(bn, conv->forward(x)); }
  void fold() override { nn::fold_conv_bn(*this, "conv", conv, "bn", bn); }
};

TEST(Readme, FoldsAModuleOfYourOwn) {
  Stem stem;
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

TEST(Readme, TakesABackboneOfYourOwn) {
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
