// ONNX models as backbones: logits and gradients equal PyTorch's (tests/fixtures/make_onnx_files.py).

#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <ostream>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <refine/backbones/backbone.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/formats/detail/onnx_operators.hpp>
#include <refine/formats/onnx.hpp>
#include <refine/programs/onnx.hpp>

#include "tests/support/error_of.hpp"

namespace refine {
namespace {

using testing::error_of;
using testing::expect_words;

static_assert(backbones::FrozenBackbone<backbones::OnnxModel<>>);

std::string onnx_path(const std::string& name) {
  return "tests/fixtures/onnx/" + name + ".onnx";
}

at::Tensor onnx_answer(const formats::OnnxModel& model, const char* key, std::vector<std::int64_t> shape) {
  const std::string& digits = model.metadata.at(key);
  std::string bytes;
  for (std::size_t i = 0; i + 1 < digits.size(); i += 2)
    bytes += static_cast<char>(std::stoi(digits.substr(i, 2), nullptr, 16));
  return at::from_blob(bytes.data(), shape, at::kFloat).clone();
}

double largest(const at::Tensor& a, const at::Tensor& b) {
  EXPECT_EQ(a.sizes(), b.sizes());
  return (a - b).abs().max().item<double>();
}

class OnnxModels : public ::testing::TestWithParam<const char*> {};

// Images and logits are of order 1. The files were exported for other batches.
TEST_P(OnnxModels, AnyExporter_HasPyTorchsLogitsAndGradients) {
  const formats::OnnxModel model = formats::read_onnx(onnx_path(GetParam()));
  const backbones::OnnxModel<> victim(onnx_path(GetParam()));
  EXPECT_EQ(victim.task, (Task{{3, 8, 8}, 5}));
  EXPECT_EQ(victim.probabilities(), std::string(GetParam()) == "legacy");
  const at::Tensor images = onnx_answer(model, "images", {5, 3, 8, 8}).requires_grad_();
  const at::Tensor logits = victim.forward(images);
  EXPECT_LT(largest(logits, onnx_answer(model, "logits", {5, 5})), 1e-5);
  logits.square().sum().backward();
  EXPECT_LT(largest(images.grad(), onnx_answer(model, "gradient", {5, 3, 8, 8})), 1e-4);
  const c10::NoGradGuard no_grad;
  EXPECT_LT(largest(victim.forward(images.narrow(0, 2, 1)), logits.narrow(0, 2, 1)), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Files, OnnxModels,
                         ::testing::Values("residual", "mobile", "attention", "exported", "legacy"),
                         [](const auto& info) { return std::string(info.param); });

/// Returns a model of nodes from "x" (N×3×8×8) to "y".
formats::OnnxModel onnx_of(std::vector<formats::OnnxNode> nodes) {
  formats::OnnxModel model{.ir_version = 8, .opset = 17, .nodes = std::move(nodes)};
  model.inputs = {{.name = "x",
                   .type = formats::ElementType::float32,
                   .has_shape = true,
                   .sizes = {std::nullopt, 3, 8, 8}}};
  model.outputs = {{.name = "y"}};
  return model;
}

std::string refusal(std::vector<formats::OnnxNode> nodes) {
  return error_of([&] { backbones::OnnxModel<>(onnx_of(std::move(nodes)), "victim.onnx"); });
}

TEST(OnnxModel, UnknownUse_ThrowsNamingTheNode) {
  expect_words(refusal({{.name = "n1", .op = "Nothing", .inputs = {"x"}, .outputs = {"y"}}}),
               {"victim.onnx", "'n1' (Nothing)", "translate"});
  expect_words(
      refusal(
          {{.name = "n1", .op = "Relu", .inputs = {"x"}, .outputs = {"y"}, .attributes = {{"alpha", 1.0F}}}}),
      {"'n1' (Relu)", "'alpha'"});
  expect_words(refusal({{.name = "n1",
                         .op = "Softmax",
                         .inputs = {"x"},
                         .outputs = {"y"},
                         .attributes = {{"axis", 1.0F}}}}),
               {"'n1' (Softmax)", "'axis'", "integer"});
  expect_words(refusal({{.name = "n1", .op = "Gemm", .inputs = {"x"}, .outputs = {"y"}}}),
               {"'n1' (Gemm)", "input 1"});
  expect_words(refusal({{.name = "n1", .op = "Reshape", .inputs = {"x", "x"}, .outputs = {"y"}}}),
               {"'n1' (Reshape)", "what the images show"});
  expect_words(refusal({{.name = "n1", .op = "Identity", .inputs = {"x"}, .outputs = {"y"}}}),
               {"victim.onnx", "images×classes"});
}

/// Returns a node that makes a tensor of integers.
formats::OnnxNode integers_node(const std::string& name, std::vector<std::int64_t> numbers) {
  return {.op = "Constant", .outputs = {name}, .attributes = {{"value_ints", std::move(numbers)}}};
}

/// Returns a tensor of numbers.
formats::OnnxTensor floats(std::vector<std::int64_t> sizes, const std::vector<float>& numbers) {
  return {.sizes = std::move(sizes),
          .bytes = {reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(float)}};
}

// They mean something else to ONNX than to LibTorch's operator of that name.
TEST(OnnxModel, OtherMeanings_AreRefused) {
  constexpr std::int64_t to_int64 = 7;
  expect_words(refusal({{.op = "Cast", .inputs = {"x"}, .outputs = {"i"}, .attributes = {{"to", to_int64}}},
                        {.op = "Abs", .inputs = {"i"}, .outputs = {"a"}},
                        {.name = "n1", .op = "Div", .inputs = {"a", "a"}, .outputs = {"y"}}}),
               {"'n1' (Div)", "divides integers"});
  // Behind Flatten they are integers, too.
  expect_words(refusal({{.op = "Cast", .inputs = {"x"}, .outputs = {"i"}, .attributes = {{"to", to_int64}}},
                        {.op = "Flatten", .inputs = {"i"}, .outputs = {"a"}},
                        {.name = "n1", .op = "Div", .inputs = {"a", "a"}, .outputs = {"y"}}}),
               {"'n1' (Div)", "divides integers"});
  const auto transposed = [](const std::string& pad) {
    return std::vector<formats::OnnxNode>{
        {.op = "Slice", .inputs = {"x", "0", "1", "0"}, .outputs = {"w"}},
        {.name = "n1",
         .op = "ConvTranspose",
         .inputs = {"x", "w"},
         .outputs = {"y"},
         .attributes = {{"auto_pad", pad}, {"kernel_shape", std::vector<std::int64_t>{8, 8}}}}};
  };
  auto nodes = transposed("SAME_UPPER");
  nodes.insert(nodes.begin(), {integers_node("0", {0}), integers_node("1", {3})});
  expect_words(refusal(std::move(nodes)), {"'n1' (ConvTranspose)", "SAME_UPPER"});
  const auto pooled = [](std::vector<std::int64_t> pads, std::int64_t ceil) {
    return std::vector<formats::OnnxNode>{{.name = "n1",
                                           .op = "MaxPool",
                                           .inputs = {"x"},
                                           .outputs = {"p"},
                                           .attributes = {{"kernel_shape", std::vector<std::int64_t>{2, 2}},
                                                          {"strides", std::vector<std::int64_t>{2, 2}},
                                                          {"pads", std::move(pads)},
                                                          {"ceil_mode", ceil}}},
                                          {.op = "Flatten", .inputs = {"p"}, .outputs = {"y"}}};
  };
  expect_words(refusal(pooled({0, 0, 1, 1}, 1)), {"'n1' (MaxPool)", "ceil_mode"});
  EXPECT_EQ(refusal(pooled({0, 0, 1, 1}, 0)), "");
  EXPECT_EQ(refusal(pooled({1, 1, 1, 1}, 1)), "");
  const auto resized = [](std::vector<std::int64_t> sizes, const std::string& coordinates) {
    return std::vector<formats::OnnxNode>{
        integers_node("sizes", std::move(sizes)),
        {.name = "n1",
         .op = "Resize",
         .inputs = {"x", "", "", "sizes"},
         .outputs = {"r"},
         .attributes = {{"mode", std::string("linear")}, {"coordinate_transformation_mode", coordinates}}},
        {.op = "Flatten", .inputs = {"r"}, .outputs = {"y"}}};
  };
  expect_words(refusal(resized({1, 3, 1, 1}, "pytorch_half_pixel")), {"'n1' (Resize)", "one pixel"});
  EXPECT_EQ(refusal(resized({1, 3, 4, 4}, "pytorch_half_pixel")), "");
  const auto scaled = [](float scale, const std::string& coordinates) {
    return std::vector<formats::OnnxNode>{
        {.op = "Constant",
         .outputs = {"scales"},
         .attributes = {{"value", floats({4}, {1, 1, 0.5F, scale})}}},
        {.name = "n1",
         .op = "Resize",
         .inputs = {"x", "", "scales"},
         .outputs = {"r"},
         .attributes = {{"mode", std::string("linear")}, {"coordinate_transformation_mode", coordinates}}},
        {.op = "Flatten", .inputs = {"r"}, .outputs = {"y"}}};
  };
  EXPECT_EQ(refusal(scaled(0.25F, "pytorch_half_pixel")), "");
  EXPECT_EQ(refusal(scaled(0.125F, "half_pixel")), "");
  expect_words(refusal(scaled(0.125F, "pytorch_half_pixel")), {"cannot be computed from 0 and 0"});
  const auto open = [](std::int64_t height) {  // sizes N×3×height×3
    return std::vector<formats::OnnxNode>{
        {.op = "Shape", .inputs = {"x"}, .outputs = {"shape"}},
        integers_node("range", {0, 1, 1, 1}),
        {.op = "Gather", .inputs = {"shape", "range"}, .outputs = {"n333"}},
        integers_node("less", {0, 0, 3 - height, 0}),
        {.op = "Sub", .inputs = {"n333", "less"}, .outputs = {"sizes"}},
        {.op = "Resize",
         .inputs = {"x", "", "", "sizes"},
         .outputs = {"r"},
         .attributes = {{"mode", std::string("linear")},
                        {"coordinate_transformation_mode", std::string("pytorch_half_pixel")}}},
        {.op = "Flatten", .inputs = {"r"}, .outputs = {"y"}}};
  };
  EXPECT_EQ(refusal(open(2)), "");
  expect_words(refusal(open(1)), {"cannot be computed from 0 and 0"});
  EXPECT_NE(refusal(resized({1, 6, 4, 4}, "half_pixel")), "") << "the images have three channels";
}

// What the reader permits is translated.
TEST(OnnxModel, PermittedOperators_AreKnown) {
  std::istringstream words{std::string(formats::onnx_operators::permitted)};
  int count = 0;
  for (std::string op; words >> op; ++count) {
    const std::string why = refusal({{.name = "n1", .op = op, .inputs = {"x"}, .outputs = {"y"}}});
    EXPECT_EQ(why.find("does not translate"), std::string::npos) << why;
  }
  EXPECT_GT(count, 70);
}

// Each node doubles the list: thirty of them would need 40 GB.
TEST(OnnxModel, ListOfSizesThatGrows_IsRefused) {
  const auto model = [](int nodes) {
    std::vector<formats::OnnxNode> all = {{.op = "Shape", .inputs = {"x"}, .outputs = {"0"}}};
    for (int i = 0; i < nodes; ++i) {
      const std::string from = std::to_string(i);
      all.push_back({.op = "Concat",
                     .inputs = {from, from},
                     .outputs = {std::to_string(i + 1)},
                     .attributes = {{"axis", std::int64_t{0}}}});
    }
    all.push_back({.op = "Flatten", .inputs = {"x"}, .outputs = {"y"}});
    return onnx_of(std::move(all));
  };
  EXPECT_EQ(backbones::OnnxModel<>(model(4), "a.onnx").task.classes, 192);  // 64 sizes
  expect_words(error_of([&] { backbones::OnnxModel<>(model(5), "a.onnx"); }),
               {"Concat", "list of more than 64 sizes"});
}

// Each name of a weight of 10 MB would be a copy of it.
TEST(OnnxModel, ConstantOfManyNames_IsStoredOnce) {
  std::vector<formats::OnnxNode> nodes = {
      {.op = "Constant", .outputs = {"c"}, .attributes = {{"value", floats({1}, {2})}}}};
  std::string sum = "x";
  for (const char* constant : {"w", "c"}) {
    for (int i = 0; i < 5; ++i) {
      const std::string copy = constant + std::to_string(i), next = "sum of " + copy;
      nodes.push_back({.op = i % 2 == 0 ? "Identity" : "Dropout", .inputs = {constant}, .outputs = {copy}});
      nodes.push_back({.op = "Add", .inputs = {sum, copy}, .outputs = {next}});
      sum = next;
    }
  }
  nodes.push_back({.op = "Flatten", .inputs = {sum}, .outputs = {"y"}});
  formats::OnnxModel model = onnx_of(std::move(nodes));
  model.tensors["w"] = floats({1}, {1});
  const backbones::OnnxModel<> victim(std::move(model), "names.onnx");
  EXPECT_EQ(victim.module->program()->bytes.size(), 2u);
  EXPECT_EQ(victim.module->buffers().size(), 2u);
  const at::Tensor images = at::rand({2, 3, 8, 8});
  EXPECT_LT(largest(victim.forward(images), images.flatten(1) + 15), 1e-5);  // 5·1 + 5·2
}

// One node of many results must not take time that grows with their square: 5,000,000,000 names here.
TEST(OnnxModel, SumOfManyInputs_IsTranslatedInTime) {
  const auto begin = std::chrono::steady_clock::now();
  const auto program = backbones::detail::translate_onnx(
      std::make_shared<const formats::OnnxModel>(
          onnx_of({{.op = "Sum", .inputs = std::vector<std::string>(100'000, "x"), .outputs = {"y"}}})),
      "sum.onnx");
  EXPECT_EQ(program.nodes.size(), 99'999u);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(30));
}

/// A model that computes "n" by `nodes` from "c", the number of channels, and returns x.view(N, n·64).
std::string computed_size(std::vector<formats::OnnxNode> nodes) {
  std::vector<formats::OnnxNode> all = {{.op = "Shape", .inputs = {"x"}, .outputs = {"shape"}},
                                        integers_node("0", {0}),
                                        integers_node("1", {1}),
                                        integers_node("-1", {-1}),
                                        integers_node("64", {64}),
                                        {.op = "Gather", .inputs = {"shape", "0"}, .outputs = {"images"}},
                                        {.op = "Gather", .inputs = {"shape", "1"}, .outputs = {"c"}}};
  all.insert(all.end(), nodes.begin(), nodes.end());
  all.insert(all.end(), {{.op = "Mul", .inputs = {"n", "64"}, .outputs = {"classes"}},
                         {.op = "Concat",
                          .inputs = {"images", "classes"},
                          .outputs = {"target"},
                          .attributes = {{"axis", std::int64_t{0}}}},
                         {.op = "Reshape", .inputs = {"x", "target"}, .outputs = {"y"}}});
  return refusal(std::move(all));
}

// ONNX rounds a quotient of integers towards zero: (3 - 6) / 2 = -1. LibTorch's floordiv rounds it down.
TEST(OnnxModel, QuotientOfNegativeSizes_IsRoundedTowardsZero) {
  const auto quotient = [](std::int64_t minus, std::int64_t divisor, std::int64_t plus) {
    return computed_size({integers_node("minus", {minus}),
                          integers_node("divisor", {divisor}),
                          integers_node("plus", {plus}),
                          {.op = "Sub", .inputs = {"c", "minus"}, .outputs = {"a"}},
                          {.op = "Div", .inputs = {"a", "divisor"}, .outputs = {"b"}},
                          {.op = "Add", .inputs = {"b", "plus"}, .outputs = {"n"}}});
  };
  EXPECT_EQ(quotient(6, 2, 4), "");    // -3 / 2 = -1
  EXPECT_NE(quotient(6, 2, 5), "");    // rounded down: -2
  EXPECT_EQ(quotient(7, 2, 5), "");    // -4 / 2 = -2
  EXPECT_EQ(quotient(6, -2, 2), "");   // -3 / -2 = 1
  EXPECT_EQ(quotient(-4, -2, 6), "");  // 7 / -2 = -3
  EXPECT_EQ(quotient(-4, 2, 0), "");   // 7 / 2 = 3
  expect_words(computed_size({{.op = "Sub", .inputs = {"c", "1"}, .outputs = {"a"}},
                              {.name = "n1", .op = "Div", .inputs = {"64", "a"}, .outputs = {"n"}}}),
               {"'n1' (Div)", "may be negative"});
}

// Mod takes the sign of the divisor: -4 mod 3 = 2.
TEST(OnnxModel, RemainderOfNegativeSize_IsThatOfRoundingDown) {
  EXPECT_EQ(computed_size({integers_node("7", {7}),
                           {.op = "Sub", .inputs = {"c", "7"}, .outputs = {"a"}},
                           integers_node("3", {3}),
                           {.op = "Mod", .inputs = {"a", "3"}, .outputs = {"b"}},
                           {.op = "Add", .inputs = {"b", "1"}, .outputs = {"n"}}}),
            "");
}

// 3 - 4 is -1.
TEST(OnnxModel, ComparedDifferenceOfSizes_IsNotTakenForPositive) {
  const auto compared = [](const char* size) {
    return computed_size({integers_node("4", {4}),
                          integers_node("3", {3}),
                          {.op = "Sub", .inputs = {"c", "4"}, .outputs = {"difference"}},
                          {.name = "n1", .op = "Equal", .inputs = {size, "-1"}, .outputs = {"equal"}},
                          {.op = "Where", .inputs = {"equal", "1", "3"}, .outputs = {"n"}}});
  };
  EXPECT_EQ(compared("c"), "");
  expect_words(compared("difference"), {"'n1' (Equal)", "compares sizes"});
}

// 200 + 100 is 44 in a byte.
TEST(OnnxModel, SmallIntegers_OverflowInTheirType) {
  const formats::OnnxTensor a{.type = formats::ElementType::uint8, .sizes = {1}, .bytes = "\xC8"},
      b{.type = formats::ElementType::uint8, .sizes = {1}, .bytes = "\x64"};
  constexpr std::int64_t to_float = 1;
  const backbones::OnnxModel<> victim(
      onnx_of({{.op = "Constant", .outputs = {"a"}, .attributes = {{"value", a}}},
               {.op = "Constant", .outputs = {"b"}, .attributes = {{"value", b}}},
               {.op = "Add", .inputs = {"a", "b"}, .outputs = {"i"}},
               {.op = "Cast", .inputs = {"i"}, .outputs = {"f"}, .attributes = {{"to", to_float}}},
               {.op = "Flatten", .inputs = {"x"}, .outputs = {"v"}},
               {.op = "Add", .inputs = {"v", "f"}, .outputs = {"y"}}}),
      "bytes.onnx");
  const at::Tensor images = at::zeros({1, 3, 8, 8});
  EXPECT_EQ(victim.forward(images).max().item<double>(), 44);
}

// Computes sizes, as exporters do for `x.view(x.size(0), -1)`.
TEST(OnnxModel, ComputedSizes_AreFollowed) {
  const auto constant = [](const char* name, std::vector<std::int64_t> values) {
    return formats::OnnxNode{.op = "Constant", .outputs = {name}, .attributes = {{"value_ints", values}}};
  };
  const backbones::OnnxModel<> victim(
      onnx_of({{.op = "Shape", .inputs = {"x"}, .outputs = {"shape"}},
               constant("zero", {0}),
               constant("one", {1}),
               constant("rest", {-1}),
               {.op = "Slice", .inputs = {"shape", "zero", "one"}, .outputs = {"first"}},
               {.op = "Mul", .inputs = {"first", "one"}, .outputs = {"once"}},
               constant("seven", {7}),
               constant("four", {4}),
               constant("three", {3}),
               {.op = "Mod", .inputs = {"seven", "four"}, .outputs = {"rest of seven"}},
               {.op = "Sub", .inputs = {"rest of seven", "three"}, .outputs = {"nothing"}},
               {.op = "Mod", .inputs = {"once", "one"}, .outputs = {"nothing, too"}},
               {.op = "Add", .inputs = {"once", "nothing"}, .outputs = {"still"}},
               {.op = "Add", .inputs = {"still", "nothing, too"}, .outputs = {"n"}},
               {.op = "Concat",
                .inputs = {"n", "rest"},
                .outputs = {"target"},
                .attributes = {{"axis", std::int64_t{0}}}},
               {.op = "Reshape", .inputs = {"x", "target"}, .outputs = {"y"}}}),
      "sizes.onnx");
  EXPECT_EQ(victim.task.classes, 192);
}

}  // namespace
}  // namespace refine
