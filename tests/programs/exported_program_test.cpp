// Programs of torch.export as backbones: logits and gradients equal PyTorch's
// (tests/fixtures/make_exported_program_files.py).

#include <gtest/gtest.h>
#include <torch/csrc/jit/api/module.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/rand.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <refine/backbones/any_backbone.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/normalized.hpp>
#include <refine/export/torchscript.hpp>
#include <refine/formats/exported_program.hpp>
#include <refine/formats/torchscript_check.hpp>
#include <refine/nn/autocast.hpp>
#include <refine/nn/conv.hpp>
#include <refine/nn/module.hpp>
#include <refine/programs/exported_program.hpp>

#include "tests/support/error_of.hpp"
#include "tests/support/scratch_folder.hpp"

namespace refine {
namespace {

using testing::error_of;
using testing::expect_words;
using testing::ScratchFolder;

static_assert(backbones::FrozenBackbone<backbones::ExportedProgram<>>);

std::string exported_path(const std::string& name) {
  return "tests/fixtures/exported/" + name + ".pt2";
}

/// Images, PyTorch's logits, and the gradient of the sum of their squares.
struct Answers {
  at::Tensor images, logits, gradient;
};

Answers answers_of(const std::string& name) {
  const auto extra = formats::read_exported_program(exported_path(name)).extra;
  const auto floats = [&](const char* entry, std::vector<std::int64_t> shape) {
    const std::string& digits = extra.at(entry);  // hexadecimal: PyTorch reads extra files as text
    std::string bytes;
    for (std::size_t i = 0; i + 1 < digits.size(); i += 2) {
      bytes += static_cast<char>(std::stoi(digits.substr(i, 2), nullptr, 16));
    }
    return at::from_blob(bytes.data(), shape, at::kFloat).clone();
  };
  return {floats("images", {5, 3, 8, 8}), floats("logits", {5, 5}), floats("gradient", {5, 3, 8, 8})};
}

double largest_difference(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).abs().max().item<double>();
}

// LibTorch's autocast leaves aten.convolution out on processors, which decomposed programs have.
TEST(ExportedProgram, DecomposedConvolutions_TakeTheTypeOfAutocast) {
  const Answers answers = answers_of("decomposed");
  const backbones::ExportedProgram<> victim(exported_path("decomposed"));
  const at::Tensor images = answers.images.clone().requires_grad_();
  at::Tensor logits;
  {
    const nn::Autocast autocast(at::kCPU, true);
    logits = victim.forward(images).to(at::kFloat);
  }
  const double scale = answers.logits.abs().max().item<double>();
  EXPECT_LT(largest_difference(logits, answers.logits) / scale, 3e-2);
  EXPECT_GT(largest_difference(logits, answers.logits) / scale, 1e-4);  // computed in bfloat16
  logits.square().sum().backward();
  EXPECT_LT(((images.grad() - answers.gradient).norm() / answers.gradient.norm()).item<double>(), 5e-2);
}

struct ExportedCase {
  const char* name;
  const char* output = "";
};

void PrintTo(const ExportedCase& c, std::ostream* out) {
  *out << c.name;
}

class ExportedPrograms : public ::testing::TestWithParam<ExportedCase> {};

// Images and logits are of order 1, and five images are another batch than was exported.
TEST_P(ExportedPrograms, AnyExport_HasPyTorchsLogitsAndGradients) {
  const auto& [name, output] = GetParam();
  const Answers answers = answers_of(name);
  const backbones::ExportedProgram<> victim(exported_path(name), {.output = output});
  EXPECT_EQ(victim.task, (Task{{3, 8, 8}, 5}));
  for (const bool winograd : {true, false}) {
    nn::allow_winograd(winograd);
    const at::Tensor images = answers.images.clone().requires_grad_();
    const at::Tensor logits = victim.forward(images);
    EXPECT_EQ(logits.scalar_type(), at::kFloat);
    EXPECT_LT(largest_difference(logits, answers.logits), 1e-5);
    logits.square().sum().backward();
    const double scale = std::max(1.0, answers.gradient.abs().max().item<double>());
    EXPECT_LT(largest_difference(images.grad(), answers.gradient) / scale, 1e-5);
  }
  nn::allow_winograd(true);
  EXPECT_TRUE(at::equal(answers.images, answers_of(name).images));  // not changed in place
  for (const std::int64_t n : {1, 2, 3, 4}) {
    const at::Tensor few = victim.forward(answers.images.narrow(0, 5 - n, n));
    EXPECT_LT(largest_difference(few, answers.logits.narrow(0, 5 - n, n)), 1e-5) << n;
  }
}

TEST_P(ExportedPrograms, ExportedAgain_HasTheSameLogitsForAnyBatch) {
  const auto& [name, output] = GetParam();
  const Answers answers = answers_of(name);
  const backbones::ExportedProgram<> victim(exported_path(name), {.output = output});
  const ScratchFolder folder;
  export_torchscript(victim, folder.path / "again.pt");
  torch::jit::Module again = formats::load_torchscript(folder.path / "again.pt").module;
  for (const std::int64_t n : {5, 1, 2, 4}) {
    const at::Tensor images = answers.images.narrow(0, 0, n);
    EXPECT_LT(largest_difference(again.forward({images}).toTensor(), answers.logits.narrow(0, 0, n)), 1e-5)
        << n;
  }
}

INSTANTIATE_TEST_SUITE_P(All, ExportedPrograms,
                         ::testing::Values(ExportedCase{"mixed"}, ExportedCase{"fixed"},
                                           ExportedCase{"fixed_any", "logits"}, ExportedCase{"decomposed"},
                                           ExportedCase{"in_place"}, ExportedCase{"several", "logits"},
                                           ExportedCase{"half"}, ExportedCase{"no_grad"},
                                           ExportedCase{"probabilities"}, ExportedCase{"resizable"},
                                           ExportedCase{"linear"}),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(ExportedProgram, InAPipeline_PassesGradientsToTheTransform) {
  const backbones::AnyBackbone victim{backbones::Normalized{
      backbones::ExportedProgram<>{exported_path("mixed")}, Normalization{{0.5, 0.5, 0.5}, {0.5, 0.5, 0.5}}}};
  const auto frozen = freeze(victim);
  const Answers answers = answers_of("mixed");
  EXPECT_LT(largest_difference(frozen.forward(answers.images * 0.5 + 0.5), answers.logits), 1e-4);
  // A copy has its own tensors.
  EXPECT_NE(frozen.module.get(), victim.module.get());
  EXPECT_FALSE(frozen.module->buffers().empty());
  EXPECT_FALSE(frozen.module->buffers()[0].is_same(victim.module->buffers()[0]));
  for (const at::Tensor& tensor : frozen.module->buffers()) EXPECT_FALSE(tensor.requires_grad());
}

TEST(ExportedProgram, BatchNorms_AreFoldedIntoConvolutions) {
  // The weights and biases of six convolutions and four linear layers, two LayerNorms beside one, and the
  // mean of the images; nothing of the two BatchNorms.
  const backbones::ExportedProgram<> victim(exported_path("mixed"));
  const auto program = formats::read_exported_program(exported_path("mixed"));
  std::size_t of_norms = 0;
  for (const auto& [name, tensor] : program.tensors) {
    of_norms += name.starts_with("norm1.") || name.starts_with("norm2.") ? 1 : 0;
  }
  EXPECT_EQ(of_norms, 10u);
  // Folding adds a bias to the first convolution.
  EXPECT_EQ(victim.module->buffers().size(), program.tensors.size() - of_norms + 1);
}

TEST(ExportedProgram, FullFile_IsCheckedAgainstTheOptions) {
  const auto line = [](const std::string& name, const backbones::ExportedProgramOptions& options) {
    return error_of([&] { backbones::ExportedProgram<>(exported_path(name), options); });
  };
  expect_words(line("mixed", {.task = {{3, 32, 32}, dynamic}}), {"mixed.pt2", "3x32x32", "3x8x8"});
  expect_words(line("mixed", {.task = {{}, 7}}), {"5 classes", "7"});
  expect_words(line("several", {}), {"several", "1 'logits' (N×5)", "2 'aux' (N×3)", "--output 2"});
  expect_words(line("several", {.output = "other"}), {"no output 'other'", "0 'features' (N×4×3×3)"});
  expect_words(line("masked", {}), {"requires another argument", "mask"});
  expect_words(line("training", {}), {"training.pt2", "evaluation mode"});
  EXPECT_EQ(backbones::ExportedProgram<>(exported_path("several"), {.task = {{}, 3}}).task.classes, 3);
  EXPECT_EQ(backbones::ExportedProgram<>(exported_path("several"), {.likely_classes = 5}).task.classes, 5);
  EXPECT_EQ(backbones::ExportedProgram<>(exported_path("several"), {.output = "2"}).task.classes, 3);

  const auto code = [&](const char* name, const char* output) {
    return nn::code_of(*backbones::ExportedProgram<>(exported_path(name), {.output = output}).module);
  };
  EXPECT_EQ(code("several", "1"), code("several", "logits"));
  EXPECT_NE(code("several", "1"), code("mixed", ""));
}

TEST(ExportedProgram, OpenSize_ComesFromTheOptionsOrTheFile) {
  const auto image = [](const backbones::ExportedProgramOptions& options) {
    return backbones::ExportedProgram<>(exported_path("resizable"), options).task.image;
  };
  EXPECT_EQ(image({}), (ImageShape{3, 8, 8}));
  EXPECT_EQ(image({.likely_image = {3, 12, 9}}), (ImageShape{3, 12, 9}));
  EXPECT_EQ(image({.task = {{3, 10, 10}, dynamic}, .likely_image = {3, 12, 9}}), (ImageShape{3, 10, 10}));
}

TEST(ExportedProgram, Probabilities_AreTurnedIntoLogits) {
  EXPECT_TRUE(backbones::ExportedProgram<>(exported_path("probabilities")).probabilities());
  EXPECT_FALSE(backbones::ExportedProgram<>(exported_path("linear")).probabilities());
}

TEST(ExportedProgram, LargestFixedBatch_RunsAndOneMoreThrows) {
  const auto error = [](std::int64_t batch) {
    formats::ExportedProgram program = formats::read_exported_program(exported_path("linear"));
    for (auto& [name, shape] : program.shapes) shape.sizes.at(0) = batch;
    return error_of([&] { backbones::ExportedProgram<>(std::move(program), "linear"); });
  };
  EXPECT_EQ(error(4096), "");
  expect_words(error(4097), {"linear", "batch size", "got 4097, expected 1 to 4096"});
}

// Each extent may be 16,384: without a limit of their product, a file of 1 KB has images of 16 TB.
TEST(ExportedProgram, LargestImagesAndBatches_AreTakenAndLargerOnesThrow) {
  const auto error = [](std::vector<std::optional<std::int64_t>> sizes) {
    return error_of([&] {
      backbones::detail::image_shape({.sizes = sizes, .example = {0, 0, 0, 0}}, {}, {}, "cannot use it",
                                     "--image");
    });
  };
  EXPECT_EQ(error({std::nullopt, 1, 8192, 8192}), "");
  expect_words(error({std::nullopt, 1, 8192, 8193}), {"too large", "got 1x8192x8193", "67108864 values"});
  EXPECT_EQ(error({4, 1, 8192, 8192}), "");
  expect_words(error({5, 1, 8192, 8192}), {"got 5 images of 1x8192x8192", "268435456 values"});
  EXPECT_EQ(error({1, 16384, 64, 64}), "");
  expect_words(error({1, 16385, 1, 1}), {"got 16385, expected 1 to 16384"});
  formats::ExportedProgram program = formats::read_exported_program(exported_path("linear"));
  for (auto& [name, shape] : program.shapes) shape.sizes = {std::nullopt, 1024, 16384, 16384};
  expect_words(error_of([&] { backbones::ExportedProgram<>(std::move(program), "linear"); }),
               {"linear", "too large", "1024x16384x16384"});
}

/// A program of one node, whose arguments are not what its operator takes.
formats::ExportedProgram one_node(const std::string& target,
                                  std::vector<std::pair<std::string, formats::GraphArgument>> inputs) {
  formats::ExportedProgram program;
  program.inputs = {{formats::GraphInput::Kind::images, "x", ""}};
  program.shapes["x"] = {formats::ElementType::float32, {std::nullopt, 3, 8, 8}, {2, 3, 8, 8}};
  program.nodes = {{"n", target, std::move(inputs), {formats::ValueName{"y"}}}};
  program.outputs = {{"0", "y"}};
  program.shapes["y"] = {formats::ElementType::float32, {std::nullopt, 5}, {2, 5}};
  return program;
}

TEST(ExportedProgram, WrongArguments_ThrowBeforeAnythingRuns) {
  const auto line = [](const std::string& target,
                       std::vector<std::pair<std::string, formats::GraphArgument>> inputs) {
    return error_of([&] { backbones::ExportedProgram<>(one_node(target, std::move(inputs)), "one"); });
  };
  const formats::GraphArgument x = formats::ValueName{"x"};
  expect_words(line("aten::relu.default", {{"self", std::int64_t{1}}, {"other", x}}),
               {"'n'", "unknown argument", "other"});
  expect_words(line("aten::relu.default", {{"self", std::string("x")}}), {"aten::relu", "a text", "Tensor"});
  expect_words(line("aten::relu.default", {}), {"lacks the argument 'self'"});
  expect_words(line("aten::relu.of_the_future", {{"self", x}}), {"lacks", "relu.of_the_future"});
  expect_words(line("aten::flatten.using_ints", {{"self", x}, {"start_dim", 0.5}}),
               {"start_dim", "a number"});
  expect_words(line("aten::cat.default", {{"tensors", x}}), {"tensors", "a value"});
  expect_words(line("aten::dropout.default", {{"input", x}, {"p", 0.5}, {"train", true}}), {"training mode"});
  expect_words(line("aten::relu.default", {{"self", x}}), {"4 dimensions", "images×classes"});
  formats::ExportedProgram argmax = one_node("aten::argmax.default", {{"self", x}, {"dim", std::int64_t{1}}});
  argmax.shapes["y"] = {formats::ElementType::int64, {std::nullopt}, {2}};
  expect_words(error_of([&] { backbones::ExportedProgram<>(argmax, "argmax.pt2"); }),
               {"argmax.pt2", "images×classes", "export it without argmax"});
}

TEST(ExportedProgram, IntegerArithmetic_RoundsDownAsPython) {
  formats::ExportedProgram program = one_node("aten::flatten.using_ints", {});
  using formats::GraphArgument;
  using formats::ValueName;
  const auto value = [](const char* name) { return GraphArgument(ValueName{name}); };
  // y = x.view(n, ((0 - 3) // 2) * -6 * 16): 0-3 = -3, rounded down -2, 12 * 16 = 192
  program.nodes = {
      {"n", "aten::sym_size.int", {{"self", value("x")}, {"dim", std::int64_t{0}}}, {value("n")}},
      {"c", "aten::sym_size.int", {{"self", value("x")}, {"dim", std::int64_t{1}}}, {value("c")}},
      {"a", "_operator.sub", {{"a", std::int64_t{0}}, {"b", value("c")}}, {value("a")}},
      {"b", "_operator.floordiv", {{"a", value("a")}, {"b", std::int64_t{2}}}, {value("b")}},
      {"d", "_operator.mul", {{"a", value("b")}, {"b", std::int64_t{-96}}}, {value("d")}},
      {"y",
       "aten::view.default",
       {{"self", value("x")}, {"size", std::vector<formats::GraphInteger>{ValueName{"n"}, ValueName{"d"}}}},
       {value("y")}},
  };
  program.shapes["y"].sizes = {std::nullopt, 192};
  const backbones::ExportedProgram<> victim(program, "arithmetic");
  const at::Tensor images = at::rand({4, 3, 8, 8});
  EXPECT_TRUE(at::equal(victim.forward(images), images.flatten(1)));
  program.nodes[3].inputs[1].second = std::int64_t{0};
  expect_words(error_of([&] { backbones::ExportedProgram<>(program, "arithmetic"); }),
               {"'b'", "cannot be computed"});
}

/// A program for images 2×2×2 with four classes: `nodes` computes "out" from the images "x" and the
/// stored number "w".
formats::ExportedProgram program_of(std::vector<formats::GraphNode> nodes) {
  const std::int64_t channels = 2, side = 2;
  formats::ExportedProgram program;
  program.inputs = {{.kind = formats::GraphInput::Kind::tensor, .name = "w", .stored = "weight"},
                    {.kind = formats::GraphInput::Kind::images, .name = "x"}};
  program.tensors["weight"] = {.sizes = {1}, .strides = {1}, .entry = "weight"};
  const float weight = 0.5F;
  program.bytes["weight"] = std::string(reinterpret_cast<const char*>(&weight), sizeof weight);
  program.shapes["x"] = {.sizes = {std::nullopt, channels, side, side}, .example = {2, channels, side, side}};
  program.shapes["out"] = {.sizes = {std::nullopt, channels * side * side}, .example = {2, 8}};
  program.nodes = std::move(nodes);
  program.nodes.push_back(
      {.name = "out",
       .target = "aten::reshape.default",
       .inputs = {{"self", formats::ValueName{"y"}}, {"shape", std::vector<formats::GraphInteger>{-1, 8}}},
       .outputs = {formats::ValueName{"out"}}});
  program.outputs = {{.name = "0", .value = "out"}};
  return program;
}

formats::GraphNode call(const std::string& target, const std::string& self, const std::string& result,
                        std::vector<std::pair<std::string, formats::GraphArgument>> more = {}) {
  more.insert(more.begin(), {"self", formats::ValueName{self}});
  return {
      .name = result, .target = target, .inputs = std::move(more), .outputs = {formats::ValueName{result}}};
}

// Operators that only stop gradients pass their operand on; so does the element of a list.
TEST(ExportedProgram, InPlaceOperatorBehindADetach_LeavesTheImages) {
  const formats::GraphArgument by_w = formats::ValueName{"w"};
  const formats::GraphNode element = {
      .name = "d",
      .target = "_operator.getitem",
      .inputs = {{"a", std::vector<formats::ValueName>{{"x"}}}, {"b", std::int64_t{0}}},
      .outputs = {formats::ValueName{"d"}}};
  for (const formats::GraphNode& first :
       {call("aten::detach.default", "x", "d"), call("aten::alias.default", "x", "d"), element,
        call("aten::conj_physical.default", "x", "d"), call("aten::to_dense.default", "x", "d")}) {
    const backbones::ExportedProgram<> victim(
        program_of({first, call("aten::mul_.Tensor", "d", "y", {{"other", by_w}})}), first.target);
    const at::Tensor images = at::rand({3, 2, 2, 2}), before = images.clone();
    const at::Tensor logits = victim.forward(images);
    EXPECT_TRUE(images.equal(before)) << first.target;
    EXPECT_TRUE(logits.equal((before * 0.5).reshape({3, 8}))) << first.target;
  }
}

TEST(ExportedProgram, InPlaceOperatorOnItsOwnTensorBehindADetach_IsRefused) {
  for (const char* target : {"aten::detach.default", "aten::lift_fresh.default",
                             "aten::conj_physical.default", "aten::lift.default", "aten::to_dense.default"}) {
    const auto program =
        program_of({call(target, "w", "d"), call("aten::add_.Tensor", "d", "e", {{"other", std::int64_t{1}}}),
                    call("aten::mul.Tensor", "x", "y", {{"other", formats::ValueName{"w"}}})});
    expect_words(error_of([&] { backbones::ExportedProgram<>(program, "own tensors"); }),
                 {"own tensors", "changes the program's own tensors"});
  }
}

// LibTorch's cov of a single observation writes to it, which its schema does not declare.
TEST(ExportedProgram, OperatorThatWritesUndeclared_IsRefused) {
  const formats::GraphArgument w = formats::ValueName{"w"}, none = std::monostate();
  const formats::GraphNode result = call("aten::relu.default", "x", "y");
  expect_words(error_of([&] {
                 backbones::ExportedProgram<>(
                     program_of({call("aten::cov.default", "w", "d", {{"aweights", w}}), result}), "cov");
               }),
               {"'d' (aten::cov.default)", "changes the program's own tensors"});
  const auto normalized = [&](const formats::GraphArgument& statistics) {
    return program_of({{.name = "y",
                        .target = "aten::instance_norm.default",
                        .inputs = {{"input", formats::ValueName{"x"}},
                                   {"weight", none},
                                   {"bias", none},
                                   {"running_mean", statistics},
                                   {"running_var", statistics},
                                   {"use_input_stats", true},
                                   {"momentum", 0.1},
                                   {"eps", 1e-5},
                                   {"cudnn_enabled", false}},
                        .outputs = {formats::ValueName{"y"}}}});
  };
  EXPECT_EQ(backbones::ExportedProgram<>(normalized(none), "norm").task.classes, 8);
  expect_words(error_of([&] { backbones::ExportedProgram<>(normalized(w), "norm"); }),
               {"'y'", "training mode"});
}

TEST(ExportedProgram, AnswerThatDependsOnTheBatchOrOnChance_IsRefused) {
  const formats::GraphNode mean = call("aten::mean.dim", "x", "m",
                                       {{"dim", std::vector<formats::GraphInteger>{std::int64_t{0}}}}),
                           noise = call("aten::randn_like.default", "x", "m");
  for (const formats::GraphNode& node : {mean, noise}) {
    for (const std::optional<std::int64_t> batch :
         {std::optional<std::int64_t>(), std::optional<std::int64_t>(3)}) {
      auto program =
          program_of({node, call("aten::sub.Tensor", "x", "y", {{"other", formats::ValueName{"m"}}})});
      program.shapes["x"].sizes[0] = batch;
      expect_words(error_of([&] { backbones::ExportedProgram<>(program, "chance.pt2"); }),
                   {"chance.pt2", "depends on the batch or on chance", "eval()"});
    }
  }
}

TEST(ExportedProgram, NoImage_HasNoLogits) {
  for (const char* name : {"linear", "fixed"}) {
    const backbones::ExportedProgram<> victim(exported_path(name));
    EXPECT_EQ(victim.forward(at::rand({0, 3, 8, 8})).sizes(), (std::vector<std::int64_t>{0, 5})) << name;
  }
}

}  // namespace
}  // namespace refine
