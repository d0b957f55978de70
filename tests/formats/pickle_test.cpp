#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>
#include <archive.h>
#include <archive_entry.h>
#include <fmt/core.h>
#include <gtest/gtest.h>
#include <refine/formats/checkpoint.hpp>
#include <refine/formats/detail/pickle_machine.hpp>
#include <refine/formats/safetensors.hpp>

#include <cstdint>
#include <filesystem>
#include <iterator>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/formats/pickle_bytes.hpp"
#include "tests/support/error_of.hpp"
#include "tests/support/scratch_folder.hpp"

namespace refine::formats {
namespace {

using refine::testing::content;
using refine::testing::error_of;
using refine::testing::expect_words;
using refine::testing::ScratchFolder;

const std::filesystem::path fixtures = "tests/fixtures";

std::string integer(std::int64_t value) {
  return "\x8a\x08" + raw(value);
}
std::string pickle(const std::string& instructions) {
  return "\x80\x02" + instructions + ".";
}
std::string repeated(const std::string& what, int n) {
  std::string result;
  for (int i = 0; i < n; ++i) result += what;
  return result;
}
std::string tuple_of(const std::vector<std::int64_t>& numbers) {
  std::string result = "(";
  for (const auto n : numbers) result += integer(n);
  return result + "t";
}
std::string storage(const std::string& type, const std::string& key, std::int64_t numel) {
  return "(" + text("storage") + global("torch", type) + text(key) + text("cpu") + integer(numel) + "tQ";
}
std::string tensor_call(const std::string& from, std::int64_t offset, const std::vector<std::int64_t>& sizes,
                        const std::vector<std::int64_t>& strides) {
  return global("torch._utils", "_rebuild_tensor_v2") + "(" + from + integer(offset) + tuple_of(sizes) +
         tuple_of(strides) + "\x89" + global("collections", "OrderedDict") + ")RtR";
}

/// The same with what torch.save writes of a lazily negated tensor, or with an empty dict.
std::string tensor_with_metadata(const std::string& content) {
  const std::string metadata = "}" + (content.empty() ? "" : text(content) + "\x88s");
  return global("torch._utils", "_rebuild_tensor_v2") + "(" + storage("FloatStorage", "0", 8) + integer(0) +
         tuple_of({8}) + tuple_of({1}) + "\x89" + global("collections", "OrderedDict") + ")R" + metadata +
         "tR";
}

/// Returns the floats 0 … 7 under the key "0".
std::optional<std::string_view> eight(std::string_view key) {
  static const float numbers[] = {0, 1, 2, 3, 4, 5, 6, 7};
  if (key != "0") return std::nullopt;
  return std::string_view(reinterpret_cast<const char*>(numbers), sizeof numbers);
}

Value read(const std::string& instructions) {
  return read_pickle(pickle(instructions), "p", eight);
}
std::string error_in(const std::string& instructions) {
  return error_of([&] { read(instructions); });
}

/// Writes an archive with the layout of torch.save, with libarchive.
void write_torch_file(const std::filesystem::path& path, const std::map<std::string, std::string>& entries) {
  const std::unique_ptr<::archive, int (*)(::archive*)> zip(archive_write_new(), &archive_write_free);
  archive_write_set_format_zip(zip.get());
  ASSERT_EQ(archive_write_open_filename(zip.get(), path.c_str()), ARCHIVE_OK);
  for (const auto& [name, bytes] : entries) {
    const std::unique_ptr<archive_entry, void (*)(archive_entry*)> entry(archive_entry_new(),
                                                                         &archive_entry_free);
    archive_entry_set_pathname(entry.get(), ("archive/" + name).c_str());
    archive_entry_set_filetype(entry.get(), AE_IFREG);
    archive_entry_set_size(entry.get(), static_cast<la_int64_t>(bytes.size()));
    ASSERT_EQ(archive_write_header(zip.get(), entry.get()), ARCHIVE_OK);
    archive_write_data(zip.get(), bytes.data(), bytes.size());
  }
  ASSERT_EQ(archive_write_close(zip.get()), ARCHIVE_OK);
}

void expect_tensor(const Value* value, const at::Tensor& expected) {
  ASSERT_NE(value, nullptr);
  ASSERT_NE(value->as_tensor(), nullptr);
  const at::Tensor& tensor = *value->as_tensor();
  EXPECT_EQ(tensor.scalar_type(), expected.scalar_type());
  EXPECT_EQ(tensor.sizes(), expected.sizes());
  EXPECT_TRUE(tensor.is_contiguous());
  EXPECT_EQ(tensor.storage().nbytes(), tensor.nbytes()) << "shares memory";
  EXPECT_TRUE(at::equal(tensor, expected)) << tensor;
}

// PyTorch would negate the numbers: the file would be two networks.
TEST(ReadPickle, LazilyNegatedTensor_IsRefused) {
  for (const char* kind : {"neg", "conj"})
    expect_words(error_in(tensor_with_metadata(kind)), {"negated or conjugated", "clone()"});
  EXPECT_EQ(error_in(tensor_with_metadata("")), "");
}

class ReadTorchFile : public ::testing::TestWithParam<const char*> {};

TEST_P(ReadTorchFile, EveryKindOfObject_IsRead) {
  const Value kinds = read_torch_file(fixtures / GetParam());
  const at::Tensor numbers = at::arange(6, at::kFloat).view({2, 3});
  const auto floats = [](std::vector<double> values) { return at::tensor(values, at::kDouble); };
  expect_tensor(kinds.find("plain"), numbers);
  expect_tensor(kinds.find("transposed"), numbers.t());
  expect_tensor(kinds.find("column"), floats({1, 4}).to(at::kFloat));
  expect_tensor(kinds.find("expanded"), numbers.slice(0, 0, 1).expand({4, 3}));
  expect_tensor(kinds.find("parameter"), floats({1.5, -2.5}).to(at::kFloat));
  expect_tensor(kinds.find("double"), floats({0.1}));
  expect_tensor(kinds.find("half"), floats({0.5, -2}).to(at::kHalf));
  expect_tensor(kinds.find("bfloat16"), floats({1, -0.25}).to(at::kBFloat16));
  expect_tensor(kinds.find("long"), floats({-7}).to(at::kLong).squeeze(0));
  expect_tensor(kinds.find("int"), at::arange(3, at::kInt));
  expect_tensor(kinds.find("short"), floats({-300}).to(at::kShort));
  expect_tensor(kinds.find("char"), floats({-5}).to(at::kChar));
  expect_tensor(kinds.find("byte"), floats({250}).to(at::kByte));
  expect_tensor(kinds.find("bool"), floats({1, 0, 1}).to(at::kBool));
  expect_tensor(kinds.find("empty"), at::arange(0, at::kFloat).view({3, 0}));

  const List& list = *kinds.find("numbers")->as_list();
  ASSERT_EQ(list.size(), 6u);
  EXPECT_EQ(*list[0].as_integer(), 1);
  EXPECT_EQ(*list[1].as_integer(), -2);
  EXPECT_EQ(*list[2].as_integer(), 1'099'511'627'776);
  EXPECT_EQ(std::get<double>(list[3].content), 0.5);
  EXPECT_TRUE(*list[4].as_boolean());
  EXPECT_TRUE(list[5].is_none());
  const List& pair = *kinds.find("pair")->as_list();
  EXPECT_EQ(*pair.at(0).as_text(), "text");
  EXPECT_EQ(std::get<Bytes>(pair.at(1).content).bytes, std::string("\0\xff", 2));
  EXPECT_EQ(*kinds.find("size")->as_list()->at(1).as_integer(), 3);
  EXPECT_EQ(*kinds.find("dtype")->as_text(), "torch.float16");
  EXPECT_EQ(*kinds.find("device")->as_text(), "cpu");
  EXPECT_EQ(kinds.find("none"), nullptr);
  EXPECT_EQ(*kinds.as_dict()->front().first.as_text(), "plain") << "the order of insertion";
}

INSTANTIATE_TEST_SUITE_P(Forms, ReadTorchFile, ::testing::Values("kinds.pth", "kinds_legacy.pth"));

TEST(ReadTorchFile, NumpyArraysOfEachProtocol_AreRead) {
  for (const char* name : {"arrays_protocol2.pth", "arrays_protocol4.pth", "arrays_protocol5.pth"}) {
    const Value value = read_torch_file(fixtures / name);
    const List& arrays = *value.as_list();
    ASSERT_EQ(arrays.size(), 5u) << name;
    expect_tensor(&arrays[0], at::tensor(std::vector<std::int64_t>{2, 0, 3, 1}));
    expect_tensor(&arrays[1], at::arange(6, at::kFloat).view({2, 3}).t());
    expect_tensor(&arrays[2], at::tensor(std::vector<double>{0.25}).squeeze(0));
    expect_tensor(&arrays[3], at::arange(0, at::kByte).view({0, 2}));
    expect_tensor(&arrays[4], at::tensor(std::vector<int>{1, 0}).to(at::kBool));
  }
}

TEST(ReadPickle, HandMadeInstructions_GiveTheirValues) {
  EXPECT_EQ(*read("K\x07").as_integer(), 7);
  EXPECT_EQ(*read("J\xff\xff\xff\xff").as_integer(), -1);
  EXPECT_EQ(*read("\x8a\x01\xff").as_integer(), -1);
  EXPECT_EQ(*read(std::string("\x8a\0", 2)).as_integer(), 0);
  EXPECT_EQ(*read(std::string("\x8a\x02\xff\0", 4)).as_integer(), 255);
  EXPECT_EQ(std::get<double>(read(std::string("G\x3f\xe0\0\0\0\0\0\0", 9)).content), 0.5);
  EXPECT_EQ(read("(K\1K\2l").as_list()->size(), 2u);
  EXPECT_EQ(*read("(" + text("a") + "K\1d").find("a")->as_integer(), 1);
  EXPECT_EQ(read("](((K\1"
                 "11e")
                .as_list()
                ->size(),
            0u);
}

// Where a frame ends inside an instruction, Python's unpickler of files reads other bytes.
TEST(ReadPickle, FrameThatEndsInsideInstruction_Throws) {
  const auto frame = [](std::uint64_t bytes) { return "\x95" + raw(bytes); };
  EXPECT_EQ(error_in(frame(3) + "K\1."), "");
  EXPECT_EQ(error_in(frame(2) + "K\1"), "");
  EXPECT_EQ(error_in(frame(1) + "]" + frame(3) + "K\1a"), "");
  EXPECT_EQ(error_in(frame(0) + "K\1"), "");
  expect_words(error_in(frame(1) + "K\1"), {"beyond its frame"});
  expect_words(error_in(frame(6) + text("abc")), {"beyond its frame"});
  expect_words(error_in(frame(14) + "K\1" + frame(2) + "0K\2"), {"a frame inside a frame"});
  expect_words(error_in(frame(100) + "K\1"), {"is truncated"});
}

TEST(RunsPrograms, NamesOfPrograms_DifferFromThoseOfTorchScript) {
  EXPECT_TRUE(detail::runs_programs("pathlib.os.system"));
  EXPECT_TRUE(detail::runs_programs("collections.OrderedDict.__init__.__globals__"));
  EXPECT_TRUE(detail::runs_programs("torch.jit._pickle.build_intlist.__globals__"));
  EXPECT_TRUE(detail::runs_programs("torch.jit._script.load"));
  EXPECT_FALSE(detail::runs_programs("torch.jit._pickle.build_intlist"));
  EXPECT_FALSE(detail::runs_programs("argparse.Namespace"));
}

TEST(RunsPrograms, TextThatIsNotDottedIdentifier_ReturnsFalse) {
  for (const char* name : {"os.name: system.epochs: 10", "os .system", "os.system ", "pathlib/.os.system",
                           "builtins.eval is.unsafe", "os-system.os.x"}) {
    EXPECT_FALSE(detail::runs_programs(name)) << name;
  }
  EXPECT_TRUE(detail::runs_programs("os.system"));
  EXPECT_TRUE(detail::runs_programs("os.\xc3\xa9.system"));  // a letter outside ASCII
}

TEST(ReadPickle, Protocols0And1_GiveSameContentAsPython) {
  const auto read_old = [](const std::string& bytes) { return read_pickle(bytes, "p"); };
  // pickle.dumps({"n": 7, "r": -0.5, "big": 2**40, "t": True, "u": "é\u20ac\n", "l": [None]}, 0)
  const Value old = read_old(
      "(dp0\nVn\np1\nI7\nsVr\np2\nF-0.5\nsVbig\np3\nL1099511627776L\nsVt\np4\nI01\nsVu\np5\n"
      "V\xe9\\u20ac\\u000a\np6\nsVl\np7\n(lp8\nNas.");
  EXPECT_EQ(*old.find("n")->as_integer(), 7);
  EXPECT_EQ(std::get<double>(old.find("r")->content), -0.5);
  EXPECT_EQ(*old.find("big")->as_integer(), std::int64_t{1} << 40);
  EXPECT_TRUE(*old.find("t")->as_boolean());
  EXPECT_EQ(*old.find("u")->as_text(), "\xc3\xa9\xe2\x82\xac\n");
  EXPECT_TRUE(old.find("l")->as_list()->at(0).is_none());
  EXPECT_EQ(*read_old("}q\1(U\1aK\1u.").find("a")->as_integer(), 1);            // protocol 1
  EXPECT_EQ(*read_old("S'a\\x41\\101\\n\\\\\\q'\n.").as_text(), "aAA\n\\\\q");  // text of Python 2
  EXPECT_EQ(read_old("(I1\nI2\ntp0\n0g0\n.").as_list()->size(), 2u);
}

// What stops refine's reader need not stop Python: numbers in other spellings, objects and names beyond a limit.
TEST(FindProgram, BehindWhatTheReaderRefuses_IsFound) {
  const std::string call = "\x85R.";
  const std::string program = global("os", "system") + text("true") + call;
  const std::string longest = "path.os." + repeated("path.os.", 200) + "system";
  const std::pair<std::string, std::string> cases[] = {
      {"I 1\n0" + program, "os.system"},
      {"L0x10L\n0" + program, "os.system"},
      {"Np 1\n0" + program, "os.system"},
      {"Nq\5g 5\n00" + program, "os.system"},
      {"]K\1K\2s0" + program, "os.system"},
      {global("a", std::string(1000, 'b')) + "0" + program, "os.system"},
      {"(" + repeated("N", 1'000'001) + "1" + program, "os.system"},
      {repeated("(", 1'000'001) + program, "os.system"},
      {repeated("]0", 5'000'001) + program, "os.system"},
      {"I 1\n0i" + std::string("os\nsystem\n.").substr(0), "os.system"},
      {"I 1\n0" + text("os") + text("system") + "\x93" + text("true") + call, "os"},
      {"I 1\n0" + text("io") + "q\1" + "0" + text("a") + "q\2" + "0h\1" + text("open") + "\x93.", "io.open"},
      {"I 1\n0" + text("pathlib") + text("os.system") + "\x93.", "os.system"},
      {"I 1\n0S'os' \nVsystem\n\x93.", "os"},
      {"I 1\n0Vos\nS\"system\"\n\x93.", "os"},
      {"I 1\n0V_io\nVopen\n\x93.", "_io.open"},
      {"I 1\n0S'\\x6fs'\nS'system'\n\x93.", "\\x6fs"},
      {text("os") + text(longest) + "\x93.", "os.path.os."},
      {text("a") + text(std::string(100'000, 'a') + ".os.system") + "\x93.", "aaa"},
  };
  for (const auto& [body, words] : cases) {
    const std::string name = detail::find_program("\x80\4" + body).name;
    EXPECT_NE(name.find(words), std::string::npos) << name << " for " << body.substr(0, 60);
  }
  EXPECT_EQ(detail::find_program("\x80\4I 1\n0" + text("x") + text("y") + "\x93.").name, "");
  EXPECT_TRUE(detail::find_program("\x80\4I 1\n0" + text("x").substr(0, 4)).is_truncated);
}

TEST(ReadPickle, SharedObject_IsShared) {
  const Value value = read("]q\1K\1a(h\1h\1t");
  const List& both = *value.as_list();
  EXPECT_EQ(both[0].as_list(), both[1].as_list());
}

TEST(ReadWeights, NameThatRunsPrograms_ThrowsWithoutRunningIt) {
  const ScratchFolder scratch;
  const auto marker = scratch.path / "marker";
  const std::string command = text("touch " + marker.string());
  const std::string bodies[] = {
      global("os", "system") + command + "\x85R",
      global("posix", "system") + command + "\x85R",
      "(" + command + "ios\nsystem\n",
      "\x8c\x02os\x8c\x06system\x93" + command + "\x85R",
      global("builtins", "eval") + text("open('" + marker.string() + "', 'w')") + "\x85R",
      global("subprocess", "Popen") + command + "\x85\x81",
  };
  const char* const names[] = {"os.system", "posix.system",  "os.system",
                               "os.system", "builtins.eval", "subprocess.Popen"};
  for (std::size_t i = 0; i < std::size(bodies); ++i) {
    const auto bare = scratch.write("bare.pth", pickle(bodies[i]));
    const auto zipped = scratch.path / "zipped.pth";
    write_torch_file(zipped, {{"data.pkl", pickle(bodies[i])}});
    for (const auto& path : {bare, zipped}) {
      const std::string words = std::string("asks for ") + names[i] + ", which can run any program";
      expect_words(error_of([&] { read_weights(path); }), {path.string(), words});
      expect_words(error_of([&] { read_permutation(path); }), {path.string(), words});
    }
  }
  const std::string quoted = "S'touch " + marker.string() + "'\n";
  const std::string old[] = {
      "cos\nsystem\n(" + quoted + "tR.",                     // protocol 0
      "(" + quoted + "ios\nsystem\n.",                       // INST
      "(cos\nsystem\n" + quoted + "o.",                      // OBJ
      "V\\u006fs\nVsy\\u0073tem\n\x93" + quoted + "\x85R.",  // names in escapes
      "I1\n.\x80\2cos\nsystem\n" + quoted + "\x85R.",        // in the second pickle
      "(dp0\ncos\nsystem\n" + quoted + "\x85RZ",             // broken afterwards
  };
  for (const std::string& bytes : old) {
    const auto path = scratch.write("old.pkl", bytes);
    expect_words(error_of([&] { read_weights(path); }), {path.string(), "asks for os.system"});
  }
  EXPECT_FALSE(std::filesystem::exists(marker));
}

TEST(ReadPickle, UnknownNameOrInstruction_Throws) {
  const std::string reduce = text("x") + "\x85R";
  for (const auto& [module, name] :
       std::vector<std::pair<std::string, std::string>>{{"builtins", "getattr"},
                                                        {"torch", "load"},
                                                        {"torch.serialization", "load"},
                                                        {"nn", "Net"},
                                                        {"torch.storage", "_load_from_bytes"},
                                                        {"torch._utils", "_rebuild_tensor_v2.__globals__"},
                                                        {"collections", "OrderedDict.fromkeys"},
                                                        {"numpy", "load"},
                                                        {"torch", "ComplexFloatStorage"},
                                                        {"copyreg", "_reconstructor"},
                                                        {"_codecs", "decode"},
                                                        {"", ""},
                                                        {"builtins", "set"}}) {
    expect_words(error_in(global(module, name) + reduce),
                 {"cannot load p: the file asks for " + module + "." + name});
  }
  expect_words(error_in(global("torch", "FloatStorage") + ")R"),
               {"torch.FloatStorage, which is not a function"});
  expect_words(error_in(global("numpy", "ndarray") + ")R"), {"numpy.ndarray, which is not a function"});
  expect_words(error_in(global("torch", "Size")), {"torch.Size, not a value"});
  expect_words(error_in(global("torch", "Size") + "K\1\x85R"), {"calls torch.Size with invalid arguments"});
  expect_words(error_in(text("os.system") + reduce), {"calls an object that is not a function"});
  expect_words(error_in("]K\1b"), {"sets the state"});
  expect_words(error_in(storage("FloatStorage", "0", 8) + "}b"), {"sets the state"});
  expect_words(error_in(global("_codecs", "encode") + text("x") + text("rot13") + "\x86R"),
               {"_codecs.encode"});
  expect_words(error_in("P0\n"), {"a storage has an unknown kind of persistent id"});
  expect_words(error_in("(K\1o"), {"calls an object that is not a function"});  // OBJ
  expect_words(error_in("(o"), {"calls an object that is not a function"});
  expect_words(error_in("(" + global("nn", "Net") + "o"), {"asks for nn.Net"});
  expect_words(error_in(global("torch", "Size") + ")}\x92"), {"calls an object that is not a function"});
  expect_words(error_in("\x82\x01"), {"instruction 0x82"});
  expect_words(error_in("\x97"), {"instruction 0x97"});
  EXPECT_EQ(
      read(global("collections", "OrderedDict") + ")R}" + text("_metadata") + "K\1sb").as_dict()->size(), 0u);
}

TEST(ReadPickle, Malformed_Throws) {
  const std::string cases[][2] = {
      {"", "pops an empty stack"},
      {"0", "pops an empty stack"},
      {"t", "lacks a mark"},
      {"NK\1a", "appends to an object that is not a list"},
      {"]((K\1e", "pops an empty stack"},
      {"]K\1K\2s", "item of an object that is not a dict"},
      {"}(K\1u", "key without a value"},
      {"}(K\1K\2"
       "a",
       "appends to an object that is not a list"},
      {"h\1", "recalls a memo entry that does not exist"},
      {"K", "pickle is truncated"},
      {"X\xff\xff\xff\xff", "pickle is truncated"},
      {"B\xff\xff\xff\xff", "pickle is truncated"},
      {"\x8e" + std::string(8, '\xff'), "pickle is truncated"},
      {"\x8d" + std::string(7, '\0') + "\x10", "pickle is truncated"},
      {"\x95" + std::string(8, '\x7f'), "pickle is truncated"},
      {"\x8b\xff\xff\xff\xff", "pickle is truncated"},
      {"cos", "pickle is truncated"},
      {"\x8a\x09" + std::string(9, '\1'), "more than 64 bits"},
      {std::string("\x8b\x09\0\0\0", 5) + std::string(9, '\1'), "more than 64 bits"},
      {"}(" + text("a") + "K\1" + text("a") + "K\2u", "duplicate key 'a'"},
      {"]q\1h\1a", "contains itself"},
      {"}q\1" + text("a") + "h\1s", "contains itself"},
  };
  for (const auto& [body, expected] : cases) expect_words(error_in(body), {"cannot load p: ", expected});
  for (const std::string bytes : {"", "\x80", "\x80\x06K\1.", "hello", "(dp\n.", "Ix\n.", "S'a\n.",
                                  "S'\\x1'\n.", "V\\u12\n.", "F\n.", "K\1", "gx\n."}) {
    EXPECT_NE(error_of([&] { read_pickle(bytes, "p"); }), "") << bytes;
  }
}

TEST(ReadPickle, GrowsBeyondLimits_Throws) {
  // Each list contains the previous one twice: 2^60 references from a few hundred bytes.
  std::string doubling = "]q\1";
  for (int i = 0; i < 60; ++i) doubling += "0(h\1h\1tq\1";
  expect_words(error_in(doubling), {"repeats the same objects too often"});

  const std::string megabyte = text(std::string(1'000'000, 'a')) + "q\1" + "0";
  expect_words(error_in(megabyte + "](" + repeated("h\1", 1000) + "e"), {"repeats the same text too often"});
  expect_words(error_in(megabyte + global("_codecs", "encode") +
                        "q\2"
                        "0" +
                        "](" + repeated("h\2h\1" + text("latin1") + "\x86R", 1000) + "e"),
               {"encodes the same text too often"});
  const std::string longest = "](" + repeated("N", 900'000) +
                              "eq\1"
                              "0";
  expect_words(error_in(longest + repeated(global("torch", "Size") + "h\1\x85R", 100)),
               {"copies the same objects too often"});
}

TEST(ReadPickle, AtEachLimit_AcceptsAndOneBeyondThrows) {
  const std::string parts = "](" + repeated("N", 500'000) + "eq\1" + "0" + global("torch", "Size") + "q\2" +
                            "0" + repeated("h\2h\1\x85R0", 39);  // and 39 copies
  const std::string thousand = "(" + repeated("N", 999) + "tq\1" + "0](" + repeated("h\1", 9'999);
  const struct {
    std::string within, beyond;
    std::string_view words;
  } cases[] = {
      {"(" + repeated("N", 1'000'000) + "t", "(" + repeated("N", 1'000'001) + "t",
       "the stack of the pickle has more than 1000000 objects"},
      {repeated("(", 1'000'000) + repeated("0", 1'000'000) + "N", repeated("(", 1'000'001),
       "the stack of the pickle has more than 1000000 marks"},
      {parts + "N", parts + "](Ne", "containers have more than 20000000 parts"},
      {repeated("]", 64) + "N" + repeated("a", 64), repeated("]", 65) + "N" + repeated("a", 65),
       "nested deeper than 64 levels"},
      {repeated("]", 64) + repeated("a", 63), repeated("]", 65) + repeated("a", 64),
       "nested deeper than 64 levels"},
      {global(std::string(500, 'a'), std::string(499, 'b')) + "0N",
       global(std::string(500, 'a'), std::string(500, 'b')) + "0N",
       "a name in the pickle has 1001 bytes, more than the 1000 allowed"},
      {thousand + repeated("N", 999) + "e", thousand + repeated("N", 1'000) + "e",
       "10000001 values, more than the 10000000 allowed"},
  };
  for (const auto& [within, beyond, words] : cases) {
    EXPECT_EQ(error_in(within), "") << words;
    expect_words(error_in(beyond), {words});
  }
}

/// Returns the instructions, with others before them that make a pickle of `size` bytes.
std::string padded(const std::string& body, std::size_t size) {
  const int rest = static_cast<int>(size - pickle(body).size());
  const std::string three = std::string("K\1") + "0";
  return (rest % 2 == 1 ? three : "") + repeated("N0", rest / 2 - rest % 2) + body;
}

// What they allow grows with the size of the pickle, here by instructions without an effect.
TEST(ReadPickle, AtTheLimitsOfCopies_AcceptsAndShorterPickleThrows) {
  constexpr std::size_t length = 100'000, mebibyte = 1 << 20;
  const std::string kept = text(std::string(length, 'a')) + "q\1" + "0";
  const std::string texts = kept + "](" + repeated("h\1", 30) + "e";
  const std::size_t for_texts = (30 * length - mebibyte) / 16;  // 1 MiB and 16 times the pickle
  ASSERT_EQ(16 * for_texts + mebibyte, 30 * length);
  EXPECT_EQ(error_in(padded(texts, for_texts)), "");
  expect_words(error_in(padded(texts, for_texts - 1)),
               {"repeats the same text too often: 3000000 bytes, more than the 2999984 allowed"});

  const std::string encoded = kept + global("_codecs", "encode") + "q\2" + "0](" +
                              repeated("h\2h\1" + text("latin1") + "\x86R", 2) + "e";
  EXPECT_EQ(error_in(padded(encoded, 2 * length)), "");
  expect_words(error_in(padded(encoded, 2 * length - 1)),
               {"encodes the same text too often: 200000 bytes, more than the 199999 of the pickle"});

  const auto expanded = [](std::int64_t elements) {  // one float of the 32 bytes
    return tensor_call(storage("FloatStorage", "0", 8), 0, {elements}, {0});
  };
  const std::size_t bytes = 64 * mebibyte + 16 * (32 + pickle(expanded(0)).size());
  const auto most = static_cast<std::int64_t>(bytes - 4) / 4;  // it is copied first
  EXPECT_EQ(error_in(expanded(most)), "");
  expect_words(error_in(expanded(most + 1)),
               {"far more memory", fmt::format("{} bytes, more than the {} allowed", bytes + 4, bytes)});
}

TEST(ReadPickle, TensorOutsideStorage_Throws) {
  constexpr std::int64_t huge = std::int64_t{1} << 60;
  const std::string numbers = storage("FloatStorage", "0", 8);
  const auto error = [&](const std::string& from, std::int64_t offset, const std::vector<std::int64_t>& sizes,
                         const std::vector<std::int64_t>& strides) {
    return error_in(tensor_call(from, offset, sizes, strides));
  };
  const Value window = read(tensor_call(numbers, 1, {2, 3}, {1, 2}));
  expect_tensor(&window, at::tensor(std::vector<float>{1, 3, 5, 2, 4, 6}).view({2, 3}));
  EXPECT_EQ(error(numbers, 0, {8}, {1}), "");
  EXPECT_EQ(error(numbers, 7, {}, {}), "");
  EXPECT_EQ(error(numbers, 0, {0, 5}, {5, 1}), "");

  const char* const too_large = "claims more bytes than its storage has";
  expect_words(error(numbers, 0, {9}, {1}), {too_large});
  expect_words(error(numbers, 1, {8}, {1}), {too_large});
  expect_words(error(numbers, 8, {}, {}), {too_large});
  expect_words(error(numbers, 0, {2, 2}, {7, 1}), {too_large});
  expect_words(error(numbers, 0, {huge}, {1}), {too_large});
  expect_words(error(numbers, 0, {huge / 4}, {1}), {too_large});
  expect_words(error(numbers, 0, {huge}, {0}), {"far more memory"});
  expect_words(error(numbers, 0, {1 << 30, 1 << 30, 1 << 30}, {0, 0, 0}), {too_large});
  expect_words(error(numbers, 0, {0, huge, huge}, {0, 0, 0}), {too_large});
  expect_words(error(numbers, 0, {3}, {huge * 4}), {too_large});
  expect_words(error(numbers, std::numeric_limits<std::int64_t>::max(), {2}, {1}), {too_large});
  expect_words(error(numbers, 0, {huge / 8}, {0}), {"far more memory than the file has bytes"});
  expect_words(error(numbers, 0, {100'000'000}, {0}), {"far more memory"});
  expect_words(error(numbers, 7, {2}, {-1}), {"not a natural number"});
  expect_words(error(numbers, 0, {-1}, {1}), {"not a natural number"});
  expect_words(error(numbers, -1, {1}, {1}), {"cannot load p"});
  expect_words(error(numbers, 0, {2, 2}, {1}), {"a different number of strides and sizes"});
  expect_words(error(numbers, 0, std::vector<std::int64_t>(65, 1), std::vector<std::int64_t>(65, 1)),
               {"a tensor has 65 dimensions, more than the 64 allowed"});
  EXPECT_EQ(error(numbers, 0, std::vector<std::int64_t>(64, 1), std::vector<std::int64_t>(64, 1)), "");

  expect_words(error(storage("FloatStorage", "0", 9), 0, {1}, {1}), {"claims 9 elements but has 32 bytes"});
  expect_words(error(storage("DoubleStorage", "0", 8), 0, {1}, {1}), {"claims 8 elements"});
  expect_words(error(storage("FloatStorage", "0", huge * 4), 0, {1}, {1}),
               {"claims 4611686018427387904 elements"});
  expect_words(error(storage("FloatStorage", "0", -1), 0, {1}, {1}), {"claims -1 elements"});
  expect_words(error(storage("FloatStorage", "../0", 8), 0, {1}, {1}), {"no storage '../0'"});
  expect_words(error(storage("FloatStorage", "/etc/passwd", 8), 0, {1}, {1}), {"no storage '/etc/passwd'"});
  expect_words(error(storage("BoolStorage", "0", 32), 0, {32}, {1}), {"boolean"});
  // Many views of few bytes share one budget.
  const std::string view = tensor_call(numbers, 0, {1'000'000}, {0});
  expect_words(error_in("](" + repeated(view, 20) + "e"), {"far more memory"});
}

TEST(ReadTorchFile, OtherContent_Throws) {
  const ScratchFolder scratch;
  const auto path = scratch.path / "a.pth";
  const auto error = [&](const std::map<std::string, std::string>& entries) {
    write_torch_file(path, entries);
    return error_of([&] { read_torch_file(path); });
  };
  EXPECT_EQ(error({{"data.pkl", pickle("K\1")}}), "");
  expect_words(error({{"data.pkl", pickle("K\1") + "x"}}), {"extra bytes after the pickle"});
  expect_words(error({{"data.pkl", pickle("K\1")}, {"byteorder", "big"}}), {"not little-endian"});
  expect_words(error({{"model.json", "{}"}}), {"no data.pkl"});
  const std::string call = global("os", "system") + text("true") + "\x85R";
  for (const char* name : {"data/payload", "extra/payload.pkl", "notes/payload"}) {
    expect_words(error({{"data.pkl", pickle("K\1")}, {name, pickle(call)}}), {"asks for os.system"});
  }
  for (const char* name : {"constants.pkl", "code/__torch__/net.py"}) {
    expect_words(error({{"data.pkl", pickle("K\1")}, {name, ""}}),
                 {"is a TorchScript program", "load it as a model"});
  }
  expect_words(
      error({{"data.pkl", pickle(tensor_call(storage("FloatStorage", "../version", 1), 0, {1}, {1}))},
             {"version", "3333"}}),
      {"no storage '../version'"});
  expect_words(error_of([&] { read_torch_file(scratch.write("t", "hello")); }), {"not a file of torch.save"});
  expect_words(error_of([&] { read_torch_file(scratch.write("e", "")); }), {"is empty"});
  expect_words(error_of([&] { read_torch_file(scratch.path / "none"); }), {"No such file"});
}

TEST(ReadTorchFile, TruncatedAnywhere_Throws) {
  const ScratchFolder scratch;
  for (const char* name : {"kinds_legacy.pth", "arrays_protocol4.pth"}) {
    const std::string whole = content(fixtures / name);
    for (std::size_t n = 0; n < whole.size(); ++n) {
      EXPECT_NE(error_of([&] { detail::read_unzipped("cut", whole.substr(0, n)); }), "") << name << " " << n;
    }
    const auto longer = scratch.write("longer", whole + "x");
    EXPECT_NE(error_of([&] { read_torch_file(longer); }), "") << name;
  }
}

TEST(ReadTorchFile, AnyByteChanged_ReadsOrThrows) {
  for (const char* name : {"kinds_legacy.pth", "arrays_protocol2.pth", "arrays_protocol5.pth"}) {
    const std::string whole = content(fixtures / name);
    for (const int with : {0x01, 0x41, 0xff}) {
      for (std::size_t i = 0; i < whole.size(); ++i) {
        std::string changed = whole;
        changed[i] = static_cast<char>(changed[i] ^ with);
        error_of([&] { detail::read_unzipped("changed", changed); });  // any other exception fails the test
      }
    }
  }
}

TEST(ReadWeights, StateDictOrCheckpoint_ReturnsTensors) {
  const auto check = [](const Weights& weights) {
    EXPECT_EQ(weights.tensors.size(), 7u);
    const at::Tensor two = at::arange(2, at::kFloat);
    EXPECT_TRUE(at::equal(weights.tensors.at("0.weight"), two.view({2, 1, 1, 1})));
    EXPECT_TRUE(at::equal(weights.tensors.at("0.bias"), two + 10));
    EXPECT_TRUE(at::equal(weights.tensors.at("1.weight"), two + 20));
    EXPECT_TRUE(at::equal(weights.tensors.at("1.bias"), two + 30));
    EXPECT_EQ(weights.tensors.at("1.num_batches_tracked").item<std::int64_t>(), 0);
  };
  check(read_weights(fixtures / "state_dict.pth"));
  const Weights checkpoint = read_weights(fixtures / "checkpoint.pth");
  check(checkpoint);
  EXPECT_EQ(checkpoint.metadata.at("epoch"), "90");
  EXPECT_EQ(checkpoint.metadata.at("arch"), "little");

  const ScratchFolder scratch;
  write_safetensors(scratch.path / "a", {.tensors = checkpoint.tensors, .metadata = {{"k", "v"}}});
  const Weights safe = read_weights(scratch.path / "a");
  check(safe);
  EXPECT_EQ(safe.metadata.at("k"), "v");
}

TEST(ReadWeights, NoWeights_Throws) {
  expect_words(error_of([] { read_weights(fixtures / "module.pth"); }),
               {"module.pth", "an object of torch.nn.modules.container.Sequential", "model.state_dict()"});
  expect_words(error_of([] { read_weights(fixtures / "label_shuffle.pth"); }),
               {"not a dict of tensors by name"});
  expect_words(error_of([] { read_weights(fixtures / "kinds.pth"); }), {"'numbers' is not a tensor"});
  const ScratchFolder scratch;
  const auto error = [&](const std::string& body) {
    const auto path = scratch.write("a", pickle(body));
    return error_of([&] { read_weights(path); });
  };
  expect_words(error("}"), {"has no tensors"});
  expect_words(error("}K\1K\2s"), {"an entry has a key that is not text"});
  expect_words(error("}" + text("model") + "K\2s"), {"'model' is not a tensor"});
}

TEST(ReadPermutation, ArrayListOrTuple_ReturnsIt) {
  const std::vector<std::int64_t> expected{2, 0, 3, 1};
  EXPECT_EQ(read_permutation(fixtures / "label_shuffle.pth"), expected);
  EXPECT_EQ(read_permutation(fixtures / "label_shuffle_list.pth"), expected);
  const ScratchFolder scratch;
  EXPECT_EQ(read_permutation(scratch.write("a", pickle(std::string("(K\2K\0K\3K\1t", 10)))), expected);
}

TEST(ReadPermutation, NotAPermutation_Throws) {
  const ScratchFolder scratch;
  const auto error = [&](const std::string& body) {
    const auto path = scratch.write("a", pickle(body));
    return error_of([&] { read_permutation(path); });
  };
  expect_words(error("(K\1K\1l"), {"has 1 twice", "0 to n-1"});
  expect_words(error("(K\1K\2l"), {"has 2 elements and the value 2"});
  expect_words(error("(K\1J\xff\xff\xff\xffl"), {"the value -1"});
  expect_words(error("]"), {"the list is empty"});
  expect_words(error("(" + text("0") + "l"), {"an element that is not an integer"});
  expect_words(error("(\x88l"), {"an element that is not an integer"});
  expect_words(error("K\1"), {"not a list of integers"});
  expect_words(error_of([] { read_permutation(fixtures / "state_dict.pth"); }), {"not a list of integers"});
}

}  // namespace
}  // namespace refine::formats
