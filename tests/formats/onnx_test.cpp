// Reads and writes ONNX files. Hostile files are those of tests/fixtures/make_onnx_files.py.

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

#include <refine/core/file.hpp>
#include <refine/formats/detail/protobuf.hpp>
#include <refine/formats/onnx.hpp>

#include "tests/support/error_of.hpp"
#include "tests/support/scratch_folder.hpp"
#include "tests/support/sparse_bytes.hpp"

namespace refine::formats {
namespace {

using testing::error_of;
using testing::expect_words;
using testing::ScratchFolder;
using testing::SparseBytes;

std::string onnx_fixture(const std::string& name) {
  return "tests/fixtures/onnx/" + name + ".onnx";
}

struct HostileOnnx {
  const char* kind;
  const char* word;
  const char* subject;
};

void PrintTo(const HostileOnnx& each, std::ostream* out) {
  *out << each.kind;
}

class HostileOnnxFiles : public ::testing::TestWithParam<HostileOnnx> {};

TEST_P(HostileOnnxFiles, AnyKind_IsRefusedByName) {
  const std::string name = "hostile_" + std::string(GetParam().kind);
  expect_words(error_of([&] { read_onnx(onnx_fixture(name)); }),
               {name + ".onnx", GetParam().word, GetParam().subject});
}

INSTANTIATE_TEST_SUITE_P(Kinds, HostileOnnxFiles,
                         ::testing::Values(HostileOnnx{"external_data", "external data", "'head.weight'"},
                                           HostileOnnx{"external_attribute", "external data", "(Constant)"},
                                           HostileOnnx{"custom_domain", "another library",
                                                       "com.example.Conv"},
                                           HostileOnnx{"control_flow", "control flow", "Loop"},
                                           HostileOnnx{"two_contents", "twice", "'head.weight'"},
                                           HostileOnnx{"function", "redefine", "functions"},
                                           HostileOnnx{"defined_twice", "twice", "'/Relu_output_0'"},
                                           HostileOnnx{"two_tensors", "twice", "'head.weight'"},
                                           HostileOnnx{"two_graphs", "twice", "field 7"},
                                           HostileOnnx{"size", "640 bytes", "'head.weight'"},
                                           HostileOnnx{"overflow", "out of range", "extent"},
                                           HostileOnnx{"negative_size", "out of range", "extent"},
                                           HostileOnnx{"sparse", "sparse", "tensors"},
                                           HostileOnnx{"training", "training", "information"},
                                           HostileOnnx{"two_values", "several values", "'dilations'"}),
                         [](const auto& info) { return std::string(info.param.kind); });

TEST(ReadOnnx, ExportersFile_HasNodesTensorsAndShapes) {
  const OnnxModel model = read_onnx(onnx_fixture("residual"));
  EXPECT_TRUE(is_onnx_file(onnx_fixture("residual")));
  EXPECT_EQ(model.opset, 17);
  EXPECT_EQ(model.producer, "pytorch");
  ASSERT_EQ(model.inputs.size(), 1u);
  EXPECT_EQ(model.inputs[0].name, "input");
  EXPECT_EQ(model.inputs[0].sizes, (std::vector<std::optional<std::int64_t>>{std::nullopt, 3, 8, 8}));
  EXPECT_EQ(model.nodes[0].op, "Conv");
  EXPECT_EQ(std::get<std::vector<std::int64_t>>(model.nodes[0].attributes.at("pads")),
            (std::vector<std::int64_t>{1, 1, 1, 1}));
  EXPECT_EQ(model.tensors.at("head.weight").sizes, (std::vector<std::int64_t>{5, 32}));
  // Numbers of typed fields have the bytes of raw data.
  const OnnxModel legacy = read_onnx(onnx_fixture("legacy"));
  EXPECT_EQ(legacy.tensors.at("head").bytes.size(), 4u * 5 * 4);
  EXPECT_EQ(std::get<OnnxTensor>(legacy.nodes[4].attributes.at("value")).integers(),
            (std::vector<std::int64_t>{2, 3}));
}

TEST(WriteOnnx, ReadAgain_IsTheSame) {
  const float numbers[] = {1, -2, 0.5F};
  const std::string_view bytes(reinterpret_cast<const char*>(numbers), sizeof numbers);
  const OnnxNode node{.name = "n",
                      .op = "Mul",
                      .inputs = {"images", "w", ""},
                      .outputs = {"logits"},
                      .attributes = {{"real", 0.25F},
                                     {"integer", std::int64_t{-3}},
                                     {"text", std::string("words")},
                                     {"integers", std::vector<std::int64_t>{1, -1, INT64_MIN}},
                                     {"reals", std::vector<float>{1.5F}},
                                     {"empty", std::vector<std::int64_t>{}},
                                     {"tensor", OnnxTensor{.sizes = {3}, .bytes = std::string(bytes)}}}};
  const WritableOnnx content{
      .ir_version = 8,
      .opset = 17,
      .inputs =
          {{.name = "images", .type = ElementType::float32, .has_shape = true, .sizes = {std::nullopt, 3}}},
      .nodes = {node},
      .outputs =
          {{.name = "logits", .type = ElementType::float32, .has_shape = true, .sizes = {std::nullopt, 3}}},
      .tensors = {{"w", {.sizes = {3}, .bytes = bytes}}},
      .metadata = {{"refine.json", "{}"}}};
  const ScratchFolder folder;
  write_onnx(folder.path / "a.onnx", content);
  const OnnxModel read = read_onnx(folder.path / "a.onnx");
  EXPECT_EQ(read.opset, 17);
  EXPECT_EQ(read.producer, "refine");
  EXPECT_EQ(read.metadata, content.metadata);
  EXPECT_EQ(read.inputs[0].sizes, content.inputs[0].sizes);
  EXPECT_EQ(read.tensors.at("w").bytes, bytes);
  ASSERT_EQ(read.nodes.size(), 1u);
  EXPECT_EQ(read.nodes[0].inputs, node.inputs);
  EXPECT_EQ(std::get<float>(read.nodes[0].attributes.at("real")), 0.25F);
  EXPECT_EQ(std::get<std::int64_t>(read.nodes[0].attributes.at("integer")), -3);
  EXPECT_EQ(std::get<std::string>(read.nodes[0].attributes.at("text")), "words");
  EXPECT_EQ(std::get<std::vector<std::int64_t>>(read.nodes[0].attributes.at("integers")),
            (std::vector<std::int64_t>{1, -1, INT64_MIN}));
  EXPECT_TRUE(std::get<std::vector<std::int64_t>>(read.nodes[0].attributes.at("empty")).empty());
  EXPECT_EQ(std::get<OnnxTensor>(read.nodes[0].attributes.at("tensor")).reals(),
            (std::vector<double>{1, -2, 0.5}));
  // A node as it was read is written unchanged; with other names, only these change.
  EXPECT_EQ(renamed_onnx_node(
                read.nodes[0].encoded, [](const std::string& name) { return name; }, ""),
            read.nodes[0].encoded);
  const std::string other = renamed_onnx_node(
      read.nodes[0].encoded, [](const std::string& name) { return name + "2"; }, "m");
  EXPECT_NE(other.find("images2"), std::string::npos);
  EXPECT_NE(other.find("words"), std::string::npos);
}

TEST(WriteOnnx, MoreThan2GB_ThrowsBeforeWriting) {
  const ScratchFolder folder;
  const char byte = 0;
  const std::string_view large(&byte, std::size_t{3} << 30);  // its bytes are not read
  const WritableOnnx content{
      .ir_version = 8, .opset = 17, .tensors = {{"w", {.sizes = {3 << 28}, .bytes = large}}}};
  expect_words(error_of([&] { write_onnx(folder.path / "large.onnx", content); }),
               {"large.onnx", "2 GB", ".pt2"});
  EXPECT_FALSE(std::filesystem::exists(folder.path / "large.onnx"));
}

/// Returns a model with this graph.
std::string onnx_with(const std::string& graph) {
  detail::protobuf::Writer opset, model;
  opset.integer(2, 17);
  model.integer(detail::onnx::model_field::ir_version, 8);
  model.bytes(detail::onnx::model_field::opset_import, opset.message());
  model.bytes(detail::onnx::model_field::graph, graph);
  return model.message();
}

TEST(InspectOnnx, AtEachLimit_AcceptsAndOneBeyondThrows) {
  using detail::protobuf::Writer;
  namespace fields = detail::onnx::graph_field;
  const auto error = [](std::string_view bytes) { return error_of([&] { inspect_onnx(bytes, "x.onnx"); }); };
  constexpr std::size_t file = (std::size_t{1} << 31) - 1;
  expect_words(error(SparseBytes("", file).view()), {"a field without a valid number"});
  expect_words(error(SparseBytes("", file + 1).view()),
               {"x.onnx: it has 2147483648 bytes, more than the 2147483647 that an ONNX file may have"});
  const ScratchFolder folder;
  const auto sparse = folder.write("a.onnx", "");
  std::filesystem::resize_file(sparse, file + 1);
  expect_words(error_of([&] { read_onnx(sparse); }), {"it has 2147483648 bytes"});

  const auto of_dimensions = [&](int n) {
    Writer tensor, graph;
    for (int i = 0; i < n; ++i) tensor.integer(1, 1);
    tensor.integer(2, 1);
    tensor.bytes(8, "w");
    tensor.bytes(9, "abcd");
    graph.bytes(fields::initializer, tensor.message());
    return error(onnx_with(graph.message()));
  };
  EXPECT_EQ(of_dimensions(16), "");
  expect_words(of_dimensions(17), {"its tensor 'w' has 17 dimensions, more than the 16 allowed"});
}

TEST(InspectOnnx, OtherVersion_ThrowsWithTheConversion) {
  const ScratchFolder folder;
  write_onnx(folder.path / "old.onnx", {.ir_version = 4, .opset = 9});
  expect_words(error_of([&] { read_onnx(folder.path / "old.onnx"); }),
               {"opset 9", "13 to 20", "convert_version"});
  expect_words(error_of([&] { inspect_onnx("", "empty.onnx"); }), {"empty.onnx", "no graph"});
}

TEST(ProtobufReader, InvalidBytes_Throw) {
  using detail::protobuf::Malformed;
  using detail::protobuf::Reader;
  using namespace std::string_view_literals;
  for (const std::string_view bytes :
       {"\x08"sv, "\x08\x80"sv,
        "\x0a\x05"
        "abc"sv,
        "\x00"sv, "\x0b"sv, "\x0f"sv, "\x09\x01\x02"sv, "\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02"sv,
        "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"sv}) {
    EXPECT_THROW(Reader(bytes).next(), Malformed) << bytes.size();
  }
  const auto field = Reader("\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"sv).next();
  ASSERT_TRUE(field);
  EXPECT_EQ(static_cast<std::int64_t>(field->value), -1);
}

}  // namespace
}  // namespace refine::formats
