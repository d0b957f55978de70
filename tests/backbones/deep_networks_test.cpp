// DenseNet-121, Inception-v3 and the vision transformer, beside torchvision's and the reference's own
// (tests/fixtures/make_deep_network_files.py).

#include <ATen/TensorOperators.h>
#include <ATen/ops/rand.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/batchnorm.h>

#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <refine/backbones/any_backbone.hpp>
#include <refine/backbones/densenet.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/inception.hpp>
#include <refine/backbones/vit.hpp>
#include <refine/formats/safetensors.hpp>
#include <refine/nn/state_dict.hpp>
#include <refine/nn/torch_random.hpp>

#include "tests/fixtures/pytorch.hpp"
#include "tests/support/error_of.hpp"

namespace refine::backbones {
namespace {

using refine::testing::distance;
using refine::testing::error_of;
using refine::testing::expect_words;

using Tensors = std::map<std::string, at::Tensor>;

Tensors fixture(const std::string& name) {
  return formats::read_safetensors("tests/fixtures/" + name + ".safetensors").tensors;
}

/// `net` with the weights that PyTorch wrote, in evaluation mode.
template <typename B>
B loaded(const B& net, const Tensors& written) {
  Tensors state;
  for (const auto& [name, tensor] : written) {
    if (name.starts_with("network.")) state.emplace(name, tensor);
  }
  nn::load_state_dict(*net.module, state, "the fixture", "network.");
  net.module->eval();
  return net;
}

/// The fixture's images, repeated and cut as its script says.
at::Tensor cut(const at::Tensor& images, std::int64_t height, std::int64_t width) {
  return images.repeat({1, 1, 4, 4}).narrow(2, 0, height).narrow(3, 0, width);
}

/// In double precision, where a hundred layers leave no rounding to speak of.
template <typename B>
at::Tensor precisely(const B& net, const at::Tensor& images) {
  c10::NoGradGuard no_grad;
  const B wide = deep_copy(net);
  wide.module->to(at::kDouble);
  return wide.forward(images.to(at::kDouble)).to(at::kFloat);
}

int batch_norm_layers(const torch::nn::Module& module) {
  int count = 0;
  for (const auto& part : module.modules(/*include_self=*/false)) {
    count += dynamic_cast<const torch::nn::BatchNorm2dImpl*>(part.get()) != nullptr;
  }
  return count;
}

std::int64_t numbers(const torch::nn::Module& module) {
  std::int64_t count = 0;
  for (const auto& parameter : module.parameters()) count += parameter.numel();
  return count;
}

double largest(const at::Tensor& tensor) {
  return tensor.abs().max().item<double>();
}

/// Frozen, a network answers as before, its gradient reaches the images and none of its own parameters.
template <typename B>
void expect_frozen_alike(const B& net, const at::Tensor& images, int norms_left) {
  const auto frozen = freeze(net);
  EXPECT_EQ(batch_norm_layers(*frozen.module), norms_left);
  const auto run = [&](const auto& backbone) {
    at::Tensor x = images.clone().requires_grad_();
    const at::Tensor logits = backbone.forward(x);
    logits.square().sum().backward();
    return std::pair(logits.detach(), x.grad());
  };
  const auto [before, gradient_before] = run(net);
  const auto [after, gradient_after] = run(frozen);
  EXPECT_LT(distance(after, before), 1e-4 * largest(before));
  const double most = largest(gradient_before);
  EXPECT_GT(most, 1e-6);
  EXPECT_LT(distance(gradient_after, gradient_before), 1e-3 * most);
  for (const auto& parameter : frozen.module->parameters()) {
    EXPECT_FALSE(parameter.requires_grad() || parameter.grad().defined());
  }
  EXPECT_TRUE(net.module->parameters()[0].requires_grad());
}

/// In training mode every parameter gets a gradient.
template <typename B>
void expect_all_trained(const B& net, std::int64_t count) {
  const auto& [channels, height, width] = net.task.image;
  nn::with_torch_seed(1, [&] {  // dropout draws too
    net.forward(at::rand({count, channels, height, width})).log_softmax(1).square().sum().backward();
  });
  for (const auto& item : net.module->named_parameters()) {
    ASSERT_TRUE(item.value().grad().defined()) << item.key();
    EXPECT_GT(largest(item.value().grad()), 0) << item.key();
  }
}

static_assert(Backbone<DenseNet121<>> && Backbone<InceptionV3<>> && Backbone<ViT<>>);
static_assert(static_task_of<DenseNet121<tasks::cifar10>>() == tasks::cifar10);

constexpr Task small = {{3, 32, 32}, 5};

// ---- DenseNet-121 ----

TEST(DenseNet121, ComputesWhatTorchvisionDoes) {
  const Tensors written = fixture("densenet121");
  const auto net = loaded(DenseNet121<small>{.width = 4}, written);
  const at::Tensor& images = written.at("images");
  EXPECT_LT(distance(net.forward(images), written.at("logits")), 1e-5);
  EXPECT_LT(distance(precisely(net, images), written.at("logits")), 1e-6);
  EXPECT_LT(distance(precisely(net, cut(images, 29, 45)), written.at("logits:29x45")), 1e-6);
  EXPECT_LT(distance(precisely(net, cut(images, 64, 64)), written.at("logits:64x64")), 1e-6);
}

TEST(DenseNet121, HasAsManyParametersAsTorchvisionSays) {
  EXPECT_EQ(numbers(*DenseNet121<>{.task = {{3, 224, 224}, 1000}}.module), 7978856);
}

TEST(DenseNet121, FreezesToTheNormsThatStandBeforeTheirConvolution) {
  const Tensors written = fixture("densenet121");
  const auto net = loaded(DenseNet121<>{.task = small, .width = 4}, written);
  EXPECT_EQ(batch_norm_layers(*net.module), 121);
  expect_frozen_alike(net, written.at("images"), 58 + 3 + 1);  // one a layer, one a transition, the last
}

TEST(DenseNet121, StartsAsTorchvisionDoes) {
  const DenseNet121<> net{.task = small, .width = 32};
  const auto state = nn::state_dict(*net.module);
  // He et al.'s normal: √(2 / inputs of one output).
  EXPECT_NEAR(state.at("features.conv0.weight").std().item<double>(), std::sqrt(2.0 / (3 * 49)), 0.01);
  const at::Tensor& last = state.at("features.denseblock4.denselayer16.conv1.weight");
  EXPECT_NEAR(last.std().item<double>(), std::sqrt(2.0 / static_cast<double>(last.size(1))), 0.002);
  EXPECT_EQ(state.at("classifier.bias").abs().max().item<float>(), 0);
}

TEST(DenseNet121, TrainsAllOfItself) {
  expect_all_trained(DenseNet121<>{.task = {{1, 64, 64}, 3}, .width = 2}, 3);
}

TEST(DenseNet121, RefusesWhatItCantBeBuiltFor) {
  expect_words(error_of([] {
                 (void)DenseNet121<>{.task = {{3, 28, 64}, 5}};
               }),
               {"a DenseNet121", "3x28x64 is too small", "29x29 is the least"});
  expect_words(error_of([] { (void)DenseNet121<small>{.width = 7}; }), {"width 7", "even"});
  expect_words(error_of([] { (void)DenseNet121<small>{.width = 0}; }), {"width 0", "at least 1"});
  expect_words(error_of([] { (void)DenseNet121<>{}; }), {"needs to know its channels and classes"});
  expect_words(error_of([] { (void)DenseNet121<small>{.task = tasks::cifar10}; }), {"told another task"});
}

// ---- Inception-v3 ----

TEST(InceptionV3, ComputesWhatTorchvisionDoes) {
  const Tensors written = fixture("inception_v3");
  const at::Tensor& images = written.at("images");
  const auto net = loaded(InceptionV3<small>{.width = 2, .resize = 96}, written);
  EXPECT_LT(distance(net.forward(images), written.at("logits")), 1e-5);
  EXPECT_LT(distance(precisely(net, images), written.at("logits")), 1e-6);
  EXPECT_LT(distance(precisely(net, cut(images, 24, 33)), written.at("logits:24x33")), 1e-6);

  const auto large = loaded(InceptionV3<>{.task = {{3, 75, 80}, 5}, .width = 2}, written);
  EXPECT_EQ(large.resize, 0);
  EXPECT_LT(distance(precisely(large, cut(images, 75, 80)), written.at("logits:75x80")), 1e-6);
}

TEST(InceptionV3, HasAsManyParametersAsTorchvisionSays) {
  // Its 27161264 less the auxiliary classifier: 768·128 + 2·128, 128·768·5·5 + 2·768, 768·1000 + 1000.
  const std::int64_t auxiliary = 768 * 128 + 2 * 128 + 128 * 768 * 25 + 2 * 768 + 768 * 1000 + 1000;
  EXPECT_EQ(numbers(*InceptionV3<>{.task = {{3, 299, 299}, 1000}}.module), 27161264 - auxiliary);
}

TEST(InceptionV3, FreezesToConvolutionsAlone) {
  const Tensors written = fixture("inception_v3");
  const auto net = loaded(InceptionV3<>{.task = small, .width = 2}, written);
  EXPECT_EQ(batch_norm_layers(*net.module), 94);
  expect_frozen_alike(net, written.at("images"), 0);
}

TEST(InceptionV3, SeesTheLastPixelOfASmallImage) {
  EXPECT_EQ(InceptionV3<small>{.width = 4}.resize, 75);
  const auto weight_of_the_corner = [](int resize) {
    const InceptionV3<small> net{.width = 4, .resize = resize};
    net.module->eval();
    at::Tensor images = nn::with_torch_seed(1, [] { return at::rand({32, 3, 32, 32}); }).requires_grad_();
    net.forward(images).square().sum().backward();
    const at::Tensor weight = images.grad().abs().sum({0, 1});
    return (weight[31][31] / weight.mean()).item<double>();
  };
  // Of 75 pixels each window's last is the next one's, or the image's. Of 96, several windows stop short.
  EXPECT_GT(weight_of_the_corner(75), 10 * weight_of_the_corner(96));
}

TEST(InceptionV3, EnlargesSmallImagesOnly) {
  using detail::enlarged;
  EXPECT_EQ(enlarged(at::rand({1, 3, 32, 45}), 96).sizes(), (std::vector<std::int64_t>{1, 3, 96, 135}));
  EXPECT_EQ(enlarged(at::rand({1, 3, 29, 7}), 96).sizes(), (std::vector<std::int64_t>{1, 3, 397, 96}));
  const at::Tensor large = at::rand({1, 3, 96, 200});
  EXPECT_TRUE(enlarged(large, 96).is_same(large));
  // Two pixels become four: those at the ends stay, those between are a quarter of the way.
  const at::Tensor two = at::rand({1, 1, 2, 2});
  const at::Tensor row = enlarged(two, 4)[0][0][0], a = two[0][0][0][0], b = two[0][0][0][1];
  EXPECT_NEAR(row[0].item<double>(), a.item<double>(), 1e-6);
  EXPECT_NEAR(row[1].item<double>(), (0.75 * a + 0.25 * b).item<double>(), 1e-6);
  EXPECT_NEAR(row[2].item<double>(), (0.25 * a + 0.75 * b).item<double>(), 1e-6);
  EXPECT_NEAR(row[3].item<double>(), b.item<double>(), 1e-6);
}

TEST(InceptionV3, StartsAsTorchvisionDoesButForTheLastLayer) {
  const InceptionV3<> net{.task = small, .width = 16};
  const auto state = nn::state_dict(*net.module);
  EXPECT_NEAR(state.at("Mixed_7c.branch3x3dbl_2.conv.weight").std().item<double>(), 0.1, 0.001);
  EXPECT_NEAR(state.at("fc.weight").std().item<double>(), 0.01, 0.0005);
}

TEST(InceptionV3, TrainsAllOfItself) {
  expect_all_trained(InceptionV3<>{.task = {{1, 28, 28}, 3}, .width = 4}, 4);
}

TEST(InceptionV3, RefusesWhatItCantBeBuiltFor) {
  expect_words(error_of([] { (void)InceptionV3<small>{.width = 2, .resize = 0}; }),
               {"an InceptionV3", "3x32x32 is too small", "75x75 is the least"});
  expect_words(error_of([] { (void)InceptionV3<small>{.width = 2, .resize = 64}; }),
               {"enlarge small images to 64 pixels", "75 or more", "or 0"});
  expect_words(error_of([] { (void)InceptionV3<small>{.resize = -1}; }), {"to -1 pixels"});
  expect_words(error_of([] { (void)InceptionV3<small>{.width = 9}; }), {"width 9", "even"});
  expect_words(error_of([] { (void)InceptionV3<>{}; }), {"needs to know its channels and classes"});
  const InceptionV3<> open{.task = {{3, dynamic, dynamic}, 5}, .width = 2};
  expect_words(error_of([&] {
                 (void)open.forward(at::rand({1, 3, 32, 40}));
               }),
               {"40 x 32 pixels", "75 x 75 is the least", ".resize = 75"});
}

// ---- The vision transformer ----

using TinyViT = ViT<Task{{3, 32, 16}, 5}>;

TinyViT tiny_vit() {
  return {.patch = 4, .width = 24, .depth = 3, .heads = 2, .head_width = 8, .mlp = 20};
}

TEST(ViT, ComputesWhatTheReferenceDoes) {
  const Tensors written = fixture("vit");
  const auto net = loaded(tiny_vit(), written);
  EXPECT_LT(distance(net.forward(written.at("images")), written.at("logits")), 1e-5);
  EXPECT_LT(distance(precisely(net, written.at("images")), written.at("logits")), 1e-6);
}

TEST(ViT, HasThePublishedExtents) {
  const ViT<tasks::cifar10> net;
  EXPECT_EQ(net.patch, 4);
  EXPECT_EQ((ViT<>{.task = {{3, 224, 224}, 50}, .width = 8, .depth = 1}.patch), 28);
  // Worked by hand: patches of 4·4·15 numbers, 64 of them and the class's token, 6 attentions of 8 heads of
  // 64 with a temperature each, and as many hidden layers of 512.
  const std::int64_t d = 512, patch = 4 * 4 * 15;
  const std::int64_t attention = 2 * d + 1 + d * 3 * d + d * d + d, mlp = 2 * d + 2 * (d * d + d);
  EXPECT_EQ(numbers(*net.module),
            2 * patch + patch * d + d + 65 * d + d + 6 * (attention + mlp) + 2 * d + 10 * d + 10);
  EXPECT_NEAR(nn::state_dict(*net.module).at("transformer.layers.5.0.fn.temperature").item<double>(),
              std::log(1 / 8.0), 1e-6);
}

TEST(ViT, CutsImagesOfManySizes) {
  struct Case {
    int height, width, patch;
  };
  for (const auto& [height, width, patch] : std::vector<Case>{
           {28, 28, 4},     // 3.5 is wanted; 2, 4 and 7 divide
           {300, 300, 30},  // 37.5; 30 and 50 are the next
           {100, 100, 10},  // 12.5; 10 and 20
           {48, 64, 8},     // 6; 4 and 8 are as near
           {64, 48, 8},
           {4, 4, 2},
           {254, 254, 127},  // 31.75; of squares of 2 there would be 127 along a side
           {128, 32, 4},
       }) {
    const Task task = {{3, height, width}, 10};
    EXPECT_EQ((ViT<>{.task = task, .width = 8, .depth = 1, .heads = 1, .mlp = 8}.patch), patch)
        << height << "x" << width;
  }
}

TEST(ViT, FreezesUnfolded) {
  const Tensors written = fixture("vit");
  expect_frozen_alike(loaded(tiny_vit(), written), written.at("images"), 0);
}

TEST(ViT, DropsOutInTrainingOnly) {
  TinyViT net = tiny_vit();
  const at::Tensor images = at::rand({2, 3, 32, 16});
  EXPECT_FALSE(net.forward(images).equal(net.forward(images)));
  net.module->eval();
  EXPECT_TRUE(net.forward(images).equal(net.forward(images)));
  const auto never = TinyViT{.patch = 4, .width = 24, .depth = 1, .mlp = 20, .dropout = 0};
  EXPECT_TRUE(never.forward(images).equal(never.forward(images)));
}

TEST(ViT, TrainsAllOfItself) {
  expect_all_trained(ViT<>{.task = {{1, 16, 16}, 3}, .patch = 4, .width = 16, .depth = 2, .head_width = 4},
                     2);
}

TEST(ViT, RefusesWhatItCantBeBuiltFor) {
  const auto said = [](const Task& task) { return error_of([&] { (void)ViT<>{.task = task}; }); };
  expect_words(said({{3, dynamic, 32}, 10}),
               {"a ViT needs to know the height and width", "3x?x32", "say .task"});
  for (const int side : {97, 257, 3}) {  // primes
    expect_words(said({{3, side, side}, 10}), {"no square", "say a .patch", "resize"});
  }
  expect_words(error_of([] { (void)ViT<small>{.patch = 5}; }),
               {"3x32x32 does not divide", "5x5", "say a .patch"});
  expect_words(error_of([] { (void)ViT<small>{.patch = 0}; }), {"3x32x32 does not divide", "0x0"});
  expect_words(said({{dynamic, 32, 32}, 10}), {"needs to know its channels and classes"});
  expect_words(error_of([] { (void)ViT<small>{.width = 0}; }), {"width 0"});
  expect_words(error_of([] { (void)ViT<small>{.depth = 0}; }), {"depth 0", "at least 1"});
  expect_words(error_of([] { (void)ViT<small>{.dropout = 1}; }), {"dropout 1", "below 1"});
  expect_words(error_of([] { (void)ViT<small>{.dropout = std::nan("")}; }), {"dropout nan"});
  EXPECT_EQ((ViT<>{.task = {{3, 28, 28}, 10}, .patch = 7, .width = 8, .depth = 1}.patch), 7);
}

// ---- All three ----

template <typename B>
void expect_seeded(const B& one, const B& again, const B& other) {
  const auto equal = [](const B& a, const B& b) {
    return distance(a.module->parameters()[0], b.module->parameters()[0]) == 0;
  };
  EXPECT_TRUE(equal(one, again));
  EXPECT_FALSE(equal(one, other));
  const B copy = deep_copy(one);
  c10::NoGradGuard no_grad;
  for (auto& parameter : copy.module->parameters()) parameter.zero_();
  EXPECT_TRUE(equal(one, again)) << "a copy has weights of its own";
}

TEST(DeepNetworks, StartFromTheirSeedAndCopyDeeply) {
  expect_seeded(DenseNet121<>{.task = small, .width = 2}, DenseNet121<>{.task = small, .width = 2},
                DenseNet121<>{.task = small, .width = 2, .seed = 3});
  expect_seeded(InceptionV3<>{.task = small, .width = 2}, InceptionV3<>{.task = small, .width = 2},
                InceptionV3<>{.task = small, .width = 2, .seed = 3});
  expect_seeded(ViT<>{.task = small, .width = 8, .depth = 1}, ViT<>{.task = small, .width = 8, .depth = 1},
                ViT<>{.task = small, .width = 8, .depth = 1, .seed = 3});
}

TEST(DeepNetworks, GoIntoAnyBackbone) {
  const auto logits = [](const AnyBackbone& net) {
    return freeze(net).forward(at::rand({2, 3, 32, 32})).sizes().vec();
  };
  const std::vector<std::int64_t> expected = {2, 5};
  EXPECT_EQ(logits(AnyBackbone(DenseNet121<small>{.width = 2})), expected);
  EXPECT_EQ(logits(AnyBackbone(InceptionV3<small>{.width = 2})), expected);
  EXPECT_EQ(logits(AnyBackbone(ViT<small>{.width = 8, .depth = 1})), expected);
}

}  // namespace
}  // namespace refine::backbones
