// DenseNet-121, Inception-v3 and the vision transformer, compared with torchvision's and with the
// authors' code (tests/fixtures/make_deep_network_files.py).

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
#include <refine/nn/module.hpp>
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

/// Returns a network with the weights that PyTorch wrote, in evaluation mode.
template <typename B>
B load(const B& net, const Tensors& written) {
  Tensors state;
  for (const auto& [name, tensor] : written) {
    if (name.starts_with("network.")) state.emplace(name, tensor);
  }
  nn::load_state_dict(*net.module, state, "the fixture", "network.");
  net.module->eval();
  return net;
}

/// Returns the fixture's images, repeated and cropped as in the script that wrote it.
at::Tensor crop(const at::Tensor& images, std::int64_t height, std::int64_t width) {
  return images.repeat({1, 1, 4, 4}).narrow(2, 0, height).narrow(3, 0, width);
}

/// Returns the logits computed in double precision, where a hundred layers cause no notable
/// rounding.
template <typename B>
at::Tensor forward_in_double(const B& net, const at::Tensor& images) {
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

std::int64_t count_parameters(const torch::nn::Module& module) {
  std::int64_t count = 0;
  for (const auto& parameter : module.parameters()) count += parameter.numel();
  return count;
}

double max_abs(const at::Tensor& tensor) {
  return tensor.abs().max().item<double>();
}

/// Expects that the frozen network gives the same logits, and that gradients reach the images but
/// no parameter.
template <typename B>
void expect_same_when_frozen(const B& net, const at::Tensor& images, int norms_left) {
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
  EXPECT_LT(distance(after, before), 1e-4 * max_abs(before));
  const double max_gradient = max_abs(gradient_before);
  EXPECT_GT(max_gradient, 1e-6);
  EXPECT_LT(distance(gradient_after, gradient_before), 1e-3 * max_gradient);
  for (const auto& parameter : frozen.module->parameters()) {
    EXPECT_FALSE(parameter.requires_grad() || parameter.grad().defined());
  }
  EXPECT_TRUE(net.module->parameters()[0].requires_grad());
}

/// Expects that every parameter gets a gradient in training mode.
template <typename B>
void expect_all_trained(const B& net, std::int64_t count) {
  const auto& [channels, height, width] = net.task.image;
  nn::with_torch_seed(1, [&] {  // dropout draws too
    net.forward(at::rand({count, channels, height, width})).log_softmax(1).square().sum().backward();
  });
  for (const auto& item : net.module->named_parameters()) {
    ASSERT_TRUE(item.value().grad().defined()) << item.key();
    EXPECT_GT(max_abs(item.value().grad()), 0) << item.key();
  }
}

static_assert(Backbone<DenseNet121<>> && Backbone<InceptionV3<>> && Backbone<ViT<>>);
static_assert(static_task_of<DenseNet121<tasks::cifar10>>() == tasks::cifar10);

constexpr Task small = {{3, 32, 32}, 5};

// ---- DenseNet-121 ----

TEST(DenseNet121, Forward_GivesTorchvisionsLogits) {
  const Tensors written = fixture("densenet121");
  const auto net = load(DenseNet121<small>{.width = 4}, written);
  const at::Tensor& images = written.at("images");
  EXPECT_LT(distance(net.forward(images), written.at("logits")), 1e-5);
  EXPECT_LT(distance(forward_in_double(net, images), written.at("logits")), 1e-6);
  EXPECT_LT(distance(forward_in_double(net, crop(images, 29, 45)), written.at("logits:29x45")), 1e-6);
  EXPECT_LT(distance(forward_in_double(net, crop(images, 64, 64)), written.at("logits:64x64")), 1e-6);
}

TEST(DenseNet121, Parameters_AreAsManyAsInTorchvision) {
  EXPECT_EQ(count_parameters(*DenseNet121<>{.task = {{3, 224, 224}, 1000}}.module), 7978856);
}

TEST(DenseNet121, Freeze_LeavesTheNormsBeforeAConvolution) {
  const Tensors written = fixture("densenet121");
  const auto net = load(DenseNet121<>{.task = small, .width = 4}, written);
  EXPECT_EQ(batch_norm_layers(*net.module), 121);
  expect_same_when_frozen(net, written.at("images"),
                          58 + 3 + 1);  // one in each layer, one in each transition, the last
}

TEST(DenseNet121, InitialWeights_AreDrawnAsInTorchvision) {
  const DenseNet121<> net{.task = small, .width = 32};
  const auto state = nn::state_dict(*net.module);
  // He et al.'s normal distribution, of deviation √(2 / inputs of one output).
  EXPECT_NEAR(state.at("features.conv0.weight").std().item<double>(), std::sqrt(2.0 / (3 * 49)), 0.01);
  const at::Tensor& last = state.at("features.denseblock4.denselayer16.conv1.weight");
  EXPECT_NEAR(last.std().item<double>(), std::sqrt(2.0 / static_cast<double>(last.size(1))), 0.002);
  EXPECT_EQ(state.at("classifier.bias").abs().max().item<float>(), 0);
}

TEST(DenseNet121, Backward_ReachesEveryParameter) {
  expect_all_trained(DenseNet121<>{.task = {{1, 64, 64}, 3}, .width = 2}, 3);
}

TEST(DenseNet121, Make_UnsupportedTaskOrWidth_Throws) {
  expect_words(error_of([] {
                 (void)DenseNet121<>{.task = {{3, 28, 64}, 5}};
               }),
               {"DenseNet121", "too small", "got 3x28x64", "at least 29x29"});
  expect_words(error_of([] { (void)DenseNet121<small>{.width = 7}; }), {"width", "even", "got 7"});
  expect_words(error_of([] { (void)DenseNet121<small>{.width = 0}; }), {"width", "at least 1", "got 0"});
  expect_words(error_of([] { (void)DenseNet121<>{}; }), {"channels and classes must be known"});
  expect_words(error_of([] { (void)DenseNet121<small>{.task = tasks::cifar10}; }),
               {"DenseNet121<3x32x32, 5>", "task", "got 3x32x32, 10 classes"});
}

// ---- Inception-v3 ----

TEST(InceptionV3, Forward_GivesTorchvisionsLogits) {
  const Tensors written = fixture("inception_v3");
  const at::Tensor& images = written.at("images");
  const auto net = load(InceptionV3<small>{.width = 2, .resize = 96}, written);
  EXPECT_LT(distance(net.forward(images), written.at("logits")), 1e-5);
  EXPECT_LT(distance(forward_in_double(net, images), written.at("logits")), 1e-6);
  EXPECT_LT(distance(forward_in_double(net, crop(images, 24, 33)), written.at("logits:24x33")), 1e-6);

  const auto large = load(InceptionV3<>{.task = {{3, 75, 80}, 5}, .width = 2}, written);
  EXPECT_EQ(large.resize, 0);
  EXPECT_LT(distance(forward_in_double(large, crop(images, 75, 80)), written.at("logits:75x80")), 1e-6);
}

TEST(InceptionV3, Parameters_AreAsManyAsInTorchvision) {
  // torchvision's 27161264 without the auxiliary classifier: 768·128 + 2·128, 128·768·5·5 + 2·768,
  // 768·1000 + 1000.
  const std::int64_t auxiliary = 768 * 128 + 2 * 128 + 128 * 768 * 25 + 2 * 768 + 768 * 1000 + 1000;
  EXPECT_EQ(count_parameters(*InceptionV3<>{.task = {{3, 299, 299}, 1000}}.module), 27161264 - auxiliary);
}

TEST(InceptionV3, Freeze_FoldsEveryBatchNorm) {
  const Tensors written = fixture("inception_v3");
  const auto net = load(InceptionV3<>{.task = small, .width = 2}, written);
  EXPECT_EQ(batch_norm_layers(*net.module), 94);
  expect_same_when_frozen(net, written.at("images"), 0);
}

TEST(InceptionV3, SmallImage_LastPixelReachesTheLogits) {
  EXPECT_EQ(InceptionV3<small>{.width = 4}.resize, 75);
  const auto weight_of_the_corner = [](int resize) {
    const InceptionV3<small> net{.width = 4, .resize = resize};
    net.module->eval();
    at::Tensor images = nn::with_torch_seed(1, [] { return at::rand({32, 3, 32, 32}); }).requires_grad_();
    net.forward(images).square().sum().backward();
    const at::Tensor weight = images.grad().abs().sum({0, 1});
    return (weight[31][31] / weight.mean()).item<double>();
  };
  // At 75 pixels the last pixel of every window belongs to the next window, or is the image's last.
  // At 96 several windows stop before the end.
  EXPECT_GT(weight_of_the_corner(75), 10 * weight_of_the_corner(96));
}

TEST(InceptionV3, Enlarge_ChangesSmallImagesOnly) {
  using detail::enlarge;
  EXPECT_EQ(enlarge(at::rand({1, 3, 32, 45}), 96).sizes(), (std::vector<std::int64_t>{1, 3, 96, 135}));
  EXPECT_EQ(enlarge(at::rand({1, 3, 29, 7}), 96).sizes(), (std::vector<std::int64_t>{1, 3, 397, 96}));
  const at::Tensor large = at::rand({1, 3, 96, 200});
  EXPECT_TRUE(enlarge(large, 96).is_same(large));
  // Two pixels become four: the outer ones are unchanged, the inner ones are a quarter of the way
  // between.
  const at::Tensor two = at::rand({1, 1, 2, 2});
  const at::Tensor row = enlarge(two, 4)[0][0][0], a = two[0][0][0][0], b = two[0][0][0][1];
  EXPECT_NEAR(row[0].item<double>(), a.item<double>(), 1e-6);
  EXPECT_NEAR(row[1].item<double>(), (0.75 * a + 0.25 * b).item<double>(), 1e-6);
  EXPECT_NEAR(row[2].item<double>(), (0.25 * a + 0.75 * b).item<double>(), 1e-6);
  EXPECT_NEAR(row[3].item<double>(), b.item<double>(), 1e-6);
}

TEST(InceptionV3, InitialWeights_AreDrawnAsInTorchvisionExceptTheLastLayer) {
  const InceptionV3<> net{.task = small, .width = 16};
  const auto state = nn::state_dict(*net.module);
  EXPECT_NEAR(state.at("Mixed_7c.branch3x3dbl_2.conv.weight").std().item<double>(), 0.1, 0.001);
  EXPECT_NEAR(state.at("fc.weight").std().item<double>(), 0.01, 0.0005);
}

TEST(InceptionV3, Backward_ReachesEveryParameter) {
  expect_all_trained(InceptionV3<>{.task = {{1, 28, 28}, 3}, .width = 4}, 4);
}

TEST(InceptionV3, MakeOrForward_UnsupportedSizeOrWidth_Throws) {
  expect_words(error_of([] { (void)InceptionV3<small>{.width = 2, .resize = 0}; }),
               {"InceptionV3", "too small", "got 3x32x32", "at least 75x75"});
  expect_words(error_of([] { (void)InceptionV3<small>{.width = 2, .resize = 64}; }),
               {"resize", "75 or more", "or 0", "got 64"});
  expect_words(error_of([] { (void)InceptionV3<small>{.resize = -1}; }), {"resize", "got -1"});
  expect_words(error_of([] { (void)InceptionV3<small>{.width = 9}; }), {"width", "even", "got 9"});
  expect_words(error_of([] { (void)InceptionV3<>{}; }), {"channels and classes must be known"});
  const InceptionV3<> open{.task = {{3, dynamic, dynamic}, 5}, .width = 2};
  expect_words(error_of([&] {
                 (void)open.forward(at::rand({1, 3, 32, 40}));
               }),
               {"InceptionV3", "40 x 32 pixels", "at least 75 x 75", ".resize = 75"});
}

// ---- The vision transformer ----

using SmallViT = ViT<Task{{3, 32, 16}, 5}>;

SmallViT small_vit() {
  return {.patch = 4, .width = 24, .depth = 3, .heads = 2, .head_width = 8, .mlp = 20};
}

TEST(ViT, Forward_GivesTheAuthorsLogits) {
  const Tensors written = fixture("vit");
  const auto net = load(small_vit(), written);
  EXPECT_LT(distance(net.forward(written.at("images")), written.at("logits")), 1e-5);
  EXPECT_LT(distance(forward_in_double(net, written.at("images")), written.at("logits")), 1e-6);
}

TEST(ViT, Parameters_AreAsManyAsPublished) {
  const ViT<tasks::cifar10> net;
  EXPECT_EQ(net.patch, 4);
  EXPECT_EQ((ViT<>{.task = {{3, 224, 224}, 50}, .width = 8, .depth = 1}.patch), 28);
  // By hand: 64 patches of 4·4·15 numbers and the class token, 6 attentions of 8 heads of 64 with
  // one temperature each, and 6 hidden layers of 512.
  const std::int64_t d = 512, patch = 4 * 4 * 15;
  const std::int64_t attention = 2 * d + 1 + d * 3 * d + d * d + d, mlp = 2 * d + 2 * (d * d + d);
  EXPECT_EQ(count_parameters(*net.module),
            2 * patch + patch * d + d + 65 * d + d + 6 * (attention + mlp) + 2 * d + 10 * d + 10);
  EXPECT_NEAR(nn::state_dict(*net.module).at("transformer.layers.5.0.fn.temperature").item<double>(),
              std::log(1 / 8.0), 1e-6);
}

TEST(ViT, DefaultPatch_DividesImagesOfManySizes) {
  struct Case {
    int height, width, patch;
  };
  for (const auto& [height, width, patch] : std::vector<Case>{
           {28, 28, 4},     // an eighth is 3.5; 2, 4 and 7 divide
           {300, 300, 30},  // 37.5; 30 and 50 are the nearest
           {100, 100, 10},  // 12.5; 10 and 20
           {48, 64, 8},     // 6; 4 and 8 are equally near
           {64, 48, 8},
           {4, 4, 2},
           {254, 254, 127},  // 31.75; patches of 2 would make 127 along a side
           {128, 32, 4},
       }) {
    const Task task = {{3, height, width}, 10};
    EXPECT_EQ((ViT<>{.task = task, .width = 8, .depth = 1, .heads = 1, .mlp = 8}.patch), patch)
        << height << "x" << width;
  }
}

TEST(ViT, Freeze_FoldsNothing) {
  const Tensors written = fixture("vit");
  expect_same_when_frozen(load(small_vit(), written), written.at("images"), 0);
}

TEST(ViT, Dropout_ActsInTrainingOnly) {
  SmallViT net = small_vit();
  const at::Tensor images = at::rand({2, 3, 32, 16});
  EXPECT_FALSE(net.forward(images).equal(net.forward(images)));
  net.module->eval();
  EXPECT_TRUE(net.forward(images).equal(net.forward(images)));
  const auto without = SmallViT{.patch = 4, .width = 24, .depth = 1, .mlp = 20, .dropout = 0};
  EXPECT_TRUE(without.forward(images).equal(without.forward(images)));
}

TEST(ViT, Backward_ReachesEveryParameter) {
  expect_all_trained(ViT<>{.task = {{1, 16, 16}, 3}, .patch = 4, .width = 16, .depth = 2, .head_width = 4},
                     2);
}

TEST(ViT, Make_UnsupportedTaskOrOption_Throws) {
  const auto line = [](const Task& task) { return error_of([&] { (void)ViT<>{.task = task}; }); };
  expect_words(line({{3, dynamic, 32}, 10}),
               {"ViT", "height and width", "must be known", "got 3x?x32", "set .task"});
  for (const int side : {97, 257, 3}) {  // primes
    expect_words(line({{3, side, side}, 10}), {"no square", "set a .patch", "resize"});
  }
  expect_words(error_of([] { (void)ViT<small>{.patch = 5}; }),
               {"must divide", "3x32x32", "5x5", "set a .patch"});
  expect_words(error_of([] { (void)ViT<small>{.patch = 0}; }), {"must divide", "3x32x32", "0x0"});
  expect_words(line({{dynamic, 32, 32}, 10}), {"channels and classes must be known"});
  expect_words(error_of([] { (void)ViT<small>{.width = 0}; }), {"width", "got 0"});
  expect_words(error_of([] { (void)ViT<small>{.depth = 0}; }), {"depth 0", "at least 1"});
  expect_words(error_of([] { (void)ViT<small>{.dropout = 1}; }), {"dropout", "below 1", "got 1"});
  expect_words(error_of([] { (void)ViT<small>{.dropout = std::nan("")}; }), {"dropout", "got nan"});
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
  EXPECT_TRUE(equal(one, again)) << "a copy must have separate weights";
}

TEST(DeepNetworks, SeedAndDeepCopy_DetermineAndSeparateTheWeights) {
  expect_seeded(DenseNet121<>{.task = small, .width = 2}, DenseNet121<>{.task = small, .width = 2},
                DenseNet121<>{.task = small, .width = 2, .seed = 3});
  expect_seeded(InceptionV3<>{.task = small, .width = 2}, InceptionV3<>{.task = small, .width = 2},
                InceptionV3<>{.task = small, .width = 2, .seed = 3});
  expect_seeded(ViT<>{.task = small, .width = 8, .depth = 1}, ViT<>{.task = small, .width = 8, .depth = 1},
                ViT<>{.task = small, .width = 8, .depth = 1, .seed = 3});
}

TEST(DeepNetworks, AnyBackbone_FreezesThem) {
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
