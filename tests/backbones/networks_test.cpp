#include <ATen/TensorOperators.h>
#include <ATen/ops/rand.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>

#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <refine/backbones/any_backbone.hpp>
#include <refine/backbones/densenet.hpp>
#include <refine/backbones/detail/buildable.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/normalized.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/backbones/vgg.hpp>
#include <refine/backbones/zoo.hpp>
#include <refine/core/error.hpp>
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

constexpr Task small_task = {{3, 32, 32}, 5}, large_task = {{3, 64, 36}, 5};

template <typename Layer>
std::vector<const Layer*> layers_of(const torch::nn::Module& module) {
  std::vector<const Layer*> found;
  for (const auto& part : module.modules(/*include_self=*/false)) {
    if (const auto* layer = dynamic_cast<const Layer*>(part.get())) found.push_back(layer);
  }
  return found;
}

std::size_t count_batch_norms(const torch::nn::Module& module) {
  return layers_of<torch::nn::BatchNorm2dImpl>(module).size();
}

bool has(const AnyBackbone& network, const std::string& tensor) {
  return nn::state_dict(*network.module).contains(tensor);
}

/// A network, and the file that make_network_files.py wrote with its authors' code.
struct Known {
  const char* file;
  AnyBackbone network;
  std::size_t norms;  ///< number of BatchNorms in the paper's table, one for each convolution
};

std::vector<Known> known_networks() {
  const Task small = small_task, large = large_task;
  constexpr auto imagenet = Variant::imagenet;
  return {
      {"resnet18_large", AnyBackbone(ResNet18<>{.task = large, .width = 2, .variant = imagenet}), 20},
      {"resnet50_small", AnyBackbone(ResNet50<>{.task = small, .width = 2}), 53},
      {"resnet50_large", AnyBackbone(ResNet50<>{.task = large, .width = 2, .variant = imagenet}), 53},
      {"vgg16_small", AnyBackbone(Vgg16<>{.task = small, .width = 2}), 13},
      {"vgg16_small_plain", AnyBackbone(Vgg16<>{.task = small, .width = 2, .batch_norm = false}), 0},
      {"vgg16_large", AnyBackbone(Vgg16<>{.task = large, .width = 1, .variant = imagenet}), 13},
      {"vgg16_large_plain",
       AnyBackbone(Vgg16<>{.task = large, .width = 1, .batch_norm = false, .variant = imagenet}), 0},
  };
}

TEST(Networks, Forward_GivesTheAuthorsLogits) {
  for (const auto& [file, network, norms] : known_networks()) {
    const auto known = formats::read_safetensors(std::string("tests/fixtures/") + file + ".safetensors");
    std::map<std::string, at::Tensor> state = known.tensors;
    const at::Tensor images = state.at("images"), logits = state.at("logits");
    state.erase("images");
    state.erase("logits");
    nn::load_state_dict(*network.module, state, file, "network.");
    network.module->eval();
    EXPECT_LT(distance(network.forward(images), logits), 1e-5) << file;
    EXPECT_EQ(count_batch_norms(*network.module), norms) << file;
    EXPECT_EQ(layers_of<torch::nn::Conv2dImpl>(*network.module).size(), norms == 0 ? 13 : norms) << file;

    const auto frozen = freeze(network);
    EXPECT_LT(distance(frozen.forward(images), logits), 1e-4) << file;
    EXPECT_EQ(count_batch_norms(*frozen.module), 0u) << file;
    EXPECT_EQ(frozen.module->buffers().size(), 0u) << file;
    EXPECT_EQ(count_batch_norms(*network.module), norms) << file << ": the original must be unchanged";

    at::Tensor input = images.clone().requires_grad_();
    frozen.forward(input).square().sum().backward();
    EXPECT_GT(input.grad().abs().max().item<float>(), 1e-6f) << file;
    EXPECT_TRUE(deep_copy(network).forward(images).equal(network.forward(images))) << file;
  }
}

TEST(Networks, DefaultVariant_FollowsFromTheTask) {
  static_assert(variant_for({3, 64, 64}) == Variant::cifar && variant_for({3, 65, 65}) == Variant::imagenet);
  static_assert(variant_for({3, 64, 300}) == Variant::cifar &&
                variant_for({3, dynamic, 300}) == Variant::imagenet);
  static_assert(variant_for({}) == Variant::cifar);
  for (const auto& [image, small] :
       {std::pair{ImageShape{3, 32, 32}, true}, std::pair{ImageShape{3, 224, 224}, false}}) {
    const Task task{image, 4};
    const AnyBackbone basic(ResNet18<>{.task = task, .width = 1}), deep(ResNet50<>{.task = task, .width = 1}),
        vgg(Vgg16<>{.task = task, .width = 1});
    EXPECT_EQ(has(basic, "layer2.0.shortcut.0.weight"), small);
    EXPECT_EQ(has(basic, "layer2.0.downsample.0.weight"), !small);
    EXPECT_EQ(has(deep, "linear.weight"), small);
    EXPECT_EQ(has(deep, "fc.weight"), !small);
    EXPECT_EQ(has(vgg, "classifier.weight"), small);
    EXPECT_EQ(has(vgg, "classifier.6.weight"), !small);
  }
  constexpr Task fixed = {ImageShape{3, 224, 224}, 4};
  EXPECT_TRUE(has(AnyBackbone(ResNet18<fixed>{.width = 1}), "fc.weight"));
  EXPECT_TRUE(has(AnyBackbone(ResNet18<fixed>{.width = 1, .variant = Variant::cifar}), "linear.weight"));
}

TEST(Networks, LargerImagesAndOpenSides_AreAccepted) {
  const AnyBackbone open(Vgg16<>{.task = {{1, dynamic, dynamic}, 3}, .width = 1});
  open.module->eval();
  const at::Tensor left = at::rand({2, 1, 32, 32}), right = at::rand({2, 1, 64, 48});
  EXPECT_EQ(open.forward(left).sizes(), (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(open.forward(right).sizes(), (std::vector<std::int64_t>{2, 3}));
  constexpr Task fixed = {ImageShape{1, 40, 64}, 3};
  EXPECT_EQ(Vgg16<fixed>{.width = 1}.forward(at::rand({2, 1, 40, 64})).sizes(),
            (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(ResNet50<fixed>{.width = 1}.forward(at::rand({2, 1, 40, 64})).sizes(),
            (std::vector<std::int64_t>{2, 3}));
}

TEST(Networks, InitialWeights_AreDrawnAsByTheAuthors) {
  const auto deviation = [](const at::Tensor& t) { return t.std().item<double>(); };
  // N(0, 2/(k·k·out)) in both VGGs and in ResNets of
  // Variant::imagenet; PyTorch's uniform ±1/√(k·k·in) in those of Variant::cifar.
  for (const Variant variant : {Variant::cifar, Variant::imagenet}) {
    const Vgg16<> vgg{.task = large_task, .width = 4, .variant = variant};
    const ResNet50<> deep{.task = large_task, .width = 4, .variant = variant};
    for (const auto* layer : layers_of<torch::nn::Conv2dImpl>(*vgg.module)) {
      const at::Tensor w = layer->weight;
      const double expected = std::sqrt(2.0 / static_cast<double>(9 * w.size(0)));
      EXPECT_NEAR(deviation(w) / expected, 1, 5 / std::sqrt(2.0 * static_cast<double>(w.numel())));
      EXPECT_EQ(layer->bias.abs().max().item<float>(), 0.0f);
    }
    for (const auto* layer : layers_of<torch::nn::LinearImpl>(*vgg.module)) {
      EXPECT_NEAR(deviation(layer->weight), 0.01, 0.002);
      EXPECT_EQ(layer->bias.abs().max().item<float>(), 0.0f);
    }
    for (const auto* layer : layers_of<torch::nn::Conv2dImpl>(*deep.module)) {
      const at::Tensor w = layer->weight;
      const double bound = 1 / std::sqrt(static_cast<double>(w[0].numel()));
      const double large = std::sqrt(2.0 / static_cast<double>(w.numel() / w.size(1)));
      const double expected = variant == Variant::imagenet ? large : bound / std::sqrt(3.0);
      EXPECT_NEAR(deviation(w) / expected, 1, 5 / std::sqrt(2.0 * static_cast<double>(w.numel())));
      if (variant == Variant::cifar) {
        EXPECT_LE(w.abs().max().item<double>(), bound * (1 + 1e-6));
      }
    }
  }
}

TEST(Networks, Dropout_ActsInTrainingOnly) {
  const Vgg16<> net{.task = large_task, .width = 1, .variant = Variant::imagenet};
  const at::Tensor images = at::rand({2, 3, 64, 36});
  net.module->eval();
  EXPECT_TRUE(net.forward(images).equal(net.forward(images)));
  nn::with_torch_seed(1, [&] {
    net.module->train();
    EXPECT_FALSE(net.forward(images).equal(net.forward(images)));
  });
}

TEST(Networks, Make_UnsupportedTaskOrWidth_Throws) {
  expect_words(error_of([] {
                 (void)Vgg16<>{.task = {{3, 28, 28}, 10}};
               }),
               {"VGG16", "too small", "got 3x28x28", "at least 32x32", "five times"});
  expect_words(error_of([] {
                 (void)ResNet50<>{.task = {{3, 24, 24}, 10}, .variant = Variant::imagenet};
               }),
               {"ResNet50", "too small", "got 3x24x24", "at least 32x32", "five times"});
  expect_words(error_of([] {
                 (void)ResNet50<>{.task = {{3, 24, 7}, 10}};
               }),
               {"ResNet50", "too small", "got 3x24x7", "at least 8x8", "three times"});
  expect_words(error_of([] {
                 (void)Vgg16<small_task>{.task = {{3, 32, 32}, 9}};
               }),
               {"VGG16<3x32x32, 5>", "task", "got 3x32x32, 9 classes"});
  expect_words(error_of([] { (void)ResNet50<small_task>{.width = -1}; }),
               {"ResNet50", "width", "at least 1", "got -1"});
  expect_words(error_of([] { (void)Vgg16<>{}; }), {"VGG16", "channels and classes", ".task"});
}

TEST(NetworkByName, EveryName_BuildsItsNetwork) {
  constexpr auto names = network_names();
  EXPECT_EQ(std::vector<std::string>(names.begin(), names.end()),
            (std::vector<std::string>{"ResNet18", "ResNet50", "VGG16", "DenseNet121", "InceptionV3", "ViT",
                                      "PreActResNet18", "VGG19"}));
  // The width is the number of channels of the first layer; in a ViT, the length of a token.
  const std::map<std::string, std::pair<int, std::string>> first = {
      {"ResNet18", {2, "conv1.weight"}},
      {"ResNet50", {2, "conv1.weight"}},
      {"VGG16", {2, "features.0.weight"}},
      {"DenseNet121", {4, "features.conv0.weight"}},
      {"InceptionV3", {4, "Conv2d_1a_3x3.conv.weight"}},
      {"ViT", {16, "to_patch_embedding.to_patch_tokens.2.weight"}},
      {"PreActResNet18", {2, "conv1.weight"}},
      {"VGG19", {2, "features.0.weight"}},
  };
  for (const auto name : names) {
    const auto& [width, tensor] = first.at(std::string(name));
    const AnyBackbone network = network_by_name(name, {.task = small_task, .width = width, .seed = 3});
    EXPECT_EQ(nn::state_dict(*network.module).at(tensor).size(0), width) << name;
    EXPECT_EQ(network.task, small_task) << name;
    network.module->eval();
    EXPECT_EQ(freeze(network).forward(at::rand({2, 3, 32, 32})).sizes(), (std::vector<std::int64_t>{2, 5}))
        << name;
  }
}

TEST(NetworkByName, AnySpelling_IsAcceptedAndOthersThrow) {
  EXPECT_EQ(canonical_network_name("resnet-18"), "ResNet18");
  EXPECT_EQ(canonical_network_name("INCEPTION-v3"), "InceptionV3");
  EXPECT_EQ(canonical_network_name("vit"), "ViT");
  EXPECT_EQ(canonical_network_name("preactresnet18"), "PreActResNet18");
  EXPECT_EQ(canonical_network_name("vgg19_bn"), "VGG19");
  EXPECT_EQ(canonical_network_name("VGG16-BN"), "VGG16");
  EXPECT_TRUE(is_network_name("Vgg19Bn"));
  EXPECT_FALSE(is_network_name("vgg19_bn2"));
  EXPECT_FALSE(is_network_name(""));
  for (const auto name : network_names()) EXPECT_EQ(canonical_network_name(name), name);
  expect_words(error_of([] { canonical_network_name("ResNet34"); }), {"'ResNet34'", "ResNet18", "ViT"});
  expect_words(error_of([] { (void)network_by_name("", {}); }), {"''", "expected one of"});
  expect_words(error_of([] {
                 (void)network_by_name("vgg16", {.task = {{3, 8, 8}, 10}});
               }),
               {"VGG16", "3x8x8", "at least 32x32"});
}

TEST(NetworkByName, PublishedWidth_IsThatOfTheNetwork) {
  EXPECT_EQ(published_width("ResNet18"), ResNet18<>{.task = small_task}.width);
  EXPECT_EQ(published_width("VGG-16"), Vgg16<>{.task = small_task}.width);
  EXPECT_EQ(published_width("DenseNet121"), DenseNet121<>{.task = small_task}.width);
  EXPECT_EQ(published_width("ViT"), 512);
  EXPECT_EQ(published_width("InceptionV3"), 32);
  const AnyBackbone network = network_by_name("DenseNet121", {.task = small_task});
  EXPECT_EQ(nn::state_dict(*network.module).at("classifier.weight").size(1), 1024);
}

// ---- stages ----

TEST(ForwardStages, EachNetwork_PassesOnTheOutputsOfItsStages) {
  const std::map<std::string, std::vector<std::int64_t>> sides = {
      {"ResNet18", {32, 16, 8, 4}}, {"ResNet50", {32, 16, 8, 4}}, {"PreActResNet18", {32, 16, 8, 4}},
      {"VGG16", {32, 16, 8, 4, 2}}, {"VGG19", {32, 16, 8, 4, 2}}, {"DenseNet121", {8, 4, 2, 1}},
      {"InceptionV3", {7, 3, 1}},
  };
  const at::Tensor images = at::rand({2, 3, 32, 32});
  for (const auto& [name, expected] : sides) {
    const AnyBackbone network = network_by_name(name, {.task = small_task, .width = 4, .seed = 3});
    network.module->eval();
    const auto check = [&](const auto& backbone) {
      std::vector<std::int64_t> found;
      const at::Tensor logits = forward_stages(backbone, images, [&](int stage, const at::Tensor& output) {
        EXPECT_EQ(stage, static_cast<int>(found.size())) << name;
        found.push_back(output.size(2));
        return output;
      });
      EXPECT_EQ(found, expected) << name;
      EXPECT_EQ(stages_of(backbone), static_cast<int>(expected.size())) << name;
      EXPECT_TRUE(logits.equal(backbone.forward(images))) << name;
    };
    check(network);
    check(AnyBackbone(Normalized{network, normalizations::cifar10}));
    check(freeze(network));
  }
}

TEST(ForwardStages, ReplacedOutput_IsWhatTheNetworkGoesOnWith) {
  const ResNet18<> network{.task = small_task, .width = 4, .seed = 3};
  network.module->eval();
  const at::Tensor logits =
      forward_stages(network, at::rand({2, 3, 32, 32}),
                     [](int stage, const at::Tensor& output) { return stage == 3 ? output * 0 : output; });
  const at::Tensor bias = nn::state_dict(*network.module).at("linear.bias");
  EXPECT_TRUE(logits.equal(bias.expand({2, 5}))) << "what is left of it";
}

TEST(ForwardStages, Function_IsCalledForThisCallInThisThreadOnly) {
  const ResNet18<> network{.task = small_task, .width = 4, .seed = 3}, other{.task = small_task, .width = 4};
  network.module->eval();
  other.module->eval();
  const at::Tensor images = at::rand({2, 3, 32, 32});
  int calls = 0, inner = 0;
  const StageFunction count_inner = [&](int, const at::Tensor& output) {
    ++inner;
    return output;
  };
  const StageFunction count = [&](int, const at::Tensor& output) {
    ++calls;
    network.forward(images);  // unheard, as are copies and other threads
    deep_copy(network).forward(images);
    std::thread([&] { network.forward(images); }).join();
    forward_stages(other, images, count_inner);  // has a function of its own
    return output;
  };
  forward_stages(network, images, count);
  EXPECT_EQ(calls, 4);
  EXPECT_EQ(inner, 16);
  const StageFunction fail = [](int, const at::Tensor&) -> at::Tensor { throw Error("from the caller"); };
  EXPECT_THROW(forward_stages(network, images, fail), Error);
  network.forward(images);
  EXPECT_EQ(calls, 4) << "no function is left behind";
}

TEST(ForwardStages, NetworkWithoutStages_Throws) {
  const AnyBackbone network = network_by_name("ViT", {.task = small_task, .width = 16});
  EXPECT_EQ(stages_of(network), 0);
  const auto unchanged = [](int, const at::Tensor& output) { return output; };
  expect_words(error_of([&] {
                 forward_stages(network, at::rand({2, 3, 32, 32}), unchanged);
               }),
               {"forward_stages", "no stages", "backbones::Staged"});
}

}  // namespace
}  // namespace refine::backbones
