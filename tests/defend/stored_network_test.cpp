#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <fmt/core.h>

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <refine/backbones/zoo.hpp>
#include <refine/core/task.hpp>
#include <refine/defend/detail/stored_network.hpp>
#include <refine/defend/load_classifier.hpp>
#include <refine/nn/module.hpp>

#include "tests/support/error_of.hpp"

namespace refine::detail {
namespace {

using namespace refine::backbones;
using refine::testing::error_of;
using refine::testing::expect_words;

constexpr Task task = {{3, 64, 64}, 4};

std::vector<std::pair<std::string, AnyBackbone>> all_kinds() {
  std::vector<std::pair<std::string, AnyBackbone>> all;
  for (const bool last_norm : {false, true}) {
    all.emplace_back("PreActResNet18",
                     AnyBackbone(PreActResNet18<>{.task = task, .width = 2, .last_norm = last_norm}));
  }
  for (const Variant variant : {Variant::cifar, Variant::imagenet}) {
    all.emplace_back("ResNet18", AnyBackbone(ResNet18<>{.task = task, .width = 2, .variant = variant}));
    all.emplace_back("ResNet50", AnyBackbone(ResNet50<>{.task = task, .width = 2, .variant = variant}));
    for (const bool norm : {true, false}) {
      all.emplace_back(
          "VGG16", AnyBackbone(Vgg16<>{.task = task, .width = 2, .batch_norm = norm, .variant = variant}));
      all.emplace_back(
          "VGG19", AnyBackbone(Vgg19<>{.task = task, .width = 2, .batch_norm = norm, .variant = variant}));
    }
  }
  all.emplace_back("DenseNet121", AnyBackbone(DenseNet121<>{.task = task, .width = 4}));
  all.emplace_back("InceptionV3", AnyBackbone(InceptionV3<>{.task = task, .width = 4}));
  all.emplace_back("ViT", AnyBackbone(ViT<>{.task = task, .patch = 16, .width = 16, .depth = 2, .mlp = 8}));
  return all;
}

TEST(StoredNetwork, TensorsOfEachNetwork_GiveAllExtents) {
  const at::Tensor images = at::rand({2, 3, 64, 64});
  for (const auto& [name, network] : all_kinds()) {
    network.module->eval();
    const auto state = nn::state_dict(*network.module);
    EXPECT_EQ(network_of(state), name);
    // The tensors of an Inception-v3 do not tell whether it enlarges its images; the size of the
    // images does. Those of torchvision's ResNet do not tell whether it pools.
    const auto stem = state.contains("fc.weight") && name.starts_with("ResNet")
                          ? std::optional(Stem{.kernel = 7, .pooling = true})
                          : std::nullopt;
    const auto read = stored_network(name, state, {}, {3, 64, 64}, "weights.pth", stem);
    EXPECT_TRUE(read.backbone.forward(images).equal(network.forward(images))) << name;
    EXPECT_EQ(read.backbone.task, task) << name;
  }
}

TEST(StoredNetwork, TensorsOfAnotherNetwork_AreRefused) {
  for (const auto& [name, network] : all_kinds()) {
    const auto state = nn::state_dict(*network.module);
    for (const auto other : network_names()) {
      if (other == name) continue;
      expect_words(error_of([&] { (void)stored_network(other, state, {}, {}, "weights.pth"); }),
                   {"weights.pth", other, "--arch " + name});
    }
  }
}

TEST(StoredNetwork, ImpossibleExtents_AreRefused) {
  const auto read = [](const Tensors& tensors, const ImageShape& specified = {}) {
    return error_of([&] { (void)stored_network("ResNet18", tensors, specified, {}, "weights.pth"); });
  };
  Tensors tensors = {{"linear.weight", at::zeros({2, 2})}};
  expect_words(read(tensors), {"weights.pth", "a ResNet18", "conv1.weight"});
  tensors["conv1.weight"] = at::zeros({1 << 30, 0, 3, 3});
  expect_words(read(tensors), {"conv1.weight"});
  tensors["conv1.weight"] = at::zeros({1 << 14, 3, 1, 1});  // that network would have 700,000,000,000 weights
  expect_words(read(tensors), {"too few"});
  tensors["conv1.weight"] = at::zeros({64, 3, 3, 3});  // small except for its classes
  tensors["linear.weight"] = at::zeros({1 << 20, 1});
  expect_words(read(tensors), {"too few"});
  tensors["conv1.weight"] = at::zeros({1, 1 << 20, 1, 1});
  tensors["linear.weight"] = at::zeros({2, 8});
  expect_words(read(tensors), {"too few"});
  const ResNet18<> network{.task = task, .width = 2};
  expect_words(read(nn::state_dict(*network.module), {4, 32, 32}), {"4 channels", "for 3"});
}

template <typename Network>
void expect_every_stem(const char* name) {
  const at::Tensor images = at::rand({2, 3, 64, 64});
  for (const Variant variant : {Variant::cifar, Variant::imagenet}) {
    for (const Stem stem : {Stem{3, false}, Stem{3, true}, Stem{7, false}, Stem{7, true}}) {
      const Network network{.task = task, .width = 2, .variant = variant, .stem = stem};
      network.module->eval();
      const auto state = nn::state_dict(*network.module);
      const auto read = [&](std::optional<Stem> specified, const ImageShape& shape = {3, 64, 64}) {
        return stored_network(name, state, {}, shape, "weights.pth", specified);
      };
      const std::string text =
          std::string(name) + ", " + std::to_string(stem.kernel) + (stem.pooling ? " pooled" : " not pooled");
      EXPECT_TRUE(read(stem).backbone.forward(images).equal(network.forward(images))) << text;
      EXPECT_FALSE(
          read(Stem{stem.kernel, !stem.pooling}).backbone.forward(images).equal(network.forward(images)))
          << text << ": pooling matters, and no tensor tells it";
      const int other = stem.kernel == 3 ? 7 : 3;
      expect_words(error_of([&] {
                     read(Stem{other, stem.pooling});
                   }),
                   {"weights.pth", fmt::format("its stem is of {0}x{0}", stem.kernel),
                    fmt::format("--stem {0}x{0}-pool", stem.kernel)});
      // At this image size, only the stem of the CIFAR variant is certain.
      if (variant == Variant::cifar && stem.kernel == 3) {
        EXPECT_EQ(read(std::nullopt).stem, "3x3 stem, no max pooling");
      } else {
        expect_words(error_of([&] { read(std::nullopt); }),
                     {"weights.pth", "do not tell whether max pooling follows",
                      fmt::format("--stem {0}x{0}-pool, or --stem {0}x{0} for none", stem.kernel)});
      }
    }
  }
  // At a large image size, torchvision's is.
  const Network large{.task = {{3, 224, 224}, 4}, .width = 1};
  const auto state = nn::state_dict(*large.module);
  EXPECT_EQ(stored_network(name, state, {}, {3, 224, 224}, "weights.pth").stem, "7x7 stem, with max pooling");
  const Network other{.task = {{3, 224, 224}, 4}, .width = 1, .stem = Stem{3, false}};
  expect_words(error_of([&] {
                 stored_network(name, nn::state_dict(*other.module), {}, {3, 224, 224}, "weights.pth");
               }),
               {"--stem 3x3-pool"});
}

TEST(StoredNetwork, StemOfAResNet_IsFoundOrRequired) {
  expect_every_stem<ResNet18<>>("ResNet18");
  expect_every_stem<ResNet50<>>("ResNet50");
}

TEST(StoredNetwork, OtherStems_AreRefused) {
  const ResNet18<> network{.task = task, .width = 2};
  auto state = nn::state_dict(*network.module);
  for (const auto& [height, width] : {std::pair{5, 5}, std::pair{3, 7}, std::pair{1, 1}}) {
    state["conv1.weight"] = at::zeros({2, 3, height, width});
    expect_words(error_of([&] { stored_network("ResNet18", state, {}, {}, "weights.pth"); }),
                 {"weights.pth", fmt::format("its stem is of {}x{} pixels", height, width), "3x3 or 7x7"});
  }
  const PreActResNet18<> preact{.task = task, .width = 2};
  state = nn::state_dict(*preact.module);
  expect_words(error_of([&] {
                 stored_network("PreActResNet18", state, {}, {}, "weights.pth", Stem{3, false});
               }),
               {"--stem", "a PreActResNet18", "leave it out"});
  state["conv1.weight"] = at::zeros({2, 3, 7, 7});
  expect_words(error_of([&] { stored_network("PreActResNet18", state, {}, {}, "weights.pth"); }),
               {"a PreActResNet18", "its stem is not of 3x3 pixels"});
}

TEST(StoredNetwork, SplitWeights_AreRefusedWithAHint) {
  const AnyBackbone network(ResNet18<>{.task = task, .width = 2, .variant = Variant::cifar});
  for (const auto& [part, other] :
       {std::pair("conv1.weight_g", "conv1.weight_v"),
        std::pair("conv1.parametrizations.weight.original0", "conv1.parametrizations.weight.original1"),
        std::pair("conv1.weight_orig", "conv1.weight_mask")}) {
    auto state = nn::state_dict(*network.module);
    state[other] = state.at("conv1.weight");
    state[part] = state.at("conv1.weight");
    state.erase("conv1.weight");
    expect_words(error_of([&] { stored_network("ResNet18", state, task.image, task.image, "a.pth"); }),
                 {"a.pth", part, "remove_parametrizations", "TorchScript"});
  }
}

TEST(ParseStem, OtherTexts_AreRefused) {
  EXPECT_EQ(parse_stem("3x3"), (Stem{3, false}));
  EXPECT_EQ(parse_stem("7x7-pool"), (Stem{7, true}));
  for (const char* text : {"", "5x5", "7x7-", "7x7 -pool", "7"}) {
    expect_words(error_of([&] { parse_stem(text); }), {"--stem", "7x7-pool", std::string("'") + text + "'"});
  }
}

TEST(StoredNetwork, ViTThatClaimsManyLayers_IsRefused) {
  const ViT<> network{.task = task, .patch = 16, .width = 128, .depth = 1, .heads = 2, .mlp = 128};
  auto state = nn::state_dict(*network.module);
  for (int layer = 1; layer < 5000; ++layer) {  // each would have 50,000 numbers
    state["transformer.layers." + std::to_string(layer) + ".0.norm.weight"] = at::ones({1});
  }
  expect_words(error_of([&] { (void)stored_network("ViT", state, {}, {}, "weights.pth"); }),
               {"weights.pth", "a ViT", "too few"});
}

TEST(StoredNetwork, PatchesOfAViT_GiveTheImageShape) {
  const ViT<> network{.task = {{3, 32, 64}, 4}, .patch = 8, .width = 8, .depth = 1};  // 4·8 patches
  const auto state = nn::state_dict(*network.module);
  const auto image = [&](const ImageShape& specified, const ImageShape& images) {
    return stored_network("ViT", state, specified, images, "weights.pth").backbone.task.image;
  };
  EXPECT_EQ(image({3, 32, 64}, {}), (ImageShape{3, 32, 64}));
  EXPECT_EQ(image({}, {3, 64, 32}), (ImageShape{3, 64, 32}));
  EXPECT_EQ(image({3, 16, 128}, {3, 64, 32}), (ImageShape{3, 16, 128}));
  expect_words(error_of([&] { image({}, {}); }),
               {"32 patches of 8x8 pixels", "not make up a square", "--image", "as 3x32x64"});
  expect_words(error_of([&] { image({}, {3, 64, 64}); }), {"not make up images of 3x64x64", "as 3x32x64"});
  expect_words(error_of([&] { image({3, 32, 32}, {3, 32, 64}); }), {"not make up images of 3x32x32"});
  expect_words(error_of([&] { image({1, dynamic, dynamic}, {}); }), {"of 1 channels", "--image"});

  const ViT<> square{.task = {{3, 32, 32}, 4}, .patch = 8, .width = 8, .depth = 1};
  const auto of_square = nn::state_dict(*square.module);
  // Images that do not fit are resized later.
  EXPECT_EQ(stored_network("ViT", of_square, {}, {3, 40, 60}, "weights.pth").backbone.task.image,
            (ImageShape{3, 32, 32}));
}

TEST(StoredNetwork, NamesOfOldFiles_AreRead) {
  const DenseNet121<> network{.task = task, .width = 4};
  network.module->eval();
  // The layers' names in torchvision's file, which does not have num_batches_tracked either.
  Tensors old;
  for (const auto& [name, tensor] : nn::state_dict(*network.module)) {
    if (name.ends_with("num_batches_tracked")) continue;
    std::string old_name = name;
    const auto layer = name.find(".denselayer");
    for (const char* child : {".norm1.", ".norm2.", ".conv1.", ".conv2."}) {
      const auto place = layer == std::string::npos ? layer : name.find(child, layer);
      if (place != std::string::npos) old_name.insert(place + 5, ".");
    }
    old[old_name] = tensor;
  }
  ASSERT_TRUE(old.contains("features.denseblock1.denselayer1.norm.1.weight"));
  ASSERT_TRUE(old.contains("features.denseblock4.denselayer16.conv.2.weight"));
  ASSERT_TRUE(old.contains("features.transition1.norm.weight"));
  EXPECT_EQ(network_of(old), "DenseNet121");
  const at::Tensor images = at::rand({2, 3, 64, 64});
  const auto read = stored_network("densenet-121", old, {}, {}, "weights.pth");
  EXPECT_TRUE(read.backbone.forward(images).equal(network.forward(images)));

  // Both names of one tensor: the old one is refused.
  old["features.denseblock1.denselayer1.norm1.weight"] = at::zeros({4});
  expect_words(error_of([&] { (void)stored_network("DenseNet121", old, {}, {}, "weights.pth"); }),
               {"tensor 'features.denseblock1.denselayer1.norm.1.weight' is unexpected"});
}

TEST(StoredNetwork, AuxiliaryClassifier_IsIgnored) {
  const InceptionV3<> network{.task = task, .width = 4};
  auto state = nn::state_dict(*network.module);
  state["AuxLogits.fc.weight"] = at::zeros({4, 8});
  EXPECT_EQ(stored_network("inception-v3", state, {}, {3, 64, 64}, "weights.pth").width, 4);
}

}  // namespace
}  // namespace refine::detail
