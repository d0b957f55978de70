#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <c10/core/GradMode.h>
#include <caffe2/serialize/inline_container.h>
#include <torch/csrc/jit/api/module.h>

#include <fmt/core.h>
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include <refine/formats/archive.hpp>
#include <refine/formats/detail/operators.hpp>
#include <refine/formats/detail/script_code.hpp>
#include <refine/formats/torchscript_check.hpp>

#include "tests/support/error_of.hpp"
#include "tests/support/scratch_folder.hpp"

namespace refine::formats {
namespace {

namespace fs = std::filesystem;
using refine::testing::error_of;
using refine::testing::expect_words;
using refine::testing::ScratchFolder;

/// Returns the archive of a module with one parameter of 2×3, as LibTorch saves it.
Archive little_archive() {
  torch::jit::Module module(c10::QualifiedName("__torch__.Net"));
  module.register_parameter("weight", at::ones({2, 3}), /*is_buffer=*/false);
  module.define("def forward(self, x: Tensor) -> Tensor:\n  return x * self.weight\n");
  const ScratchFolder folder;
  module.save((folder.path / "m.pt").string(), {{"note.txt", "a note"}});
  return read_archive(folder.path / "m.pt");
}

std::string& source(Archive& archive) {
  return archive.entries.at("code/__torch__.py");
}

constexpr std::string_view signature = "  def forward(self: __torch__.Net,\n    x: Tensor) -> Tensor:\n";

/// Returns that archive with another body of `forward`, and lines before and after the class.
Archive with_code(std::string_view body, std::string_view before = "", std::string_view after = "") {
  Archive archive = little_archive();
  std::string& text = source(archive);
  text.resize(text.find("  def forward"));
  text = fmt::format("{}{}{}{}\n{}", before, text, signature, body, after);
  return archive;
}

void write(const fs::path& path, const Archive& archive) {
  caffe2::serialize::PyTorchStreamWriter writer(path.string());
  for (const auto& [name, bytes] : archive.entries) {
    if (name != ".data/serialization_id") writer.writeRecord(name, bytes.data(), bytes.size());
  }
  writer.writeEndOfFile();
}

std::string refusal(const Archive& archive) {
  const ScratchFolder folder;
  write(folder.path / "m.pt", archive);
  return error_of([&] { load_torchscript(folder.path / "m.pt"); });
}

at::Tensor floats(const std::string& bytes, std::initializer_list<std::int64_t> sizes) {
  return at::from_blob(const_cast<char*>(bytes.data()), sizes, at::kFloat).clone();
}

class LoadTorchScript : public ::testing::TestWithParam<const char*> {};

TEST_P(LoadTorchScript, PythonFile_GivesPythonsLogits) {
  auto file = load_torchscript(GetParam());
  EXPECT_TRUE(file.listing.objections.empty());
  EXPECT_TRUE(file.listing.operators.contains("aten::gelu"));
  EXPECT_FALSE(file.listing.code.empty());
  c10::NoGradGuard no_grad;
  const at::Tensor images = floats(file.listing.extra.at("images"), {2, 3, 8, 8});
  const at::Tensor logits = floats(file.listing.extra.at("logits"), {2, 5});
  EXPECT_LT((file.module.forward({images}).toTensor() - logits).abs().max().item<float>(), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Files, LoadTorchScript,
                         ::testing::Values("tests/fixtures/scripted.pt", "tests/fixtures/traced.pt"));

/// Files of PyTorch with rare operators, and of formats 1 and 2.
class LoadRareTorchScript : public ::testing::TestWithParam<const char*> {};

TEST_P(LoadRareTorchScript, PythonFile_GivesPythonsLogits) {
  auto file = load_torchscript("tests/fixtures/programs/" + std::string(GetParam()) + ".pt");
  EXPECT_TRUE(file.listing.objections.empty());
  c10::NoGradGuard no_grad;
  const at::Tensor images = floats(file.listing.extra.at("images"), {2, 3, 8, 8});
  const at::Tensor answer = file.module.forward({images}).toTensor();
  const at::Tensor logits = floats(file.listing.extra.at("logits"), {2, answer.size(1)});
  EXPECT_LT((answer - logits).abs().max().item<float>(), 1e-4 * std::max(1.0f, logits.abs().max().item<float>()));
}

INSTANTIATE_TEST_SUITE_P(Files, LoadRareTorchScript,
                         ::testing::Values("lift_fresh", "matrix_transpose", "fake_quantize", "complex",
                                           "special", "linear_algebra", "exported", "gated_scripted",
                                           "gated_traced", "version1", "version2"));

class LoadQuantizedTorchScript : public ::testing::TestWithParam<const char*> {};

TEST_P(LoadQuantizedTorchScript, AnyTrust_Throws) {
  const std::string path = "tests/fixtures/programs/quantized_" + std::string(GetParam()) + ".pt";
  EXPECT_TRUE(inspect_torchscript(read_archive(path)).has(Objection::Kind::quantized));
  for (const Trust trust : {Trust::checked, Trust::blind}) {
    expect_words(error_of([&] { load_torchscript(path, trust); }),
                 {path, "quantised", "no gradient passes", "export the float model"});
  }
}

INSTANTIATE_TEST_SUITE_P(Files, LoadQuantizedTorchScript,
                         ::testing::Values("scripted", "traced", "dynamic", "passing", "buffer"));

TEST(LoadTorchScript, Fp8WithAnyTrust_ThrowsItsDtype) {
  for (const Trust trust : {Trust::checked, Trust::blind}) {
    expect_words(error_of([&] { load_torchscript("tests/fixtures/programs/fp8.pt", trust); }),
                 {"8-bit floating-point numbers", "Float8_e4m3fn", "float32"});
  }
}

TEST(InspectTorchScript, HarmlessFile_ListsCodeOperatorsAndClasses) {
  const auto listing = inspect_torchscript(little_archive());
  EXPECT_EQ(listing.classes, std::set<std::string>({"__torch__.Net"}));
  EXPECT_EQ(listing.operators, std::set<std::string>({"aten::mul"}));
  EXPECT_EQ(listing.extra.at("note.txt"), "a note");
  EXPECT_NE(listing.code.at("code/__torch__.py").find("class Net(Module)"), std::string::npos);
  EXPECT_TRUE(listing.objections.empty());
}

TEST(InspectTorchScript, NotTorchScript_Throws) {
  Archive archive = little_archive();
  archive.entries.erase("constants.pkl");
  EXPECT_FALSE(is_torchscript(archive));
  expect_words(error_of([&] { inspect_torchscript(archive); }), {"not a TorchScript file", "weights"});
  expect_words(refusal(archive), {"m.pt", "not a TorchScript file"});
}

/// The body of `forward`, a word that the refusal must have, and lines around the class.
struct Code {
  std::string body, word, before = "", after = "";
};

class HarmlessCode : public ::testing::TestWithParam<Code> {};

TEST_P(HarmlessCode, LoadTorchScript_AcceptsIt) {
  const auto& [body, word, before, after] = GetParam();
  EXPECT_EQ(refusal(with_code(body, before, after)), "") << body;
}

std::string repeated(std::string_view part, std::size_t times) {
  std::string text;
  while (times-- > 0) text += part;
  return text;
}

INSTANTIATE_TEST_SUITE_P(
    Some, HarmlessCode,
    ::testing::Values(Code{"    return torch.add_(torch.relu(x), 1)\n", ""},
                      Code{"    if torch.gt(torch.dim(x), 1):\n      y = x\n    else:\n      y = "
                           "torch.neg(x)\n    return y\n",
                           ""},
                      Code{"    for i in range(3):\n      x = torch.add(x, i)\n    return x\n", ""},
                      Code{"    _0 = __torch__.twice\n    return _0(x, )\n", "", "",
                           "def twice(x: Tensor,\n    by: float=2.) -> Tensor:\n  return torch.mul(x, by)\n"},
                      Code{"    a, b, = (x, [1, 2])\n    return torch.select(a, b[0] - 1, -1)\n", ""},
                      Code{"    y = getattr(self, \"weight\")\n    return y\n", ""},
                      Code{"    y = annotate(Optional[Tensor], None)\n    return x\n", ""},
                      Code{"    return " + repeated("(", 60) + "x" + repeated(")", 60) + "\n", ""},
                      Code{"    y = [" + repeated("-1, ", 5000) + "]\n    return x\n", ""}));

class HarmfulCode : public ::testing::TestWithParam<Code> {};

TEST_P(HarmfulCode, LoadTorchScript_ThrowsItsName) {
  const auto& [body, word, before, after] = GetParam();
  expect_words(refusal(with_code(body, before, after)), {"cannot load", "m.pt", word, "trust"});
}

const std::string return_x = "    return x\n";

INSTANTIATE_TEST_SUITE_P(
    Operators, HarmfulCode,
    ::testing::Values(Code{"    torch.save(x, \"marker\")\n" + return_x, "aten::save (in code/__torch__.py)"},
                      Code{"    return torch.from_file(\"/etc/passwd\", False, 4)\n", "aten::from_file"},
                      Code{"    print(x)\n" + return_x, "prim::print"},
                      Code{"    return ops.custom.op(x)\n", "custom::op"},
                      Code{"    return ops.aten.set_(x, x)\n", "aten::set_"},
                      Code{"    return ops.prim.CreateObject(x)\n", "prim::CreateObject"},
                      Code{"    return ops.quantized.linear(x)\n", "quantized::linear"},
                      Code{"    return torch.resize_(x, [100])\n", "aten::resize_"},
                      Code{"    return torch.as_strided(x, [9], [9])\n", "aten::as_strided"},
                      Code{"    f = fork(__torch__.g, x)\n" + return_x, "fork", "",
                           "def g(x: Tensor) -> Tensor:\n  return x\n"}));

INSTANTIATE_TEST_SUITE_P(
    Detours, HarmfulCode,
    ::testing::Values(
        Code{"    f = torch\n    f.save(x, \"m\")\n" + return_x, "the name torch"},
        Code{"    f = torch.save\n    f(x, \"m\")\n" + return_x, "the name torch.save"},
        Code{"    f = x.save\n    f(x, \"m\")\n" + return_x, "calls f, which may be anything"},
        Code{"    (x).set_(x)\n" + return_x, "aten::set_"},
        Code{"    getattr(torch, \"save\")(x, \"m\")\n" + return_x, "calls the result of an expression"},
        Code{"    f = getattr(x, \"set_\")\n    f(x)\n" + return_x, "calls f"},
        Code{"    torch.autograd.save(x, \"m\")\n" + return_x, "torch.autograd.save"},
        Code{"    __torch__ = x\n" + return_x, "redefines the name __torch__"},
        Code{"    relu = self\n    return relu(x)\n", "calls relu"},
        Code{"    def f(y: Tensor) -> Tensor:\n      return y\n" + return_x, "the statement 'def'"},
        Code{"    y = [torch.save(i, \"m\") for i in x]\n" + return_x, "list comprehension"},
        Code{"    return __torch__.there.is_none(x)\n", "calls __torch__.there.is_none"},
        Code{"    return (x).forward_it()\n", "a method forward_it"},
        Code{"    y = unchecked_cast(__torch__.Net, x)\n" + return_x, "without a check"},
        Code{"    y = unchecked_cast(Tuple[int, int], x)\n" + return_x, "without a check"},
        Code{"    return (unknown(x))\n", "the operator unknown"}));

INSTANTIATE_TEST_SUITE_P(
    WhileLoading, HarmfulCode,
    ::testing::Values(Code{return_x, "__setstate__, which runs", "",
                           "class B(Module):\n  def __setstate__(self: __torch__.B, s: int) -> NoneType:\n   "
                           " return None\n"},
                      Code{return_x, "evaluates a default argument of f", "",
                           "def f(x: int=torch.seed()) -> int:\n  return x\n"},
                      Code{return_x, "class B with a malformed field", "",
                           "class B(Module):\n  a : Final[int] = torch.seed()\n"},
                      Code{return_x, "class B derived from Evil", "", "class B(Evil):\n  pass\n"},
                      Code{return_x, "type __torch__.torch.classes.a.B", "",
                           "class B(Module):\n  a : __torch__.torch.classes.a.B\n"},
                      Code{return_x, "defines __torch__.Net twice", "", "class Net(Module):\n  a : int\n"}));

INSTANTIATE_TEST_SUITE_P(
    Unreadable, HarmfulCode,
    ::testing::Values(
        Code{"    return x +\n", "cannot be parsed"}, Code{"    return \"\n", "cannot be parsed"},
        Code{return_x, "where a class or a function was expected", "", "print(1)\n"},
        Code{"    return " + repeated("(", 100'000) + "x" + repeated(")", 100'000) + "\n", "nested deeper"},
        Code{"    return " + repeated("not ", 100'000) + "x\n", "nested deeper"},
        Code{"    return x" + repeated(".T", 100'000) + "\n", "nested deeper"},
        Code{"    return x" + repeated(" + x", 100'000) + "\n", "nested deeper"},
        Code{"    return x" + repeated("**x", 100'000) + "\n", "nested deeper"},
        Code{"    if x:\n      pass\n" + repeated("    elif x:\n      pass\n", 10'000) + return_x,
             "nested deeper"},
        Code{"    return x)\n", "a closing bracket without an opening one"},
        Code{repeated("#\n", 100'000) + return_x, "consecutive lines without code"},
        Code{repeated("\\\n", 100'000) + return_x, "consecutive lines without code"},
        Code{"    " + repeated("n", 100'000) + " = x\n" + return_x, "a name has 100000 bytes"},
        Code{std::string("    return x\0\n", 14), "a control character"}));

/// Code that names an operator, a word that its refusal must have, and the kind of objection.
struct Named {
  std::string body, why;
  Objection::Kind kind;
};

class ForbiddenOperator : public ::testing::TestWithParam<Named> {};

TEST_P(ForbiddenOperator, LoadTorchScript_ThrowsItsKind) {
  const auto& [body, why, kind] = GetParam();
  const Archive archive = with_code(body + return_x);
  const auto listing = inspect_torchscript(archive);
  ASSERT_FALSE(listing.objections.empty());
  EXPECT_EQ(listing.objections.front().kind, kind) << listing.objections.front().text;
  const std::string line = refusal(archive);
  expect_words(line, {why, "--trust"});
  EXPECT_EQ(line.find("harmful") == std::string::npos, kind != Objection::Kind::harmful) << line;
}

INSTANTIATE_TEST_SUITE_P(
    Some, ForbiddenOperator,
    ::testing::Values(
        Named{"    y = torch.max_unpool2d(x, x, [2, 2])\n", "which refine does not know",
              Objection::Kind::unknown},
        Named{"    y = ops.aten.an_operator_of_tomorrow(x)\n", "does not know", Objection::Kind::unknown},
        Named{"    y = ops.torchvision.nms(x, x, 0.5)\n", "belongs to another library",
              Objection::Kind::library},
        Named{"    y = torch.dequantize(x)\n", "quantised numbers", Objection::Kind::quantized},
        Named{"    y = ops.quantized.conv2d(x)\n", "quantised numbers", Objection::Kind::quantized},
        Named{"    torch.save(x, \"m\")\n", "writes files", Objection::Kind::harmful},
        Named{"    y = torch.set_(x, x)\n", "memory outside its tensors", Objection::Kind::harmful},
        Named{"    y = torch.as_strided_copy(x, [9], [9])\n", "memory", Objection::Kind::harmful},
        Named{"    y = ops.prim.rpc_sync(x)\n", "not tensor arithmetic", Objection::Kind::harmful},
        Named{"    y = ops.prim.PythonOp(x)\n", "not tensor arithmetic", Objection::Kind::harmful}));

TEST(ForbiddenOperator, HarmfulAndUnknown_ReportsHarmfulFirst) {
  expect_words(
      refusal(with_code("    y = torch.max_unpool2d(x, x, [2, 2])\n    torch.save(x, \"m\")\n" + return_x)),
      {"aten::save", "harmful", "and 1 more"});
}

TEST(ForbiddenOperator, MissingLibraryWithBlindTrust_ThrowsItsName) {
  const ScratchFolder folder;
  write(folder.path / "m.pt", with_code("    y = ops.torchvision.nms(x, x, 0.5)\n" + return_x));
  expect_words(error_of([&] { load_torchscript(folder.path / "m.pt", Trust::blind); }),
               {"torchvision::nms", "another library", "export the model without it"});
}

TEST(Operators, FileOrMemoryAccess_IsNeverPermitted) {
  for (const char* name :
       {"aten::save", "aten::from_file", "aten::set_", "aten::set_data", "aten::resize_", "aten::resize_as_",
        "aten::as_strided", "aten::as_strided_", "aten::_reshape_alias", "aten::empty_strided", "aten::wait",
        "prim::rpc_sync", "prim::PythonOp", "prim::Print", "quantized::linear",
        "aten::quantize_per_tensor"}) {
    EXPECT_FALSE(operators::permits_node(name)) << name;
    EXPECT_NE(operators::classify(name), operators::Kind::harmless) << name;
    EXPECT_NE(operators::classify(name), operators::Kind::unknown) << name;
    EXPECT_FALSE(operators::refusal_reason(name).empty()) << name;
  }
}

TEST(LoadTorchScript, SeveralObjections_CountsThem) {
  expect_words(
      refusal(with_code("    torch.save(x, \"m\")\n    print(x)\n    torch.set_(x, x)\n" + return_x)),
      {"aten::save", "and 2 more"});
}

TEST(LoadTorchScript, HarmfulCode_RunsOnlyWithBlindTrust) {
  const ScratchFolder folder;
  const fs::path marker = folder.path / "marker", path = folder.path / "m.pt";
  write(path, with_code(fmt::format("    torch.save(x, \"{}\")\n", marker.string()) + return_x));
  expect_words(error_of([&] { load_torchscript(path); }), {"aten::save"});
  EXPECT_FALSE(fs::exists(marker));

  TorchScriptFile file = load_torchscript(path, Trust::blind);
  EXPECT_TRUE(file.listing.operators.contains("aten::save"));
  EXPECT_EQ(file.listing.objections.size(), 1u);
  EXPECT_EQ(file.listing.objections.front().kind, Objection::Kind::harmful);
  EXPECT_FALSE(fs::exists(marker));
  file.module.forward({at::ones({2, 3})});
  EXPECT_TRUE(fs::exists(marker));  // the reason of the refusal
}

TEST(ForbiddenNodes, CompiledGraph_AreFound) {
  torch::jit::Module module(c10::QualifiedName("__torch__.Net"));
  module.define(
      "def forward(self, x: Tensor) -> Tensor:\n  if x.dim() > 1:\n    print(x)\n  return x.relu()\n");
  EXPECT_EQ(detail::script::forbidden_nodes(module), std::set<std::string>({"prim::Print"}));
}

TEST(LoadTorchScript, MethodThatRunsDuringLoading_Throws) {
  expect_words(error_of([] { load_torchscript("tests/fixtures/setstate.pt"); }),
               {"setstate.pt", "Remembering.__getstate__", "runs while the file is loaded"});
  EXPECT_NO_THROW(load_torchscript("tests/fixtures/setstate.pt", Trust::blind));
}

// LibTorch compiles by recursion: a function or class, first what it needs.
TEST(LoadTorchScript, ChainAtTheLimit_IsLoadedAndDeeperOneThrows) {
  const auto number = [](std::size_t i) { return std::to_string(i); };
  const auto functions = [&](std::size_t n) {
    std::string text = "def f0(x: Tensor) -> Tensor:\n  return x\n";
    for (std::size_t i = 1; i < n; ++i) {
      text += "def f" + number(i) + "(x: Tensor) -> Tensor:\n  return __torch__.f" + number(i - 1) + "(x)\n";
    }
    return with_code(return_x, "", text);
  };
  const auto classes = [&](std::size_t n) {
    std::string text = "class C0(Module):\n  __parameters__ = []\n";
    for (std::size_t i = 1; i < n; ++i)
      text += "class C" + number(i) + "(Module):\n  a : __torch__.C" + number(i - 1) + "\n";
    return with_code(return_x, "", text);
  };
  const auto methods = [&](std::size_t n) {
    std::string text = "class C(Module):\n  __parameters__ = []\n";
    for (std::size_t i = 0; i < n; ++i) {
      text += "  def m" + number(i) + "(self: __torch__.C, x: Tensor) -> Tensor:\n    return " +
              (i + 1 == n ? "x" : "(self).m" + number(i + 1) + "(x)") + "\n";
    }
    return with_code(return_x, "", text);
  };
  const auto operators = [&](std::size_t n) {  // a + b calls a.__add__(b)
    std::string text = "class C(Module):\n  __parameters__ = []\n";
    for (std::size_t i = 0; i < n; ++i) {
      text += "  def __m" + number(i) + "__(self: __torch__.C, x: Tensor) -> Tensor:\n    return x\n";
    }
    return with_code(return_x, "", text);
  };
  const auto bodies = [&](std::size_t n) {  // the body of each class names the next class
    std::string text = "class C0(Module):\n  __parameters__ = []\n";
    for (std::size_t i = 1; i < n; ++i) {
      text += "class C" + number(i) + "(Module):\n  def m(self: __torch__.C" + number(i) +
              ", x: Tensor) -> Tensor:\n    y = annotate(Optional[__torch__.C" + number(i - 1) +
              "], None)\n    return x\n";
    }
    return with_code(return_x, "", text);
  };
  const auto fields = [&](std::size_t n) {  // methods of two classes call each other through fields
    std::string text[2] = {"class A(Module):\n  other : Optional[__torch__.B]\n",
                           "class B(Module):\n  other : Optional[__torch__.A]\n"};
    for (std::size_t i = 0; i < n; ++i) {
      const std::string self = i % 2 == 0 ? "A" : "B";
      text[i % 2] += "  def m" + number(i) + "(self: __torch__." + self +
                     ", x: Tensor) -> Tensor:\n    return x\n";
    }
    return with_code(return_x, "", text[0] + text[1]);
  };
  // The body of the first function, then 110 others.
  const auto negated = [&](std::size_t n) {
    std::string text = "def f0(x: Tensor) -> Tensor:\n  return " + repeated("-", n) + "x\n";
    for (std::size_t i = 1; i <= 110; ++i) {
      text += "def f" + number(i) + "(x: Tensor) -> Tensor:\n  return __torch__.f" + number(i - 1) + "(x)\n";
    }
    return with_code(return_x, "", text);
  };
  // LibTorch moves what follows a statement that may leave the loop into a branch.
  const auto exits = [&](std::size_t n) {
    return with_code(return_x, "",
                     "def f(x: Tensor, b: bool) -> Tensor:\n  while b:\n" +
                         repeated("    if b:\n      continue\n", n) + "    pass\n  return x\n");
  };
  EXPECT_EQ(refusal(exits(100)), "");
  expect_words(refusal(exits(1'000)), {"levels, more than the 1000 allowed"});
  expect_words(refusal(exits(20'000)), {"levels, more than the 1000 allowed"});
  EXPECT_EQ(refusal(negated(114)), "");  // 6 levels and 114, then 110 times 8
  expect_words(refusal(negated(115)), {"with 1001 levels, more than the 1000 allowed"});
  for (const Archive& archive :
       {functions(20), classes(20), methods(20), operators(20), bodies(20), fields(20)}) {
    EXPECT_EQ(refusal(archive), "") << source(const_cast<Archive&>(archive)).substr(0, 300);
  }
  for (const Archive& archive :
       {functions(20'000), classes(20'000), methods(15'000), operators(500), bodies(10'000), fields(500)}) {
    expect_words(refusal(archive), {"chain of functions and classes", "more than the 1000 allowed"});
  }
}

TEST(DefinitionGraph, ChainsAndCycles_GiveTheirLevels) {
  detail::script::DefinitionGraph graph;
  const auto node = [&](const std::string& name, std::size_t levels) {
    const std::size_t number = graph.find(name);
    graph.add_levels(number, levels);
    return number;
  };
  EXPECT_EQ(graph.deepest_chain(), 0u);
  const std::size_t a = node("a", 2), b = node("b", 3), c = node("c", 5), d = node("d", 7);
  EXPECT_EQ(graph.deepest_chain(), 7u);
  graph.add_need(a, b);
  graph.add_need(a, c);
  EXPECT_EQ(graph.deepest_chain(), 7u);  // 2 + 5
  graph.add_need(c, d);
  EXPECT_EQ(graph.deepest_chain(), 14u);  // 2 + 5 + 7
  graph.add_need(b, b);
  EXPECT_EQ(graph.deepest_chain(), 14u);
  graph.add_need(b, a);  // a and b need each other: 2 + 3, then 5 + 7
  EXPECT_EQ(graph.deepest_chain(), 17u);
  graph.add_need(d, a);  // all
  EXPECT_EQ(graph.deepest_chain(), 17u);
  EXPECT_EQ(graph.find("b"), b);
  const std::size_t e = node("e", 11), f = node("f", 13);
  graph.add_method(e, f);
  EXPECT_EQ(graph.deepest_chain(), 24u);
  graph.add_need(e, a);
  graph.add_need(a, e);  // all, and f as a method of one of them
  EXPECT_EQ(graph.deepest_chain(), 54u);  // 2 + 3 + 5 + 7 + 11 + 13 and f below them
}

TEST(LoadTorchScript, AmbiguousEntryNames_Throws) {
  Archive archive = little_archive();
  archive.entries["code/__TORCH__.py"] = source(archive);
  expect_words(refusal(archive), {"code/__torch__.py", "upper and lower case alone"});
  archive = little_archive();
  archive.entries["code/__torch__.Net.py"] = "class A(Module):\n  a : int\n";
  expect_words(refusal(archive), {"code/__torch__.Net.py", "a dot"});
}

TEST(LoadTorchScript, UnknownVersionOrByteOrder_Throws) {
  for (const char* version : {"", "0", "99", "abc", "-1", "99999999999999999999"}) {
    Archive archive = little_archive();
    for (const char* name : {"version", ".data/version"}) {
      if (archive.entries.contains(name)) archive.entries[name] = version;
    }
    expect_words(refusal(archive), {"version"});
  }
  Archive archive = little_archive();
  archive.entries["byteorder"] = "big";
  expect_words(refusal(archive), {"not little-endian"});
}

/// Returns the archive with the first `from` in data.pkl replaced by `to`.
Archive with_pickle(std::string_view from, std::string_view to) {
  Archive archive = little_archive();
  std::string& bytes = archive.entries.at("data.pkl");
  const std::size_t position = bytes.find(from);
  EXPECT_NE(position, std::string::npos);
  if (position != std::string::npos) bytes.replace(position, from.size(), to);
  return archive;
}

using namespace std::string_literals;
using namespace std::string_view_literals;

TEST(LoadTorchScript, PickleWithForbiddenName_ThrowsIt) {
  const auto net = "c__torch__\nNet\n"sv;
  expect_words(refusal(with_pickle(net, "cposix\nsystem\n")), {"data.pkl", "posix.system"});
  expect_words(refusal(with_pickle(net, "c__torch__.torch.classes.a\nB\n")), {"__torch__.torch.classes.a.B"});
  expect_words(refusal(with_pickle(net, "c__torch__\nOther\n")), {"__torch__.Other"});
  expect_words(refusal(with_pickle("_rebuild_tensor_v2", "_rebuild_qtensor")),
               {"torch._utils._rebuild_qtensor"});
  EXPECT_TRUE(inspect_torchscript(with_pickle(net, "c__torch__.torch.classes.a\nB\n"))
                  .classes.contains("__torch__.torch.classes.a.B"));
}

TEST(LoadTorchScript, PickleClaimsTooMuch_Throws) {
  const auto sizes = "(K\2K\3t"sv;
  // 2^60 rows; 2^60 rows of stride 0; a stride, an offset and a storage beyond the 24 bytes.
  expect_words(refusal(with_pickle(sizes, "(\x8a\x08\0\0\0\0\0\0\0\x10K\3t"sv)), {"1099511627776 elements"});
  expect_words(refusal(with_pickle("(K\2K\3t(K\3K\1t"sv, "(\x8a\x08\0\0\0\0\0\0\0\x10K\3t(K\0K\1t"sv)),
               {"1099511627776 elements"});
  expect_words(refusal(with_pickle("(K\3K\1t"sv, "(K\4K\1t"sv)), {"exceeds its storage"});
  expect_words(refusal(with_pickle("(K\3K\1t"sv, "(J\xff\xff\xff\xffK\1t"sv)), {"negative"});
  expect_words(refusal(with_pickle("K\0(K\2K\3t"sv, "K\1(K\2K\3t"sv)), {"exceeds its storage"});
  expect_words(refusal(with_pickle("K\6t"sv, "K\7t"sv)), {"claims 7 elements in data/0, which has 24 bytes"});
  expect_words(refusal(with_pickle("K\6t"sv, "J\xff\xff\xff\xfft"sv)), {"claims -1 elements"});
  // A memo of 2^32 entries; a string longer than the file.
  expect_words(refusal(with_pickle("q\0"sv, "r\xff\xff\xff\xff"sv)), {"memo"});
  expect_words(refusal(with_pickle("X\6\0\0\0weight"sv, "X\xff\xff\xff\xffweight"sv)), {"is truncated"});
}

TEST(LoadTorchScript, PickleExpandsBeyondLimits_Throws) {
  std::string twice;  // each tuple contains the previous one twice: 2^60 values
  for (int i = 0; i < 60; ++i) twice += fmt::format("q{}(h{}h{}t", char(i), char(i), char(i));
  Archive archive = little_archive();
  archive.entries["constants.pkl"] = "\x80\2)"s + twice + ".";
  expect_words(refusal(archive), {"constants.pkl", "1000000 values"});
  archive.entries["constants.pkl"] = "\x80\2"s + repeated("(", 100'000) + repeated("t", 100'000) + ".";
  expect_words(refusal(archive), {"constants.pkl", "nested deeper than 200 levels"});
}

/// Returns that archive with other constants.
Archive with_constants(const std::string& instructions) {
  Archive archive = little_archive();
  archive.entries["constants.pkl"] = "\x80\2"s + instructions + ".";
  return archive;
}

TEST(InspectTorchScript, AtEachLimit_AcceptsAndOneBeyondObjects) {
  Archive plain = with_code(return_x, "#\n");
  const std::size_t empty = source(plain).size();
  const auto comment = [&](std::size_t size) {
    return with_code(return_x, "#" + std::string(size - empty, 'a') + "\n");
  };
  const auto named = [](std::size_t size) {
    return with_code("    " + std::string(size, 'n') + " = x\n" + return_x);
  };
  const auto lines = [](std::size_t n) { return with_code(repeated("#\n", n) + return_x); };
  const auto sum = [](std::size_t n) { return with_code("    return x" + repeated(" + x", n) + "\n"); };
  const auto text = [](std::size_t size) {  // a pickle of that size
    const auto length = static_cast<std::uint32_t>(size - 10);
    return with_constants("(X"s + std::string(reinterpret_cast<const char*>(&length), sizeof length) +
                          std::string(length, 'a') + "t");
  };
  const auto shared = [](std::size_t n) { return with_constants("(Nq\0"s + repeated("h\0"sv, n - 1) + "t"); };
  const auto values = [](std::size_t n) {  // 999 times a tuple with 999, and n more
    return with_constants("("s + "(" + repeated("N", 999) + "tq\0"s + repeated("h\0"sv, 998) +
                          repeated("N", n) + "t");
  };
  const auto tuples = [](std::size_t n) { return with_constants(repeated("(", n) + "N" + repeated("t", n)); };
  const auto tensor = [](const std::string& sizes, const std::string& strides) {
    return with_pickle("(K\2K\3t(K\3K\1t"sv, "(" + sizes + "t(" + strides + "t");
  };
  const auto ones = [&](std::size_t n) { return tensor(repeated("K\1", n), repeated("K\1", n)); };
  const auto equal = [&](std::int64_t n) {
    return tensor("\x8a\x08"s + std::string(reinterpret_cast<const char*>(&n), sizeof n), "K\0"s);
  };
  constexpr std::size_t source_bytes = 2 << 20, pickle_bytes = 16 << 20;
  constexpr std::int64_t elements = std::int64_t{1} << 40;
  const struct {
    Archive within, beyond;
    std::string_view words, otherwise = "";  ///< otherwise: what refuses the first for another reason
  } cases[] = {
      {comment(source_bytes), comment(source_bytes + 1),
       "its code has 2097153 bytes, more than the 2097152 allowed"},
      {named(1000), named(1001), "a name has 1001 bytes, more than the 1000 allowed"},
      {lines(200), lines(201), "more than 200 consecutive lines without code"},
      {sum(196), sum(197), "nested deeper than 200 levels"},
      {text(pickle_bytes), text(pickle_bytes + 1),
       "constants.pkl has 16777217 bytes, more than the 16777216"},
      {shared(1'000'000), shared(1'000'001), "has more than 1000000 objects on its stack",
       "has more than 1000000 values on all paths"},
      {values(999), values(1000), "has more than 1000000 values on all paths"},
      {tuples(200), tuples(201), "constants.pkl is nested deeper than 200 levels"},
      {ones(64), ones(65), "has a tensor of 65 dimensions, more than the 64 allowed"},
      {equal(elements), equal(elements + 1), "has a tensor of more than 1099511627776 elements"},
  };
  const auto objection = [](const Archive& archive) {
    const auto objections = inspect_torchscript(archive).objections;
    return objections.empty() ? "" : objections.front().text;
  };
  for (const auto& [within, beyond, words, otherwise] : cases) {
    if (otherwise.empty()) {
      EXPECT_EQ(objection(within), "") << words;
    } else {
      expect_words(objection(within), {otherwise});
    }
    expect_words(objection(beyond), {words});
  }
}

TEST(LoadTorchScript, AttributeOfWrongType_Throws) {
  Archive archive = little_archive();
  source(archive).replace(source(archive).find("weight : Tensor"), 15, "weight : __torch__.Net");
  expect_words(refusal(archive),
               {"the attribute weight of __torch__.Net to a value that is not a __torch__.Net"});
  archive = with_code(return_x);
  source(archive).insert(source(archive).find("  weight :"), "  missing : int\n");
  expect_words(refusal(archive), {"does not set the attribute missing of __torch__.Net"});
}

TEST(LoadTorchScript, PickleTruncatedOrChanged_LoadsOrThrows) {
  const Archive whole = little_archive();
  const std::string& bytes = whole.entries.at("data.pkl");
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    Archive archive = whole;
    archive.entries["data.pkl"].resize(size);
    EXPECT_FALSE(inspect_torchscript(archive).objections.empty()) << size;
  }
  std::size_t loaded = 0;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    for (const int byte : {0, 1, 0x28, 0x74, 0x80, 0xff}) {
      Archive archive = whole;
      archive.entries["data.pkl"][i] = static_cast<char>(byte);
      if (!inspect_torchscript(archive).objections.empty()) continue;
      if (refusal(archive).empty()) ++loaded;
    }
  }
  EXPECT_GT(loaded, 0u);  // requires_grad, the name of a device: values that may differ
}

// In format 2, lists and dicts carry no type.
TEST(InspectTorchScript, OldFormatListOfWrongType_Objects) {
  Archive archive = read_archive("tests/fixtures/programs/version2.pt");
  std::string& bytes = archive.entries.at("data.pkl");
  // `names` is a list of strings; the changed class declares a list of tensors.
  std::string& code = archive.entries.at("code/__torch__.py");
  const std::size_t position = code.find("List[str]");
  ASSERT_NE(position, std::string::npos);
  code.replace(position, 9, "List[Tensor]");
  const auto objections = inspect_torchscript(archive).objections;
  ASSERT_EQ(objections.size(), 1u);
  expect_words(objections.front().text, {"the attribute names", "not a List[Tensor]"});
  for (std::size_t size = 0; size < bytes.size(); size += 7) {
    Archive cut = read_archive("tests/fixtures/programs/version2.pt");
    cut.entries["data.pkl"].resize(size);
    EXPECT_FALSE(inspect_torchscript(cut).objections.empty()) << size;
  }
}

TEST(InspectTorchScript, AnyByteChanged_ListsOrThrows) {
  for (const char* name : {"quantized_buffer", "version2", "fp8"}) {
    const Archive whole = read_archive("tests/fixtures/programs/" + std::string(name) + ".pt");
    const std::size_t size = whole.entries.at("data.pkl").size();
    for (std::size_t i = 0; i < size; i += 3) {
      for (const int with : {0x01, 0x41}) {
        Archive archive = whole;
        archive.entries["data.pkl"][i] ^= static_cast<char>(with);
        inspect_torchscript(archive);
      }
    }
  }
}

// pytorch#179581, #185441 and #185442: LibTorch trusts the debug entries.
TEST(LoadTorchScript, DebugEntries_AreDropped) {
  for (const std::string_view debug : {"\x80\x02garbage."sv, ""sv, "\x80\x02X\xff\xff\xff\xff."sv}) {
    Archive archive = little_archive();
    archive.entries["code/__torch__.py.debug_pkl"] = debug;
    archive.entries["code/__torch__/other.py.debug_pkl"] = std::string(1000, '\xff');
    EXPECT_EQ(refusal(archive), "");
    const std::string rebuilt = detail::script::rebuild_archive(archive);
    EXPECT_EQ(rebuilt.find("debug_pkl"), std::string::npos);
  }
}

TEST(LoadTorchScript, DebugEntryThatRunsProgram_IsReported) {
  Archive archive = little_archive();
  archive.entries["code/__torch__.py.debug_pkl"] =
      "\x80\x02"
      "cos\nsystem\n(S'true'\ntR.";
  expect_words(refusal(archive), {"code/__torch__.py.debug_pkl asks for os.system"});
}

TEST(LoadTorchScript, NamedAsWeights_IsCheckedAsProgram) {
  const ScratchFolder folder;
  write(folder.path / "weights.pth", with_code("    torch.save(x, \"m\")\n" + return_x));
  EXPECT_TRUE(is_torchscript(read_archive(folder.path / "weights.pth")));
  expect_words(error_of([&] { load_torchscript(folder.path / "weights.pth"); }), {"aten::save"});
}

TEST(LoadTorchScript, MissingFile_Throws) {
  expect_words(error_of([] { load_torchscript("no/m.pt"); }), {"no/m.pt", "No such file"});
}

}  // namespace
}  // namespace refine::formats
