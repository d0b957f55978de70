// Programs of torch.export (tests/fixtures/make_exported_program_files.py): what is read, and what is
// refused.

#include <caffe2/serialize/inline_container.h>
#include <gtest/gtest.h>

#include <fmt/core.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <string>
#include <vector>

#include <refine/formats/checkpoint.hpp>
#include <refine/formats/exported_program.hpp>
#include <refine/formats/inspect.hpp>

#include "tests/support/error_of.hpp"
#include "tests/support/scratch_folder.hpp"

namespace refine::formats {
namespace {

using nlohmann::json;
using refine::testing::content;
using refine::testing::error_of;
using refine::testing::expect_words;
using refine::testing::ScratchFolder;

std::string fixture(const std::string& name) {
  return "tests/fixtures/exported/" + name + ".pt2";
}

/// Returns the archive of linear.pt2 with a change of its program and of its list of weights.
template <typename Change>
Archive changed(const Change& change) {
  Archive archive = read_archive(fixture("linear"));
  std::string& program = archive.entries.at("models/model.json");
  std::string& weights = archive.entries.at("data/weights/model_weights_config.json");
  json document = json::parse(program), config = json::parse(weights);
  change(archive, document, config["config"]);
  program = document.dump();
  weights = config.dump();
  return archive;
}

json& graph_of(json& document) {
  return document["graph_module"]["graph"];
}

/// Returns the first objection to a changed file, or why it is malformed.
template <typename Change>
std::string objection_to(const Change& change) {
  std::string text;
  const std::string error = error_of([&] {
    const auto listing = inspect_exported_program(changed(change));
    if (!listing.objections.empty()) text = listing.objections.front().text;
  });
  return text.empty() ? error : text;
}

TEST(ReadExportedProgram, PythonFile_GivesNodesShapesAndTensors) {
  const ExportedProgram program = read_exported_program(fixture("linear"));
  EXPECT_EQ(program.torch_version.substr(0, 2), "2.");
  EXPECT_EQ(program.schema.first, 8);
  ASSERT_EQ(program.nodes.size(), 2u);
  EXPECT_EQ(program.nodes[0].target, "aten::mean.dim");
  EXPECT_EQ(program.nodes[1].target, "aten::linear.default");
  ASSERT_EQ(program.nodes[1].inputs.size(), 3u);
  EXPECT_EQ(program.nodes[1].inputs[0].second, GraphArgument(ValueName{"mean"}));
  const StoredTensor& weight = program.tensors.at("head.weight");
  EXPECT_EQ(weight.type, ElementType::float32);
  EXPECT_EQ(weight.sizes, (std::vector<std::int64_t>{5, 3}));
  EXPECT_EQ(weight.strides, (std::vector<std::int64_t>{3, 1}));
  EXPECT_TRUE(weight.is_parameter);
  EXPECT_EQ(program.bytes.at(weight.entry).size(), 60u);
  ASSERT_EQ(program.inputs.size(), 3u);
  const GraphShape& images = program.shapes.at(program.inputs[2].name);
  EXPECT_EQ(images.sizes, (std::vector<std::optional<std::int64_t>>{std::nullopt, 3, 8, 8}));
  EXPECT_EQ(images.example, (std::vector<std::int64_t>{3, 3, 8, 8}));
  ASSERT_EQ(program.outputs.size(), 1u);
  EXPECT_EQ(program.outputs[0].value, "linear");
  EXPECT_EQ(program.extra.at("images").size(), 8u * 5 * 3 * 8 * 8);
}

TEST(ReadExportedProgram, DictOfOutputs_HasItsKeys) {
  const ExportedProgram program = read_exported_program(fixture("several"));
  std::vector<std::string> names;
  for (const GraphOutput& output : program.outputs) names.push_back(output.name);
  EXPECT_EQ(names, (std::vector<std::string>{"features", "logits", "aux", "nothing"}));
  EXPECT_TRUE(program.outputs[3].value.empty());
}

class AcceptedProgram : public ::testing::TestWithParam<const char*> {};

TEST_P(AcceptedProgram, HarmlessFile_HasNoObjection) {
  const auto listing = inspect_exported_program(read_archive(fixture(GetParam())));
  EXPECT_TRUE(listing.objections.empty()) << listing.objections.front().text;
  EXPECT_FALSE(listing.operators.empty());
}

INSTANTIATE_TEST_SUITE_P(Files, AcceptedProgram,
                         ::testing::Values("mixed", "fixed", "fixed_any", "decomposed", "in_place", "several",
                                           "half", "no_grad", "probabilities", "resizable", "linear",
                                           "masked"));

struct Hostile {
  const char* name;
  std::vector<std::string_view> words;
};

void PrintTo(const Hostile& hostile, std::ostream* out) {
  *out << hostile.name;
}

class HostileProgram : public ::testing::TestWithParam<Hostile> {};

/// Returns the names of the files in the current folder that a hostile program would create.
std::set<std::string> markers() {
  std::set<std::string> found;
  for (const auto& entry : std::filesystem::directory_iterator(".")) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("ran_")) found.insert(name);
  }
  return found;
}

TEST_P(HostileProgram, CodeForPython_IsRefusedByName) {
  const auto& [name, words] = GetParam();
  const std::string path = fixture(std::string("hostile_") + name);
  const auto listing = inspect_exported_program(read_archive(path));
  EXPECT_TRUE(listing.has(Objection::Kind::harmful));
  const std::string line = error_of([&] { read_exported_program(path); });
  expect_words(line, {path, "--trust"});
  for (const std::string_view word : words) expect_words(line, {word});
  EXPECT_EQ(markers(), std::set<std::string>());
}

INSTANTIATE_TEST_SUITE_P(Files, HostileProgram,
                         ::testing::Values(Hostile{"sample_inputs",
                                                   {"sample inputs", "data/sample_inputs/model.pt", "open"}},
                                           Hostile{"sample_inputs_legacy", {"sample inputs", "open"}},
                                           Hostile{"weight", {"'head.weight'", "use_pickle", "weight_9"}},
                                           Hostile{"constant", {"'more'", "use_pickle", "tensor_9"}},
                                           Hostile{"opaque", {"'more'", "an object", "opaque_obj_0"}},
                                           Hostile{"expression", {"expr_str", "__import__"}},
                                           Hostile{"target", {"torch.os.system", "function of Python"}},
                                           Hostile{"guard", {"guards_code", "__import__"}},
                                           Hostile{"second_program", {"expr_str", "ran_second_program"}}),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(InspectExportedProgram, ChangedFile_IsRefusedByName) {
  using Objects = const std::function<void(Archive&, json&, json&)>;
  const auto node = [](const char* target) {
    return Objects(
        [target](Archive&, json& document, json&) { graph_of(document)["nodes"][0]["target"] = target; });
  };
  const auto argument = [](json argument) {
    return Objects([argument](Archive&, json& document, json&) {
      graph_of(document)["nodes"][0]["inputs"].push_back({{"name", "x"}, {"arg", argument}});
    });
  };
  const auto entry = [](const char* name) {
    return Objects([name](Archive& archive, json&, json&) { archive.entries[name] = "bytes"; });
  };
  expect_words(objection_to(node("torch.ops.aten.save.default")), {"aten::save", "files"});
  expect_words(objection_to(node("torch.ops.aten.as_strided.default")), {"as_strided", "memory"});
  expect_words(objection_to(node("torch.ops.torchvision.nms.default")),
               {"torchvision::nms", "another library"});
  expect_words(objection_to(node("torch.ops.quantized_decomposed.quantize_per_tensor.default")),
               {"quantised"});
  expect_words(objection_to(node("torch.ops.aten.of_the_future.default")),
               {"of_the_future", "does not know"});
  expect_words(objection_to(node("torch.ops.higher_order.cond")), {"control flow"});
  expect_words(objection_to(node("_operator.pow")), {"_operator.pow"});
  expect_words(objection_to(node("builtins.eval")), {"builtins.eval", "function of Python"});
  expect_words(objection_to(argument({{"as_custom_obj", {{"name", "o"}}}})), {"as_custom_obj"});
  expect_words(objection_to(argument({{"as_of_the_future", 1}})), {"as_of_the_future"});
  expect_words(objection_to(argument({{"as_complex", {{"real", 1}, {"imag", 1}}}})), {"as_complex"});
  expect_words(objection_to(entry("data/aotinductor/model/model.so")), {"model.so", "AOTInductor"});
  expect_words(objection_to(entry("data/weights/other.so")), {"other.so", "code"});
  expect_words(objection_to(entry("data/weights/model.pt")), {"model.pt", "2.8 and older"});
  expect_words(objection_to(entry("data/constants/custom_obj_0")), {"custom_obj_0", "pickled object"});
  expect_words(objection_to(entry("data/executorch/model.pte")), {"ExecuTorch"});
  expect_words(objection_to([](Archive&, json& document, json&) {
                 graph_of(document)["custom_obj_values"]["o"] = {{"name", "o"}, {"class_fqn", "C"}};
               }),
               {"custom_obj_values"});
  expect_words(objection_to([](Archive&, json& document, json&) {
                 document["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] =
                     R"([1, {"type": "__enum__", "fqn": "os:x"}])";
               }),
               {"enumeration"});
  expect_words(objection_to([](Archive& archive, json&, json&) {
                 archive.entries["data/more.pkl"] = "cos\nsystem\n.";
               }),
               {"data/more.pkl", "os.system"});
  // The kinds that have no form here.
  expect_words(objection_to([](Archive&, json& document, json&) { document["schema_version"]["major"] = 9; }),
               {"schema", "9.", "8"});
  const auto meta = [](const char* key, json value) {
    return Objects(
        [key, value](Archive&, json&, json& weights) { weights["head.weight"]["tensor_meta"][key] = value; });
  };
  const auto sizes = [](std::initializer_list<std::int64_t> numbers) {
    json list = json::array();
    for (const std::int64_t n : numbers) list.push_back({{"as_int", n}});
    return list;
  };
  expect_words(objection_to(meta("dtype", 29)), {"head.weight", "8-bit"});
  expect_words(objection_to(meta("dtype", 10)), {"complex"});
  expect_words(objection_to(meta("layout", 1)), {"sparse"});
  expect_words(objection_to(meta("dtype", 99)), {"unknown dtype"});
  expect_words(objection_to(meta("sizes", sizes({5, 4}))), {"head.weight", "60 bytes"});
  expect_words(objection_to(meta("sizes", sizes({5, -3}))), {"negative"});
  expect_words(objection_to(meta("sizes", sizes({std::int64_t{1} << 62, std::int64_t{1} << 62}))),
               {"60 bytes"});
  constexpr std::int64_t huge = std::int64_t{1} << 62;  // the product overflows wherever the 0 stands
  for (const json& extents : {sizes({0, huge, huge}), sizes({huge, huge, 0})}) {
    expect_words(objection_to([&](Archive&, json&, json& weights) {
                   auto& tensor = weights["head.weight"]["tensor_meta"];
                   tensor["sizes"] = tensor["strides"] = extents;
                 }),
                 {"60 bytes"});
  }
  expect_words(objection_to(meta("dtype", 12)), {"head.weight", "other than 0 and 1"});
  expect_words(objection_to(meta("strides", sizes({std::int64_t{1} << 62, 1}))), {"60 bytes"});
  expect_words(objection_to(meta("storage_offset", json{{"as_int", 1}})), {"60 bytes"});
  expect_words(objection_to(meta("storage_offset", json{{"as_int", std::int64_t{1} << 62}})), {"60 bytes"});
  expect_words(objection_to([&](Archive&, json&, json& weights) {  // one number, repeated
                 auto& tensor = weights["head.weight"]["tensor_meta"];
                 tensor["sizes"] = sizes({1 << 20, 1 << 20});
                 tensor["strides"] = sizes({0, 0});
               }),
               {"head.weight", "far more memory"});
}

TEST(InspectExportedProgram, MalformedGraph_Throws) {
  const auto error = [](const auto& change) {
    return error_of([&] { inspect_exported_program(changed(change)); });
  };
  expect_words(error([](Archive& archive, json&, json&) { archive.entries.erase("data/weights/weight_0"); }),
               {"weight_0", "missing"});
  expect_words(error([](Archive&, json& document, json&) {
                 graph_of(document)["nodes"][0]["inputs"][0]["arg"]["as_tensor"]["name"] = "linear";
               }),
               {"'linear'", "before it is defined"});
  expect_words(error([](Archive&, json& document, json&) {
                 graph_of(document)["nodes"][1]["outputs"][0]["as_tensor"]["name"] = "mean";
               }),
               {"'mean'", "twice"});
  expect_words(error([](Archive&, json& document, json&) { document.erase("graph_module"); }),
               {"graph_module", "missing"});
  expect_words(error([](Archive&, json& document, json&) {
                 graph_of(document)["nodes"][0]["inputs"][0]["arg"] = {{"as_int", 1}, {"as_none", true}};
               }),
               {"one key"});
  Archive archive = read_archive(fixture("linear"));
  archive.entries["models/model.json"] = R"({"schema_version": {"major": 8, "major": 8}})";
  expect_words(error_of([&] { inspect_exported_program(archive); }), {"'major'", "twice"});
  archive.entries["models/model.json"] = "{";
  expect_words(error_of([&] { inspect_exported_program(archive, "x.pt2"); }),
               {"x.pt2", "not a JSON document"});
  archive.entries["models/a.json"] = archive.entries["models/b.json"] = "{}";
  archive.entries.erase("models/model.json");
  expect_words(error_of([&] { inspect_exported_program(archive); }), {"2 programs", "'a'", "'b'"});
}

TEST(InspectExportedProgram, AtEachLimit_AcceptsAndOneBeyondThrows) {
  const auto document = [](std::string text) {
    Archive archive = read_archive(fixture("linear"));
    archive.entries["models/model.json"] = std::move(text);
    return error_of([&] { inspect_exported_program(std::move(archive)); });
  };
  expect_words(document(std::string(std::size_t{128} << 20, 'x')), {"not a JSON document"});
  expect_words(document(std::string((std::size_t{128} << 20) + 1, 'x')),
               {"its JSON documents have 134217729 bytes, more than the 134217728 allowed"});
  const auto nested = [](int levels) { return std::string(levels, '[') + std::string(levels, ']'); };
  expect_words(document(nested(64)), {"'schema_version' is missing"});
  expect_words(document(nested(65)), {"nested more than 64 levels deep"});
  const auto outputs = [&](int levels) {  // a document in a text
    return objection_to([&](Archive&, json& program, json&) {
      program["graph_module"]["module_call_graph"][0]["signature"]["out_spec"] = nested(levels);
    });
  };
  EXPECT_EQ(outputs(64), "");
  expect_words(outputs(65), {"'out_spec' is nested more than 64 levels deep"});

  const auto tensor = [](std::vector<std::int64_t> sizes, std::int64_t stride) {
    return objection_to([&](Archive&, json&, json& weights) {
      auto& meta = weights["head.weight"]["tensor_meta"];
      meta["sizes"] = meta["strides"] = json::array();
      for (const std::int64_t size : sizes) {
        meta["sizes"].push_back({{"as_int", size}});
        meta["strides"].push_back({{"as_int", stride}});
      }
    });
  };
  EXPECT_EQ(tensor(std::vector<std::int64_t>(16, 1), 1), "");
  expect_words(tensor(std::vector<std::int64_t>(17, 1), 1),
               {"'head.weight' has 17 dimensions, more than the 16 allowed"});
  // 64 MiB and 16 times the files of the bias (20 bytes) and the weight (60), less the bias.
  constexpr std::int64_t most = ((64 << 20) + 16 * (20 + 60) - 20) / 4;
  EXPECT_EQ(tensor({most}, 0), "");
  expect_words(tensor({most + 1}, 0),
               {"'head.weight'", "far more memory", "more than the 67110144 bytes allowed"});
}

TEST(InspectExportedProgram, ExpressionsAtTheLimit_AreAcceptedAndLongerOnesRefused) {
  const auto sum = [](int words) {  // of 1
    std::string text = "1";
    for (int i = 2; i < words; i += 2) text += "+1";
    return text;
  };
  using detail::exported::is_plain_expression;
  using detail::exported::is_plain_guard;
  EXPECT_TRUE(is_plain_expression("-" + sum(9'999)));
  EXPECT_FALSE(is_plain_expression(sum(10'001)));
  EXPECT_TRUE(is_plain_guard("-" + sum(9'999)));
  EXPECT_FALSE(is_plain_guard(sum(10'001)));
  expect_words(
      objection_to([&](Archive&, json& document, json&) { document["guards_code"] = {sum(10'001)}; }),
      {"at most 10000 words"});
}

TEST(InspectExportedProgram, PlainExpressionsAndGuards_AreAccepted) {
  using detail::exported::is_plain_expression;
  using detail::exported::is_plain_guard;
  for (const char* text :
       {"s77", "2*s77", "((s0 - 1)//2) + 1", "Symbol('s77', positive=True, integer=True)",
        "Mul(Integer(2), Symbol('s77', positive=True, integer=True))", "-1",
        "FloorDiv(Add(Symbol('u0', integer=True), Integer(-1)), Integer(2))", "Max(1, s3)"}) {
    EXPECT_TRUE(is_plain_expression(text)) << text;
  }
  for (const char* text :
       {"", "open('x')", "__import__('os')", "s77.func", "Symbol('s77').func", "s77(1)", "Symbol(open)",
        "exec('s1')", "Symbol('s77')('x')", "[s77]", "'s77'", "Symbol(\"a b\")", "lambda: 1", "s1; s2",
        "s1 if s2 else s3", "Mul.__class__", "f's1'", "Symbol('s77', evaluate=open)", "os"}) {
    EXPECT_FALSE(is_plain_expression(text)) << text;
  }
  for (const char* text :
       {"L['x'].size()[0] >= 2", "L['args'][0].size()[2] % 2 == 0",
        "(2*L['x'].size()[3]) != (2*torch.sym_max(1, L['x'].size()[2] // 2))",
        "Eq(Mod(L['x'].size()[3], 2), 0)", "not (L['x'].shape[0] == 3 and L['x'].stride()[1] < 4)"}) {
    EXPECT_TRUE(is_plain_guard(text)) << text;
  }
  for (const char* text :
       {"", "open('x')", "__import__('os').system('x')", "L['x'].__class__", "L['x'].size()(1)",
        "L['x'].tofile('y')", "L[open]", "torch.load(1)", "torch", "torch.sym_max.x", "torch.load.size(1)",
        "L.torch.load(1)", "L['x'][0](1)", "print", "L('x')"}) {
    EXPECT_FALSE(is_plain_guard(text)) << text;
  }
}

TEST(ReadExportedProgram, BlindTrust_ReadsWhatIsOnlyForPython) {
  EXPECT_EQ(read_exported_program(fixture("hostile_guard"), Trust::blind).nodes.size(), 2u);
  EXPECT_EQ(read_exported_program(fixture("hostile_sample_inputs"), Trust::blind).nodes.size(), 2u);
  EXPECT_EQ(markers(), std::set<std::string>());
}

TEST(ReadExportedProgram, OtherFile_ThrowsItsKind) {
  expect_words(error_of([] { read_exported_program("tests/fixtures/traced.pt"); }),
               {"traced.pt", "torch.export.save"});
  expect_words(error_of([] { read_weights(fixture("linear")); }),
               {"exported program (.pt2)", "load it as a model"});
}

/// Describes what a file contains, or the line that refuses it.
std::string outcome(const std::filesystem::path& path) {
  std::string text;
  const std::string error = error_of([&] {
    const ExportedProgram program = read_exported_program(path);
    for (const GraphNode& node : program.nodes) {
      text += node.target + "(";
      for (const auto& [name, argument] : node.inputs)
        text += fmt::format("{}:{},", name, describe(argument));
      text += ")";
    }
    for (const auto& [name, tensor] : program.tensors) {
      text += fmt::format("{}{}{}{}", name, element_name(tensor.type), tensor.count(), tensor.offset);
      text += program.bytes.at(tensor.entry);
    }
    for (const auto& [name, bytes] : program.extra) text += name + bytes;
  });
  return error.empty() ? "content " + text : "error " + error;
}

TEST(ReadExportedProgram, DamagedCopy_HasTheSameContentOrThrows) {
  const std::string whole = content(fixture("no_grad"));
  const std::string expected = outcome(fixture("no_grad"));
  ASSERT_TRUE(expected.starts_with("content "));
  const ScratchFolder folder;
  std::mt19937 random(1);
  int refused = 0;
  constexpr int trials = 5'000;
  for (int i = 0; i < 2 * trials; ++i) {
    std::string damaged = whole;
    if (i < trials) {
      const std::size_t at = random() % damaged.size();
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << (random() % 8)));
    } else {
      damaged.resize(random() % damaged.size());
    }
    const std::string found = outcome(folder.write("d.pt2", damaged));
    EXPECT_TRUE(found == expected || found.starts_with("error ")) << i << found.substr(0, 200);
    refused += found.starts_with("error ") ? 1 : 0;
  }
  EXPECT_GT(refused, trials);
}

/// The checksums of the archive catch most flips, so here the documents themselves are damaged.
TEST(InspectExportedProgram, DamagedDocument_IsReadOrThrows) {
  const Archive whole = read_archive(fixture("no_grad"));
  std::mt19937 random(2);
  int refused = 0;
  for (const char* entry :
       {"models/model.json", "data/weights/model_weights_config.json", "data/sample_inputs/model.pt"}) {
    for (int i = 0; i < 40; ++i) {
      Archive damaged = whole;
      std::string& bytes = damaged.entries.at(entry);
      if (i % 3 == 0) {
        bytes.resize(random() % bytes.size());
      } else {
        bytes[random() % bytes.size()] = static_cast<char>(random());
      }
      const std::string error = error_of([&] {
        if (!inspect_exported_program(std::move(damaged)).objections.empty()) ++refused;
      });
      if (!error.empty()) ++refused;
    }
  }
  EXPECT_GT(refused, 40);
}

}  // namespace
}  // namespace refine::formats
