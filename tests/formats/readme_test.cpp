// The snippets of refine/formats/README.md.

#include <gtest/gtest.h>
#include <refine/formats/checkpoint.hpp>
#include <refine/formats/exported_program.hpp>
#include <refine/formats/onnx.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <set>
#include <string>

namespace formats_readme {

using namespace refine;

namespace {

std::int64_t parameters(const std::filesystem::path& checkpoint) {
  std::int64_t n = 0;
  for (const auto& [name, tensor] : formats::read_weights(checkpoint).tensors) n += tensor.numel();
  return n;
}

std::int64_t epoch(const std::filesystem::path& checkpoint) {
  const formats::Value file = formats::read_torch_file(checkpoint);
  const formats::Value* found = file.find("epoch");  // null if there is no such key
  return found && found->as_integer() ? *found->as_integer() : 0;
}

std::set<std::string> operators(const std::filesystem::path& file) {
  return formats::inspect_exported_program(formats::read_archive(file), file).operators;
}

std::ptrdiff_t calls_of(const std::string& op, const std::filesystem::path& file) {
  const auto nodes = formats::read_onnx(file).nodes;
  return std::ranges::count(nodes, op, &formats::OnnxNode::op);
}

TEST(FormatsReadme, CallsOfAnOnnxModel_AreCounted) {
  EXPECT_EQ(calls_of("MaxPool", "tests/fixtures/onnx/residual.onnx"), 1);
  EXPECT_EQ(calls_of("LSTM", "tests/fixtures/onnx/residual.onnx"), 0);
}

TEST(FormatsReadme, Operators_AreListed) {
  EXPECT_EQ(operators("tests/fixtures/exported/linear.pt2"),
            (std::set<std::string>{"aten::linear.default", "aten::mean.dim"}));
}

TEST(FormatsReadme, Parameters_AreCounted) {
  // A 1×1 convolution of 2 channels with bias, and BatchNorm (weight, bias, mean, variance, count).
  EXPECT_EQ(parameters("tests/fixtures/checkpoint.pth"), 2 + 2 + 4 * 2 + 1);
}

TEST(FormatsReadme, Epoch_IsFound) {
  EXPECT_EQ(epoch("tests/fixtures/checkpoint.pth"), 90);
  EXPECT_EQ(epoch("tests/fixtures/state_dict.pth"), 0);
}

}  // namespace

}  // namespace formats_readme
