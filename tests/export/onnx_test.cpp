// Defended classifiers as ONNX: what the file computes, as this library reads it, and which bytes of the
// victim it keeps. That ONNX Runtime and OpenVINO compute the same is checked by tools/onnx_check.py.

#include <gtest/gtest.h>
#include <torch/csrc/jit/api/module.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <refine/backbones/any_backbone.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/normalized.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/backbones/zoo.hpp>
#include <refine/core/file.hpp>
#include <refine/export/export_defense.hpp>
#include <refine/export/exported_classifier.hpp>
#include <refine/formats/onnx.hpp>
#include <refine/nn/torch_random.hpp>
#include <refine/pipeline/gated.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/programs/exported_program.hpp>
#include <refine/programs/onnx.hpp>
#include <refine/programs/torchscript.hpp>
#include <refine/remaps/remaps.hpp>
#include <refine/transforms/resized.hpp>
#include <refine/transforms/unet.hpp>

#include "tests/export/narrow_network.hpp"
#include "tests/support/error_of.hpp"
#include "tests/support/scratch_folder.hpp"

namespace refine {
namespace {

using testing::defended;
using testing::error_of;
using testing::expect_words;
using testing::narrow_network;
using testing::ScratchFolder;

/// Runs an output of an ONNX file.
at::Tensor run_onnx(const std::filesystem::path& file, std::size_t output, const at::Tensor& images) {
  const backbones::detail::ExportedModule all(
      backbones::detail::translate_onnx(std::make_shared<const formats::OnnxModel>(formats::read_onnx(file)),
                                        file.string()),
      file.string());
  EXPECT_EQ(all.outputs().at(0).name, "logits");
  return all.with_output(output)->forward(images);
}

double onnx_difference(const at::Tensor& a, const at::Tensor& b) {
  EXPECT_EQ(a.sizes(), b.sizes());
  return (a - b).abs().max().item<double>();
}

at::Tensor onnx_images(std::int64_t n, const ImageShape& shape) {
  return nn::with_torch_seed(1, [&] { return at::rand({n, shape.channels, shape.height, shape.width}); });
}

/// Writes a defense as ONNX, and expects that the file computes the same.
void expect_same_as_onnx(const auto& defense, const std::filesystem::path& file) {
  export_defense(defense, file);
  std::set<std::string> names;  // ONNX Runtime refuses two nodes of one name
  for (const formats::OnnxNode& node : formats::read_onnx(file).nodes)
    EXPECT_TRUE(node.name.empty() || names.insert(node.name).second) << node.name;
  const c10::NoGradGuard no_grad;
  for (const std::int64_t n : {1, 4}) {
    const at::Tensor x = onnx_images(n, defense.task().image);
    EXPECT_LT(onnx_difference(run_onnx(file, 0, x), defense.forward(x)), 1e-5) << n;
    EXPECT_LT(onnx_difference(run_onnx(file, 1, x), defense.alarm(x)), 1e-5) << n;
  }
}

class OnnxNetworks : public ::testing::TestWithParam<std::string_view> {};

TEST_P(OnnxNetworks, WrittenAndRead_MatchThePipeline) {
  const ScratchFolder folder;
  expect_same_as_onnx(defended(narrow_network(GetParam())), folder.path / "defended.onnx");
}

// tools/onnx_check.py has the others.
INSTANTIATE_TEST_SUITE_P(Zoo, OnnxNetworks, ::testing::Values("ResNet18", "VGG16", "InceptionV3", "ViT"),
                         [](const auto& info) { return std::string(info.param); });

TEST(ExportOnnx, TransformThatShrinksImages_MatchesThePipeline) {
  const ScratchFolder folder;
  const AnyPipeline defense{
      transforms::Resized<transforms::UNet<>>{.image = {3, 32, 24},
                                              .inner = {.image = {3, 16, 16}, .levels = 2, .width = 4},
                                              .output_shape = {3, 20, 20}},
      freeze(backbones::AnyBackbone(backbones::ResNet18<>{.task = {{3, 32, 24}, 5}, .width = 4})),
      remaps::Derangement<>{.classes = 5}};
  expect_same_as_onnx(defense, folder.path / "defended.onnx");
}

class OnnxOfPt2Victims : public ::testing::TestWithParam<const char*> {};

TEST_P(OnnxOfPt2Victims, Defended_MatchesThePipeline) {
  const std::string name = GetParam();
  const backbones::AnyBackbone victim{backbones::ExportedProgram<>(
      "tests/fixtures/exported/" + name + ".pt2", {.output = name == "several" ? "logits" : ""})};
  const ScratchFolder folder;
  expect_same_as_onnx(defended(victim), folder.path / "defended.onnx");
}

INSTANTIATE_TEST_SUITE_P(All, OnnxOfPt2Victims,
                         ::testing::Values("mixed", "decomposed", "in_place", "several", "half",
                                           "probabilities", "resizable"),
                         [](const auto& info) { return std::string(info.param); });

class OnnxOfOnnxVictims : public ::testing::TestWithParam<const char*> {};

TEST_P(OnnxOfOnnxVictims, Defended_MatchesThePipeline) {
  const backbones::AnyBackbone victim{
      backbones::OnnxModel<>("tests/fixtures/onnx/" + std::string(GetParam()) + ".onnx")};
  const ScratchFolder folder;
  expect_same_as_onnx(defended(victim), folder.path / "defended.onnx");
}

INSTANTIATE_TEST_SUITE_P(All, OnnxOfOnnxVictims,
                         ::testing::Values("residual", "mobile", "attention", "exported", "legacy"),
                         [](const auto& info) { return std::string(info.param); });

TEST(ExportOnnx, OnnxVictim_KeepsItsNodesByteForByte) {
  const std::filesystem::path original = "tests/fixtures/onnx/residual.onnx";
  const ScratchFolder folder;
  const std::filesystem::path file = folder.path / "defended.onnx";
  export_defense(defended(backbones::AnyBackbone{backbones::OnnxModel<>(original)}), file);
  const formats::OnnxModel before = formats::read_onnx(original), after = formats::read_onnx(file);
  std::multiset<std::string> written;
  for (const auto& node : after.nodes) written.insert(node.encoded);
  for (const auto& node : before.nodes) EXPECT_EQ(written.count(node.encoded), 1u) << node.name;
  EXPECT_EQ(after.opset, before.opset);
  for (const auto& [name, tensor] : before.tensors)
    EXPECT_EQ(after.tensors.at(name).bytes, tensor.bytes) << name;
  // Its second copy, for the alarm, shares the weights.
  const auto convolutions = [](const formats::OnnxModel& model, const std::string& weight) {
    return std::ranges::count_if(model.nodes, [&](const auto& node) {
      return std::ranges::find(node.inputs, weight) != node.inputs.end();
    });
  };
  EXPECT_EQ(convolutions(before, "head.weight"), 1);
  EXPECT_EQ(convolutions(after, "head.weight"), 2);
}

TEST(ExportOnnx, File_HasNamesDescriptionAndNoOtherDomain) {
  constexpr Task cifar = tasks::cifar10;
  const auto victim =
      freeze(backbones::Normalized{backbones::ResNet18<cifar>{.width = 4}, normalizations::cifar10});
  const Pipeline defense{transforms::UNet<cifar>{.levels = 2, .width = 4}, victim,
                         remaps::Derangement<cifar>{}};
  const ScratchFolder folder;
  const auto file = folder.path / "defended.onnx", alone = folder.path / "victim.onnx";
  export_onnx(defense, file, {{"note", "a test"}});
  const formats::OnnxModel model = formats::read_onnx(file);
  EXPECT_EQ(model.opset, 17);
  ASSERT_EQ(model.inputs.size(), 1u);
  EXPECT_EQ(model.inputs[0].name, "images");
  EXPECT_EQ(model.inputs[0].sizes, (std::vector<std::optional<std::int64_t>>{std::nullopt, 3, 32, 32}));
  ASSERT_EQ(model.outputs.size(), 2u);
  EXPECT_EQ(model.outputs[0].name, "logits");
  EXPECT_EQ(model.outputs[0].sizes, (std::vector<std::optional<std::int64_t>>{std::nullopt, 10}));
  EXPECT_EQ(model.outputs[1].name, "alarm");
  EXPECT_EQ(model.outputs[1].sizes, (std::vector<std::optional<std::int64_t>>{std::nullopt}));
  const auto about = nlohmann::ordered_json::parse(model.metadata.at("refine.json"));
  EXPECT_EQ(about["note"], "a test");
  EXPECT_EQ(about["permutation"], defense.remap().permutation);
  export_victim(victim, alone);
  const c10::NoGradGuard no_grad;
  const at::Tensor x = onnx_images(3, cifar.image);
  const backbones::OnnxModel<> again(alone);
  EXPECT_LT(onnx_difference(again.forward(x), victim.forward(x)), 1e-5);
  expect_words(error_of([&] { ExportedClassifier(file, formats::Trust::checked); }),
               {"defended.onnx", "ONNX Runtime", ".pt2"});
}

TEST(ExportOnnx, FunctionChoosesTheFormat_NotTheName) {
  const AnyPipeline defense =
      defended(backbones::AnyBackbone{backbones::OnnxModel<>("tests/fixtures/onnx/mobile.onnx")});
  const c10::NoGradGuard no_grad;
  const at::Tensor x = onnx_images(3, defense.task().image);
  const ScratchFolder folder;
  export_onnx(defense, folder.path / "defended.model");
  EXPECT_LT(onnx_difference(run_onnx(folder.path / "defended.model", 0, x), defense.forward(x)), 1e-5);
  export_onnx(defense.backbone(), folder.path / "victim");
  EXPECT_LT(onnx_difference(run_onnx(folder.path / "victim", 0, x), defense.undefended(x)), 1e-5);
  export_pt2(defense, folder.path / "defended.onnx");
  const ExportedClassifier served(folder.path / "defended.onnx", formats::Trust::checked);
  EXPECT_LT(onnx_difference(served.forward(x), defense.forward(x)), 1e-5);
}

TEST(ExportOnnx, Gated_ServesTheGatedAnswer) {
  const AnyPipeline defense =
      defended(backbones::AnyBackbone{backbones::OnnxModel<>("tests/fixtures/onnx/mobile.onnx")});
  const c10::NoGradGuard no_grad;
  const at::Tensor x = onnx_images(8, defense.task().image), scores = defense.alarm(x);
  const auto sorted = std::get<0>(scores.sort());
  const double threshold = (sorted[3] + sorted[4]).item<double>() / 2;  // half of them raise the alarm
  at::Tensor expected = defense.forward(x).clone();
  for (std::int64_t i = 0; i < 8; ++i) {
    if (scores[i].item<double>() <= threshold) expected[i].copy_(defense.undefended(x)[i]);
  }
  const ScratchFolder folder;
  export_defense(Gated{defense, threshold}, folder.path / "gated.onnx");
  EXPECT_LT(onnx_difference(run_onnx(folder.path / "gated.onnx", 0, x), expected), 1e-5);
}

TEST(ExportOnnx, LogitsThatAreNotFinite_RaiseTheAlarm) {
  const AnyPipeline defense =
      defended(backbones::AnyBackbone{backbones::OnnxModel<>("tests/fixtures/onnx/mobile.onnx")});
  const ScratchFolder folder;
  export_onnx(defense, folder.path / "a.onnx");
  at::Tensor x = onnx_images(2, defense.task().image);
  x[1].fill_(std::nan(""));
  const c10::NoGradGuard no_grad;
  const at::Tensor scores = run_onnx(folder.path / "a.onnx", 1, x);
  EXPECT_LE(scores[0].item<double>(), 1);
  EXPECT_GT(scores[1].item<double>(), 1);
}

TEST(ExportOnnx, TorchScriptVictim_IsWrittenUnlessAnOperatorIsNot) {
  constexpr ImageShape shape{3, 13, 20};
  const auto defense_of = [&](const std::string& code) {
    torch::jit::Module module = nn::with_torch_seed(3, [&] {
      torch::jit::Module m("foreign");
      m.register_parameter("kernel", at::randn({5, 3, 3, 3}), false);
      m.define(code);
      m.eval();
      return m;
    });
    return defended(backbones::AnyBackbone{backbones::Scripted<>(module, "foreign", {.task = {shape, 5}})});
  };
  const ScratchFolder folder;
  // Pooling with windows of different sizes, a last window beyond the padding, tensors in place.
  expect_same_as_onnx(defense_of(R"(def forward(self, x):
    y = torch.conv2d(x, self.kernel)
    y = torch.avg_pool2d(y, [3, 3], [2, 2], [1, 1], True, True)
    y = torch.max_pool2d(y, [2, 2], [2, 2], [0, 0], [1, 1], True)
    y = torch.adaptive_avg_pool2d(y, [2, 3])
    y = y / (1 + torch.linalg_vector_norm(y, 2, [1], True))
    z = torch.zeros_like(y)
    z.add_(y).mul_(0.5)
    z = torch.roll(z, [1], [3])
    m = torch.triu(torch.ones([3, 3]))
    z = torch.matmul(z, m)
    return torch.mean(z.view([x.size(0), 5, -1]), [2])
)"),
                      folder.path / "plain.onnx");
  const std::string why = error_of([&] {
    export_defense(defense_of(R"(def forward(self, x):
    y = torch.cumsum(torch.conv2d(x, self.kernel), 3)
    return torch.mean(y, [2, 3])
)"),
                   folder.path / "other.onnx");
  });
  expect_words(why, {"other.onnx as ONNX", "aten::cumsum", ".pt2"});
  EXPECT_FALSE(std::filesystem::exists(folder.path / "other.onnx"));
  expect_words(error_of([&] {
                 export_defense(defense_of(R"(def forward(self, x):
    y = torch.conv2d(x, self.kernel)
    y[:, 0].mul_(2)
    return torch.mean(y, [2, 3])
)"),
                                folder.path / "part.onnx");
               }),
               {"part.onnx as ONNX", "aten::mul_", "in place"});
}

}  // namespace
}  // namespace refine
