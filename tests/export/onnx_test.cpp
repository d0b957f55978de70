// Defended classifiers as ONNX: what the file computes, as this library reads it, and which bytes of the
// victim it keeps. That ONNX Runtime and OpenVINO compute the same is checked by tools/onnx_check.py.

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <torch/csrc/jit/api/module.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/adaptive_avg_pool2d.h>
#include <ATen/ops/add.h>
#include <ATen/ops/bitwise_not.h>
#include <ATen/ops/floor.h>
#include <ATen/ops/full.h>
#include <ATen/ops/max_pool2d.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/narrow.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/roll.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/softplus.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <refine/backbones/any_backbone.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/normalized.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/backbones/zoo.hpp>
#include <refine/core/file.hpp>
#include <refine/export/export_defense.hpp>
#include <refine/export/exported_classifier.hpp>
#include <refine/export/onnx.hpp>
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

// Both are the same networks, so that values and weights have the same names.
TEST(ExportOnnx, VictimAndStudentOfTheSameNames_KeepTheirWeights) {
  const ScratchFolder folder;
  for (const std::uint64_t seed : {1, 2}) {
    export_victim(freeze(backbones::ResNet18<tasks::cifar10>{.width = 4, .seed = seed}),
                  folder.path / fmt::format("{}.onnx", seed));
  }
  formats::OnnxModel model = formats::read_onnx(folder.path / "1.onnx");
  for (const std::int64_t opset : {model.opset, model.opset - 1}) {
    model.opset = opset;
    const backbones::OnnxModel<> student(model, "student"), victim(folder.path / "2.onnx");
    const ServedParts parts{.task = victim.task,
                            .modules = {{"student", student.module}, {"backbone", victim.module}},
                            .transform = [](const at::Tensor& images) { return images; },
                            .classify = [&](const at::Tensor& images) { return student.forward(images); },
                            .undefended = [&](const at::Tensor& images) { return victim.forward(images); }};
    const auto file = folder.path / "defended.onnx";
    detail::write_onnx(parts, file, detail::no_metadata(), {});
    const c10::NoGradGuard no_grad;
    const at::Tensor x = onnx_images(3, victim.task.image), answer = student.forward(x);
    EXPECT_GT(onnx_difference(answer, victim.forward(x)), 0.01);
    EXPECT_LT(onnx_difference(run_onnx(file, 0, x), answer), 1e-5);
    EXPECT_LT(onnx_difference(run_onnx(file, 1, x), alarm_score(victim.forward(x), answer)), 1e-5);
  }
}

constexpr Task small_task{{2, 4, 6}, 3};

/// Returns what is written of a function of images of `small_task`.
detail::ExportJob job_of(const std::function<at::Tensor(const at::Tensor&)>& run) {
  return {.module = torch::jit::Module("function"),
          .functions = {{.name = "graph",
                         .outputs = {"logits"},
                         .run = [=](const at::Tensor& x) -> std::vector<at::Tensor> { return {run(x)}; }}},
          .task = small_task,
          .kind = "classifier"};
}

/// A function that was written as ONNX.
struct Written {
  std::filesystem::path file;
  formats::OnnxModel model;

  Written(const ScratchFolder& folder, const std::function<at::Tensor(const at::Tensor&)>& run)
      : file(folder.path / "function.onnx") {
    detail::write_onnx(job_of(run), file, detail::no_metadata());
    model = formats::read_onnx(file);
  }

  at::Tensor operator()(const at::Tensor& images) const { return run_onnx(file, 0, images); }

  std::int64_t count(std::string_view op) const {
    return std::ranges::count(model.nodes, op, &formats::OnnxNode::op);
  }
};

at::Tensor small_images(double content) {
  return at::full({1, 2, 4, 6}, content);
}

TEST(ExportOnnx, NarrowFromANegativeStart_CountsFromTheEnd) {
  const ScratchFolder folder;
  const Written columns(folder, [](const at::Tensor& x) { return at::narrow(x, 3, -2, 2); });
  const at::Tensor x = onnx_images(3, small_task.image);
  EXPECT_TRUE(columns(x).equal(x.slice(3, 4, 6)));
}

TEST(ExportOnnx, SoftplusAboveItsThreshold_IsTheIdentity) {
  const ScratchFolder folder;
  const Written softplus(folder, [](const at::Tensor& x) { return at::softplus(x * 6, 1, 2); });
  EXPECT_EQ(softplus(small_images(0.5)).max().item<double>(), 3);
  EXPECT_NEAR(softplus(small_images(0.25)).max().item<double>(), std::log1p(std::exp(1.5)), 1e-6);
  const Written steep(folder, [](const at::Tensor& x) { return at::softplus(x * 6, 2, 2); });
  EXPECT_EQ(steep(small_images(0.25)).max().item<double>(), 1.5);  // 2 · 1.5 is above 2
  EXPECT_NEAR(steep(small_images(0.125)).max().item<double>(), std::log1p(std::exp(1.5)) / 2, 1e-6);
}

// In evaluation mode, they return their operand, and relu_ changes both.
TEST(ExportOnnx, OperandChangedThroughTheResultOfDropout_IsChanged) {
  const ScratchFolder folder;
  for (const std::string op : {"dropout", "feature_dropout", "alpha_dropout"}) {
    torch::jit::Module module("foreign");
    module.register_parameter("scale", at::full({1}, 2.0), false);
    module.define(fmt::format(R"(def forward(self, x):
    z = torch.mean(x, [2, 3]) * self.scale - 1
    y = torch.{}(z, 0.5, False)
    torch.relu_(y)
    return y + z
)",
                              op));
    module.eval();
    const backbones::Scripted<> victim(module, "foreign", {.task = {{2, 4, 6}, 2}});
    const auto file = folder.path / "victim.onnx";
    export_victim(freeze(victim), file);
    for (const auto& [content, expected] : {std::pair{0.25, 0.0}, {0.75, 1.0}}) {
      EXPECT_NEAR(victim.forward(small_images(content)).max().item<double>(), expected, 1e-6) << op;
      EXPECT_NEAR(run_onnx(file, 0, small_images(content)).max().item<double>(), expected, 1e-6) << op;
    }
  }
}

TEST(ExportOnnx, WhatOnnxDoesNotHave_IsRefused) {
  const ScratchFolder folder;
  const auto refusal = [&](const std::function<at::Tensor(const at::Tensor&)>& run) {
    const std::string why = error_of([&] { Written(folder, run); });
    EXPECT_EQ(error_of([&] { detail::check_onnx(job_of(run), folder.path / "function.onnx"); }), why);
    return why;
  };
  expect_words(refusal([](const at::Tensor& x) {
                 return at::adaptive_avg_pool2d(x, {0, 0}).sum({2, 3});
               }),
               {"adaptive_avg_pool2d", "empty"});
  expect_words(refusal([](const at::Tensor& x) {
                 return at::roll(x.slice(3, 6, 6), {1}, {3}).sum({2, 3});
               }),
               {"empty"});
  expect_words(
      refusal([](const at::Tensor& x) { return at::bitwise_not((x * 4).to(at::kInt)).to(at::kFloat); }),
      {"aten::bitwise_not", "integers"});
  // TorchScript does not have it.
  using formats::ElementType;
  using formats::ValueName;
  formats::ExportedProgram program;
  program.inputs = {{.kind = formats::GraphInput::Kind::images, .name = "x"}};
  program.shapes["x"] = {.sizes = {std::nullopt, 2, 4, 6}, .example = {0, 0, 0, 0}};
  program.shapes["logits"] = {.sizes = {std::nullopt, 2}, .example = {0, 0}};
  const std::vector<formats::GraphInteger> dim = {std::int64_t{2}, std::int64_t{3}};
  program.nodes = {{.name = "mean",
                    .target = "aten::mean.dim",
                    .inputs = {{"self", ValueName{"x"}}, {"dim", dim}},
                    .outputs = {ValueName{"mean"}}},
                   {.name = "bits",
                    .target = "aten::view.dtype",
                    .inputs = {{"self", ValueName{"mean"}}, {"dtype", ElementType::int32}},
                    .outputs = {ValueName{"bits"}}},
                   {.name = "logits",
                    .target = "aten::to.dtype",
                    .inputs = {{"self", ValueName{"bits"}}, {"dtype", ElementType::float32}},
                    .outputs = {ValueName{"logits"}}}};
  program.outputs = {{.name = "logits", .value = "logits"}};
  const backbones::ExportedProgram<> bits(program, "bits.pt2");
  expect_words(error_of([&] { export_victim(freeze(bits), folder.path / "bits.onnx"); }),
               {"aten::view.dtype", "another type"});
}

TEST(ExportOnnx, ArithmeticOfBooleans_IsWrittenAsLogic) {
  const ScratchFolder folder;
  const Written kinds(folder, [](const at::Tensor& x) {
    const at::Tensor inside = at::mul(x.gt(0.25), x.lt(0.75)), outside = at::add(x.lt(0.25), x.gt(0.75));
    const at::Tensor any_white = x.gt(0.9).amax({3}, true);
    return inside.to(at::kFloat) + outside.to(at::kFloat) * 2 + any_white.to(at::kFloat) * 4;
  });
  EXPECT_EQ(kinds.count("And"), 1);
  EXPECT_EQ(kinds.count("Or"), 1);
  at::Tensor x = small_images(0.5);
  x[0][0][0][0] = 0.1;
  x[0][1][3][5] = 1;
  const at::Tensor found = kinds(x)[0];
  EXPECT_EQ(found[0][0][0].item<double>(), 2);
  EXPECT_EQ(found[0][0][1].item<double>(), 1);
  EXPECT_EQ(found[1][3][4].item<double>(), 1 + 4);
  EXPECT_EQ(found[1][3][5].item<double>(), 2 + 4);
}

TEST(ExportOnnx, FloorOfIntegers_IsLeftOut) {
  const ScratchFolder folder;
  const Written floor(folder,
                      [](const at::Tensor& x) { return at::floor((x * 4).to(at::kLong)).to(at::kFloat); });
  EXPECT_EQ(floor.count("Floor"), 0);
  EXPECT_EQ(floor(small_images(0.7)).max().item<double>(), 2);
}

// ONNX Runtime loads no MaxPool whose padding reaches the size of its kernel.
TEST(ExportOnnx, MaxPoolWithCeilModeAndDilation_PadsLessThanItsKernel) {
  const ScratchFolder folder;
  const Written pool(folder, [](const at::Tensor& x) {
    return at::max_pool2d(x, {2, 2}, {4, 4}, {0, 0}, {3, 3}, /*ceil_mode=*/true);
  });
  for (const formats::OnnxNode& node : pool.model.nodes) {
    if (node.op != "MaxPool") continue;
    const auto pads = node.attributes.find("pads");
    if (pads == node.attributes.end()) continue;
    for (const std::int64_t pad : std::get<std::vector<std::int64_t>>(pads->second)) EXPECT_LT(pad, 2);
  }
  EXPECT_EQ(pool.count("MaxPool"), 1);
  const at::Tensor x = onnx_images(3, small_task.image), found = pool(x);
  EXPECT_EQ(found.sizes(), at::IntArrayRef({3, 2, 1, 2}));
  // The second window has the columns 4 and 7, which is beyond the image, of the rows 0 and 3.
  EXPECT_TRUE(found.select(3, 1).select(2, 0).equal(
      at::maximum(x.select(3, 4).select(2, 0), x.select(3, 4).select(2, 3))));
}

TEST(ExportOnnx, AttentionOfARowThatSeesNothing_IsZero) {
  const ScratchFolder folder;
  const double nothing = -std::numeric_limits<double>::infinity();
  at::Tensor fixed = at::full({4, 4}, 0.5);
  fixed[1].fill_(nothing);
  fixed[2][0] = nothing;
  const Written constant(
      folder, [=](const at::Tensor& x) { return at::scaled_dot_product_attention(x, x, x, fixed); });
  const at::Tensor x = onnx_images(3, small_task.image);
  const at::Tensor expected = at::scaled_dot_product_attention(x, x, x, fixed);
  EXPECT_EQ(expected.select(2, 1).abs().max().item<double>(), 0);
  EXPECT_LT(onnx_difference(constant(x), expected), 1e-6);
  EXPECT_EQ(constant(x).select(2, 1).abs().max().item<double>(), 0);
  // A mask that depends on the images: black rows see nothing.
  const Written computed(folder, [=](const at::Tensor& images) {
    const at::Tensor is_black = images.amax({3}, true).lt(0.05);
    const at::Tensor mask = at::zeros_like(at::matmul(images, images.transpose(2, 3)));
    return at::scaled_dot_product_attention(images, images, images, mask.masked_fill(is_black, nothing));
  });
  at::Tensor dark = x.clone();
  dark.select(2, 3).zero_();
  const at::Tensor found = computed(dark);
  EXPECT_EQ(found.select(2, 3).abs().max().item<double>(), 0);
  EXPECT_GT(found.select(2, 0).abs().min().item<double>(), 0);
}

TEST(ExportOnnx, GraphThatComputesSomethingElse_IsRefused) {
  const detail::ExportJob job = job_of([](const at::Tensor& x) { return x; });
  const auto check = [&](const std::string& op) {
    formats::WritableOnnx graph{.ir_version = 8, .opset = 17};
    graph.inputs = {{.name = "images", .has_shape = true, .sizes = {std::nullopt, 2, 4, 6}}};
    graph.nodes = {{.name = "node", .op = op, .inputs = {"images"}, .outputs = {"logits"}}};
    graph.outputs = {{.name = "logits", .has_shape = true, .sizes = {std::nullopt, 2, 4, 6}}};
    return error_of([&] { detail::check_onnx_graph(graph, job.functions[0], job.task, "a.onnx"); });
  };
  expect_words(check("Neg"), {"a.onnx as ONNX", "other logits", "2 images"});
  EXPECT_EQ(check("Abs"), "");           // the same for images
  EXPECT_EQ(check("Hypothetical"), "");  // not read
}

}  // namespace
}  // namespace refine
