#include <ATen/ops/rand.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <map>
#include <refine/artifacts/state_dict.hpp>
#include <refine/backbones/any_network.hpp>
#include <string>
#include <utility>
#include <vector>
#include "tests/support/error_of.hpp"
#include "tools/refine/stored_network.hpp"

namespace refine::cli {
namespace {

using namespace refine::backbones;
using refine::testing::error_of;
using refine::testing::expect_words;

constexpr Task task = {{3, 64, 64}, 4};

std::vector<std::pair<std::string, AnyBackbone>> all_kinds() {
  std::vector<std::pair<std::string, AnyBackbone>> all;
  for (const Form form : {Form::small, Form::large}) {
    all.emplace_back("ResNet18", AnyBackbone(ResNet18<>{.task = task, .width = 2, .form = form}));
    all.emplace_back("ResNet50", AnyBackbone(ResNet50<>{.task = task, .width = 2, .form = form}));
    for (const bool norm : {true, false}) {
      all.emplace_back("VGG16",
                       AnyBackbone(Vgg16<>{.task = task, .width = 2, .batch_norm = norm, .form = form}));
    }
  }
  all.emplace_back("DenseNet121", AnyBackbone(DenseNet121<>{.task = task, .width = 4}));
  all.emplace_back("InceptionV3", AnyBackbone(InceptionV3<>{.task = task, .width = 4}));
  all.emplace_back(
      "ViT", AnyBackbone(ViT<>{.task = task, .patch = 16, .width = 8, .depth = 2, .heads = 2, .mlp = 8}));
  return all;
}

TEST(StoredNetwork, FindsEveryExtentInTheTensors) {
  const at::Tensor images = at::rand({2, 3, 64, 64});
  for (const auto& [name, network] : all_kinds()) {
    network.module->eval();
    const auto state = artifacts::state_dict(*network.module);
    EXPECT_EQ(network_of(state), name);
    // Only an Inception-v3 does not tell whether it enlarges its images: their own size does.
    const auto read = stored_network(name, state, {}, {3, 64, 64}, "weights.pth");
    EXPECT_TRUE(read.backbone.forward(images).equal(network.forward(images))) << name;
    EXPECT_EQ(read.backbone.task, task) << name;
  }
}

TEST(StoredNetwork, RefusesTheTensorsOfAnotherNetwork) {
  for (const auto& [name, network] : all_kinds()) {
    const auto state = artifacts::state_dict(*network.module);
    for (const auto other : network_names()) {
      if (other == name) continue;
      expect_words(error_of([&] { (void)stored_network(other, state, {}, {}, "weights.pth"); }),
                   {"weights.pth", other, "say --arch " + name});
    }
  }
}

TEST(StoredNetwork, RefusesWhatNobodyCouldHaveSaved) {
  const auto read = [](const Tensors& tensors, const ImageShape& said = {}) {
    return error_of([&] { (void)stored_network("ResNet18", tensors, said, {}, "weights.pth"); });
  };
  Tensors tensors = {{"linear.weight", at::zeros({2, 2})}};
  expect_words(read(tensors), {"weights.pth", "a ResNet18", "conv1.weight"});
  tensors["conv1.weight"] = at::zeros({1 << 30, 0, 3, 3});
  expect_words(read(tensors), {"conv1.weight"});
  tensors["conv1.weight"] =
      at::zeros({1 << 14, 3, 1, 1});  // such a network would have 700,000,000,000 weights
  expect_words(read(tensors), {"too few"});
  const ResNet18<> network{.task = task, .width = 2};
  expect_words(read(artifacts::state_dict(*network.module), {4, 32, 32}), {"4 channels", "for 3"});
}

TEST(StoredNetwork, LeavesOutWhatServesTrainingOnly) {
  const InceptionV3<> network{.task = task, .width = 4};
  auto state = artifacts::state_dict(*network.module);
  state["AuxLogits.fc.weight"] = at::zeros({4, 8});
  EXPECT_EQ(stored_network("inception-v3", state, {}, {3, 64, 64}, "weights.pth").width, 4);
}

}  // namespace
}  // namespace refine::cli
