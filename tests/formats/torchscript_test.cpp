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
#include <refine/formats/torchscript_check.hpp>

#include "tests/support/error_of.hpp"
#include "tests/support/scratch_folder.hpp"

namespace refine::formats {
namespace {

namespace fs = std::filesystem;
using refine::testing::error_of;
using refine::testing::expect_words;
using refine::testing::ScratchFolder;

/// A module with one parameter of 2×3, as LibTorch saves it; `forward` is what a test makes of it.
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

/// With another body of `forward`, and lines before and behind the class.
Archive with_code(std::string_view body, std::string_view before = "", std::string_view behind = "") {
  Archive archive = little_archive();
  std::string& text = source(archive);
  text.resize(text.find("  def forward"));
  text = fmt::format("{}{}{}{}\n{}", before, text, signature, body, behind);
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

class OfPython : public ::testing::TestWithParam<const char*> {};

TEST_P(OfPython, IsLoadedAndAnswersAsItDidThere) {
  auto file = load_torchscript(GetParam());
  EXPECT_TRUE(file.listing.objections.empty());
  EXPECT_TRUE(file.listing.operators.contains("aten::gelu"));
  EXPECT_FALSE(file.listing.code.empty());
  c10::NoGradGuard no_grad;
  const at::Tensor images = floats(file.listing.extra.at("images"), {2, 3, 8, 8});
  const at::Tensor logits = floats(file.listing.extra.at("logits"), {2, 5});
  EXPECT_LT((file.module.forward({images}).toTensor() - logits).abs().max().item<float>(), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Files, OfPython,
                         ::testing::Values("tests/fixtures/scripted.pt", "tests/fixtures/traced.pt"));

/// Files of PyTorch itself: with operators that are seldom named, and of formats 1 and 2.
class OtherProgram : public ::testing::TestWithParam<const char*> {};

TEST_P(OtherProgram, IsLoadedAndAnswersAsPyTorchDid) {
  auto file = load_torchscript("tests/fixtures/programs/" + std::string(GetParam()) + ".pt");
  EXPECT_TRUE(file.listing.objections.empty());
  c10::NoGradGuard no_grad;
  const at::Tensor images = floats(file.listing.extra.at("images"), {2, 3, 8, 8});
  const at::Tensor answer = file.module.forward({images}).toTensor();
  const at::Tensor logits = floats(file.listing.extra.at("logits"), {2, answer.size(1)});
  EXPECT_LT((answer - logits).abs().max().item<float>(), 1e-4);
}

INSTANTIATE_TEST_SUITE_P(Files, OtherProgram,
                         ::testing::Values("lift_fresh", "matrix_transpose", "fake_quantize", "complex",
                                           "special", "linear_algebra", "exported", "gated_scripted",
                                           "gated_traced", "version1", "version2"));

class QuantizedProgram : public ::testing::TestWithParam<const char*> {};

TEST_P(QuantizedProgram, IsRefusedByNameWhoeverIsTrusted) {
  const std::string path = "tests/fixtures/programs/quantized_" + std::string(GetParam()) + ".pt";
  EXPECT_TRUE(inspect_torchscript(read_archive(path)).has(Objection::Kind::quantized));
  for (const Trust trust : {Trust::checked, Trust::blind}) {
    expect_words(error_of([&] { load_torchscript(path, trust); }),
                 {path, "quantised", "no gradient passes", "export the float model"});
  }
}

INSTANTIATE_TEST_SUITE_P(Files, QuantizedProgram,
                         ::testing::Values("scripted", "traced", "dynamic", "passing", "buffer"));

TEST(Fp8Program, IsRefusedByItsType) {
  for (const Trust trust : {Trust::checked, Trust::blind}) {
    expect_words(error_of([&] { load_torchscript("tests/fixtures/programs/fp8.pt", trust); }),
                 {"8-bit floating-point numbers", "Float8_e4m3fn", "float32"});
  }
}

TEST(TorchScriptListing, SaysWhatTheFileWouldRunAndBuild) {
  const auto listing = inspect_torchscript(little_archive());
  EXPECT_EQ(listing.classes, std::set<std::string>({"__torch__.Net"}));
  EXPECT_EQ(listing.operators, std::set<std::string>({"aten::mul"}));
  EXPECT_EQ(listing.extra.at("note.txt"), "a note");
  EXPECT_NE(listing.code.at("code/__torch__.py").find("class Net(Module)"), std::string::npos);
  EXPECT_TRUE(listing.objections.empty());
}

TEST(TorchScriptListing, IsOfTorchScriptFilesOnly) {
  Archive archive = little_archive();
  archive.entries.erase("constants.pkl");
  EXPECT_FALSE(is_torchscript(archive));
  expect_words(error_of([&] { inspect_torchscript(archive); }), {"no", "TorchScript", "weights"});
  expect_words(refusal(archive), {"m.pt", "no TorchScript file"});
}

struct Code {
  std::string body, word, before = "", behind = "";
};

class HarmlessCode : public ::testing::TestWithParam<Code> {};

TEST_P(HarmlessCode, IsLoaded) {
  const auto& [body, word, before, behind] = GetParam();
  EXPECT_EQ(refusal(with_code(body, before, behind)), "") << body;
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

TEST_P(HarmfulCode, IsRefusedByName) {
  const auto& [body, word, before, behind] = GetParam();
  expect_words(refusal(with_code(body, before, behind)), {"cannot load", "m.pt", word, "trust"});
}

const std::string fine = "    return x\n";

INSTANTIATE_TEST_SUITE_P(
    Operators, HarmfulCode,
    ::testing::Values(Code{"    torch.save(x, \"marker\")\n" + fine, "aten::save (in code/__torch__.py)"},
                      Code{"    return torch.from_file(\"/etc/passwd\", False, 4)\n", "aten::from_file"},
                      Code{"    print(x)\n" + fine, "prim::print"},
                      Code{"    return ops.custom.op(x)\n", "custom::op"},
                      Code{"    return ops.aten.set_(x, x)\n", "aten::set_"},
                      Code{"    return ops.prim.CreateObject(x)\n", "prim::CreateObject"},
                      Code{"    return ops.quantized.linear(x)\n", "quantized::linear"},
                      Code{"    return torch.resize_(x, [100])\n", "aten::resize_"},
                      Code{"    return torch.as_strided(x, [9], [9])\n", "aten::as_strided"},
                      Code{"    f = fork(__torch__.g, x)\n" + fine, "fork", "",
                           "def g(x: Tensor) -> Tensor:\n  return x\n"}));

INSTANTIATE_TEST_SUITE_P(
    Detours, HarmfulCode,
    ::testing::Values(Code{"    f = torch\n    f.save(x, \"m\")\n" + fine, "the name torch"},
                      Code{"    f = torch.save\n    f(x, \"m\")\n" + fine, "the name torch.save"},
                      Code{"    f = x.save\n    f(x, \"m\")\n" + fine, "calls f, which may be anything"},
                      Code{"    (x).set_(x)\n" + fine, "aten::set_"},
                      Code{"    getattr(torch, \"save\")(x, \"m\")\n" + fine,
                           "calls what an expression gives"},
                      Code{"    f = getattr(x, \"set_\")\n    f(x)\n" + fine, "calls f"},
                      Code{"    torch.autograd.save(x, \"m\")\n" + fine, "torch.autograd.save"},
                      Code{"    __torch__ = x\n" + fine, "the name __torch__ a new meaning"},
                      Code{"    relu = self\n    return relu(x)\n", "calls relu"},
                      Code{"    def f(y: Tensor) -> Tensor:\n      return y\n" + fine, "the statement 'def'"},
                      Code{"    y = [torch.save(i, \"m\") for i in x]\n" + fine, "list comprehension"},
                      Code{"    return __torch__.there.is_none(x)\n", "calls __torch__.there.is_none"},
                      Code{"    return (x).forward_it()\n", "a method forward_it"},
                      Code{"    y = unchecked_cast(__torch__.Net, x)\n" + fine, "without a check"},
                      Code{"    y = unchecked_cast(Tuple[int, int], x)\n" + fine, "without a check"},
                      Code{"    return (unknown(x))\n", "the operator unknown"}));

INSTANTIATE_TEST_SUITE_P(
    WhileLoading, HarmfulCode,
    ::testing::Values(Code{fine, "__setstate__, which runs", "",
                           "class B(Module):\n  def __setstate__(self: __torch__.B, s: int) -> NoneType:\n   "
                           " return None\n"},
                      Code{fine, "works out a default of f", "",
                           "def f(x: int=torch.seed()) -> int:\n  return x\n"},
                      Code{fine, "class B with a malformed field", "",
                           "class B(Module):\n  a : Final[int] = torch.seed()\n"},
                      Code{fine, "class B derived from Evil", "", "class B(Evil):\n  pass\n"},
                      Code{fine, "type __torch__.torch.classes.a.B", "",
                           "class B(Module):\n  a : __torch__.torch.classes.a.B\n"},
                      Code{fine, "defines __torch__.Net twice", "", "class Net(Module):\n  a : int\n"}));

INSTANTIATE_TEST_SUITE_P(
    Unreadable, HarmfulCode,
    ::testing::Values(Code{"    return x +\n", "can't be read"}, Code{"    return \"\n", "can't be read"},
                      Code{fine, "where a class or a function is due", "", "print(1)\n"},
                      Code{"    return " + repeated("(", 100'000) + "x" + repeated(")", 100'000) + "\n",
                           "nested too deep"},
                      Code{"    return " + repeated("not ", 100'000) + "x\n", "nested too deep"},
                      Code{"    return x" + repeated(".T", 100'000) + "\n", "nested too deep"},
                      Code{"    return x" + repeated(" + x", 100'000) + "\n", "nested too deep"},
                      Code{"    return x" + repeated("**x", 100'000) + "\n", "nested too deep"},
                      Code{"    if x:\n      pass\n" + repeated("    elif x:\n      pass\n", 10'000) + fine,
                           "nested too deep"},
                      Code{"    return x)\n", "nothing opened"},
                      Code{repeated("#\n", 100'000) + fine, "too many lines without code"},
                      Code{repeated("\\\n", 100'000) + fine, "too many lines without code"},
                      Code{"    " + repeated("n", 100'000) + " = x\n" + fine, "too long a name"},
                      Code{std::string("    return x\0\n", 14), "a control character"}));

struct Named {
  std::string body, why;
  Objection::Kind kind;
};

class RefusedOperator : public ::testing::TestWithParam<Named> {};

TEST_P(RefusedOperator, IsUnknownOrHarmfulOrOfALibrary) {
  const auto& [body, why, kind] = GetParam();
  const Archive archive = with_code(body + fine);
  const auto listing = inspect_torchscript(archive);
  ASSERT_FALSE(listing.objections.empty());
  EXPECT_EQ(listing.objections.front().kind, kind) << listing.objections.front().text;
  const std::string line = refusal(archive);
  expect_words(line, {why, "--trust"});
  EXPECT_EQ(line.find("harms") == std::string::npos, kind != Objection::Kind::harmful) << line;
}

INSTANTIATE_TEST_SUITE_P(
    Some, RefusedOperator,
    ::testing::Values(
        Named{"    y = torch.max_unpool2d(x, x, [2, 2])\n", "which refine does not know",
              Objection::Kind::unknown},
        Named{"    y = ops.aten.an_operator_of_tomorrow(x)\n", "does not know", Objection::Kind::unknown},
        Named{"    y = ops.torchvision.nms(x, x, 0.5)\n", "belongs to another library",
              Objection::Kind::library},
        Named{"    y = torch.dequantize(x)\n", "quantised numbers", Objection::Kind::quantized},
        Named{"    y = ops.quantized.conv2d(x)\n", "quantised numbers", Objection::Kind::quantized},
        Named{"    torch.save(x, \"m\")\n", "writes files", Objection::Kind::harmful},
        Named{"    y = torch.set_(x, x)\n", "memory beyond a tensor's own", Objection::Kind::harmful},
        Named{"    y = torch.as_strided_copy(x, [9], [9])\n", "memory", Objection::Kind::harmful},
        Named{"    y = ops.prim.rpc_sync(x)\n", "no tensor arithmetic", Objection::Kind::harmful},
        Named{"    y = ops.prim.PythonOp(x)\n", "no tensor arithmetic", Objection::Kind::harmful}));

TEST(RefusedOperator, ThatIsHarmfulComesBeforeOneThatIsUnknown) {
  expect_words(
      refusal(with_code("    y = torch.max_unpool2d(x, x, [2, 2])\n    torch.save(x, \"m\")\n" + fine)),
      {"aten::save", "harms", "and 1 more"});
}

TEST(RefusedOperator, OfALibraryThatIsNotThereIsNamedToWhoTrustsIt) {
  const ScratchFolder folder;
  write(folder.path / "m.pt", with_code("    y = ops.torchvision.nms(x, x, 0.5)\n" + fine));
  expect_words(error_of([&] { load_torchscript(folder.path / "m.pt", Trust::blind); }),
               {"torchvision::nms", "another library", "export the model without it"});
}

TEST(Operators, ThatReachFilesOrMemoryAreNeverPermitted) {
  for (const char* name :
       {"aten::save", "aten::from_file", "aten::set_", "aten::set_data", "aten::resize_", "aten::resize_as_",
        "aten::as_strided", "aten::as_strided_", "aten::_reshape_alias", "aten::empty_strided", "aten::wait",
        "prim::rpc_sync", "prim::PythonOp", "prim::Print", "quantized::linear",
        "aten::quantize_per_tensor"}) {
    EXPECT_FALSE(operators::permits_node(name)) << name;
    EXPECT_NE(operators::nature_of(name), operators::Nature::harmless) << name;
    EXPECT_NE(operators::nature_of(name), operators::Nature::unknown) << name;
    EXPECT_FALSE(operators::reason(name).empty()) << name;
  }
}

TEST(HarmfulCode, OfManyKindsIsCounted) {
  expect_words(refusal(with_code("    torch.save(x, \"m\")\n    print(x)\n    torch.set_(x, x)\n" + fine)),
               {"aten::save", "and 2 more"});
}

TEST(HarmfulCode, RunsOnlyForWhoAsksForIt) {
  const ScratchFolder folder;
  const fs::path marker = folder.path / "marker", path = folder.path / "m.pt";
  write(path, with_code(fmt::format("    torch.save(x, \"{}\")\n", marker.string()) + fine));
  expect_words(error_of([&] { load_torchscript(path); }), {"aten::save"});
  EXPECT_FALSE(fs::exists(marker));

  TorchScriptFile file = load_torchscript(path, Trust::blind);
  EXPECT_TRUE(file.listing.operators.contains("aten::save"));
  EXPECT_EQ(file.listing.objections.size(), 1u);
  EXPECT_EQ(file.listing.objections.front().kind, Objection::Kind::harmful);
  EXPECT_FALSE(fs::exists(marker));
  file.module.forward({at::ones({2, 3})});
  EXPECT_TRUE(fs::exists(marker));  // that is what it was refused for
}

TEST(HarmfulCode, IsSeenInTheCompiledGraphToo) {
  torch::jit::Module module(c10::QualifiedName("__torch__.Net"));
  module.define(
      "def forward(self, x: Tensor) -> Tensor:\n  if x.dim() > 1:\n    print(x)\n  return x.relu()\n");
  EXPECT_EQ(detail::script::foreign_nodes(module), std::set<std::string>({"prim::Print"}));
}

TEST(HarmfulFile, WithAMethodThatRunsWhileItIsLoaded) {
  expect_words(error_of([] { load_torchscript("tests/fixtures/setstate.pt"); }),
               {"setstate.pt", "Remembering.__getstate__", "runs while the file is loaded"});
  EXPECT_NO_THROW(load_torchscript("tests/fixtures/setstate.pt", Trust::blind));
}

TEST(HarmfulFile, WithTwoEntriesThatAReaderCouldTakeForOne) {
  Archive archive = little_archive();
  archive.entries["code/__TORCH__.py"] = source(archive);
  expect_words(refusal(archive), {"code/__torch__.py", "capitals"});
  archive = little_archive();
  archive.entries["code/__torch__.Net.py"] = "class A(Module):\n  a : int\n";
  expect_words(refusal(archive), {"code/__torch__.Net.py", "a dot"});
}

TEST(HarmfulFile, OfAnUnknownVersion) {
  for (const char* version : {"", "0", "99", "abc", "-1", "99999999999999999999"}) {
    Archive archive = little_archive();
    for (const char* name : {"version", ".data/version"}) {
      if (archive.entries.contains(name)) archive.entries[name] = version;
    }
    expect_words(refusal(archive), {"version"});
  }
  Archive archive = little_archive();
  archive.entries["byteorder"] = "big";
  expect_words(refusal(archive), {"little-endian"});
}

/// With `from` in data.pkl replaced by `to`, once.
Archive with_pickle(std::string_view from, std::string_view to) {
  Archive archive = little_archive();
  std::string& bytes = archive.entries.at("data.pkl");
  const std::size_t at = bytes.find(from);
  EXPECT_NE(at, std::string::npos);
  if (at != std::string::npos) bytes.replace(at, from.size(), to);
  return archive;
}

using namespace std::string_literals;
using namespace std::string_view_literals;

TEST(HarmfulPickle, IsRefusedByName) {
  const auto net = "c__torch__\nNet\n"sv;
  expect_words(refusal(with_pickle(net, "cposix\nsystem\n")), {"data.pkl", "posix.system"});
  expect_words(refusal(with_pickle(net, "c__torch__.torch.classes.a\nB\n")), {"__torch__.torch.classes.a.B"});
  expect_words(refusal(with_pickle(net, "c__torch__\nOther\n")), {"__torch__.Other"});
  expect_words(refusal(with_pickle("_rebuild_tensor_v2", "_rebuild_qtensor")),
               {"torch._utils._rebuild_qtensor"});
  EXPECT_TRUE(inspect_torchscript(with_pickle(net, "c__torch__.torch.classes.a\nB\n"))
                  .classes.contains("__torch__.torch.classes.a.B"));
}

TEST(HarmfulPickle, ClaimsMoreThanItHas) {
  const auto sizes = "(K\2K\3t"sv;
  // A stack of 2^60 rows; 2^60 rows of stride 0; a stride, an offset and a storage beyond the 24 bytes.
  expect_words(refusal(with_pickle(sizes, "(\x8a\x08\0\0\0\0\0\0\0\x10K\3t"sv)), {"beyond its storage"});
  expect_words(refusal(with_pickle("(K\2K\3t(K\3K\1t"sv, "(\x8a\x08\0\0\0\0\0\0\0\x10K\3t(K\0K\1t"sv)),
               {"beyond its storage"});
  expect_words(refusal(with_pickle("(K\3K\1t"sv, "(K\4K\1t"sv)), {"beyond its storage"});
  expect_words(refusal(with_pickle("(K\3K\1t"sv, "(J\xff\xff\xff\xffK\1t"sv)), {"negative"});
  expect_words(refusal(with_pickle("K\0(K\2K\3t"sv, "K\1(K\2K\3t"sv)), {"beyond its storage"});
  expect_words(refusal(with_pickle("K\6t"sv, "K\7t"sv)), {"claims 7 elements in data/0, which has 24 bytes"});
  expect_words(refusal(with_pickle("K\6t"sv, "J\xff\xff\xff\xfft"sv)), {"claims -1 elements"});
  // A memo of 4 thousand million entries; a string that is longer than the file.
  expect_words(refusal(with_pickle("q\0"sv, "r\xff\xff\xff\xff"sv)), {"memo"});
  expect_words(refusal(with_pickle("X\6\0\0\0weight"sv, "X\xff\xff\xff\xffweight"sv)), {"is cut"});
}

TEST(HarmfulPickle, IsLongerOnItsPathsThanInTheFile) {
  std::string twice;  // a tuple of a tuple twice, sixty times: 2^60 values
  for (int i = 0; i < 60; ++i) twice += fmt::format("q{}(h{}h{}t", char(i), char(i), char(i));
  Archive archive = little_archive();
  archive.entries["constants.pkl"] = "\x80\2)"s + twice + ".";
  expect_words(refusal(archive), {"constants.pkl", "too many values"});
  archive.entries["constants.pkl"] = "\x80\2"s + repeated("(", 100'000) + repeated("t", 100'000) + ".";
  expect_words(refusal(archive), {"constants.pkl", "nested too deep"});
}

TEST(HarmfulPickle, GivesAnAttributeAnotherTypeThanItsClassSays) {
  Archive archive = little_archive();
  source(archive).replace(source(archive).find("weight : Tensor"), 15, "weight : __torch__.Net");
  expect_words(refusal(archive), {"gives __torch__.Net a weight that is no __torch__.Net"});
  archive = with_code(fine);
  source(archive).insert(source(archive).find("  weight :"), "  missing : int\n");
  expect_words(refusal(archive), {"gives __torch__.Net no missing"});
}

TEST(HarmfulPickle, CutOrChangedAnywhereEndsInALine) {
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
  EXPECT_GT(loaded, 0u);  // requires_grad, a device's name: what may well be otherwise
}

/// Of format 2: without the types that lists and dicts have since.
TEST(HarmfulPickle, OfAnOldFormatGivesAListTwoTypes) {
  Archive archive = read_archive("tests/fixtures/programs/version2.pt");
  std::string& bytes = archive.entries.at("data.pkl");
  // `names` is a list of texts; its class now says a list of tensors.
  std::string& code = archive.entries.at("code/__torch__.py");
  const std::size_t at = code.find("List[str]");
  ASSERT_NE(at, std::string::npos);
  code.replace(at, 9, "List[Tensor]");
  const auto objections = inspect_torchscript(archive).objections;
  ASSERT_EQ(objections.size(), 1u);
  expect_words(objections.front().text, {"names that is no List[Tensor]"});
  for (std::size_t size = 0; size < bytes.size(); size += 7) {
    Archive cut = read_archive("tests/fixtures/programs/version2.pt");
    cut.entries["data.pkl"].resize(size);
    EXPECT_FALSE(inspect_torchscript(cut).objections.empty()) << size;
  }
}

TEST(ProgramFile, WithAnyByteChangedIsLoadedOrRefusedInOneLine) {
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

// pytorch#179581, #185441 and #185442: LibTorch trusts what is there for debugging.
TEST(HarmfulFile, WithADebugEntryIsLoadedWithoutIt) {
  for (const std::string_view debug : {"\x80\x02garbage."sv, ""sv, "\x80\x02X\xff\xff\xff\xff."sv}) {
    Archive archive = little_archive();
    archive.entries["code/__torch__.py.debug_pkl"] = debug;
    archive.entries["code/__torch__/other.py.debug_pkl"] = std::string(1000, '\xff');
    EXPECT_EQ(refusal(archive), "");
    const std::string rebuilt = detail::script::rebuilt(archive);
    EXPECT_EQ(rebuilt.find("debug_pkl"), std::string::npos);
  }
}

TEST(TorchScriptFile, NamedAsWeightsIsStillAProgram) {
  const ScratchFolder folder;
  write(folder.path / "weights.pth", with_code("    torch.save(x, \"m\")\n" + fine));
  EXPECT_TRUE(is_torchscript(read_archive(folder.path / "weights.pth")));
  expect_words(error_of([&] { load_torchscript(folder.path / "weights.pth"); }), {"aten::save"});
}

TEST(TorchScriptFile, IsNotThere) {
  expect_words(error_of([] { load_torchscript("no/m.pt"); }), {"no/m.pt", "No such file"});
}

}  // namespace
}  // namespace refine::formats
