#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>
#include <archive.h>
#include <archive_entry.h>
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

#include "tests/support/error_of.hpp"
#include "tests/support/scratch_folder.hpp"

namespace refine::formats {
namespace {

using refine::testing::content;
using refine::testing::error_of;
using refine::testing::expect_words;
using refine::testing::ScratchFolder;

const std::filesystem::path fixtures = "tests/fixtures";

template <typename Number>
std::string raw(Number value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

// Pickle instructions, as pickletools describes them.
std::string text(std::string_view value) {
  return "X" + raw(static_cast<std::uint32_t>(value.size())) + std::string(value);
}
std::string integer(std::int64_t value) {
  return "\x8a\x08" + raw(value);
}
std::string global(const std::string& module, const std::string& name) {
  return "c" + module + "\n" + name + "\n";
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

/// Eight floats 0 … 7 under the key "0".
std::optional<std::string_view> eight(std::string_view key) {
  static const float numbers[] = {0, 1, 2, 3, 4, 5, 6, 7};
  if (key != "0") return std::nullopt;
  return std::string_view(reinterpret_cast<const char*>(numbers), sizeof numbers);
}

Value read(const std::string& instructions) {
  return read_pickle(pickle(instructions), "p", eight);
}
std::string line_of(const std::string& instructions) {
  return error_of([&] { read(instructions); });
}

/// An archive as torch.save lays it out, by another writer.
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

class KindsOfTorchSave : public ::testing::TestWithParam<const char*> {};

TEST_P(KindsOfTorchSave, AreRead) {
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

INSTANTIATE_TEST_SUITE_P(Forms, KindsOfTorchSave, ::testing::Values("kinds.pth", "kinds_legacy.pth"));

TEST(Pickle, OfNumpyArraysIsReadInEachProtocol) {
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

TEST(Pickle, HandMadeIsReadAsPickletoolsHasIt) {
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

TEST(Pickle, SharesWhatIsShared) {
  const Value value = read("]q\1K\1a(h\1h\1t");
  const List& both = *value.as_list();
  EXPECT_EQ(both[0].as_list(), both[1].as_list());
}

TEST(Pickle, ThatAsksForAProgramIsRefusedAndRunsNothing) {
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
      const std::string words = std::string("it asks for ") + names[i] + ", which is no tensor";
      expect_words(error_of([&] { read_weights(path); }), {path.string(), words});
      expect_words(error_of([&] { read_permutation(path); }), {path.string(), words});
    }
  }
  EXPECT_FALSE(std::filesystem::exists(marker));
}

TEST(Pickle, RefusesOtherNamesAndWaysIn) {
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
    expect_words(line_of(global(module, name) + reduce),
                 {"cannot load p: it asks for " + module + "." + name});
  }
  expect_words(line_of(global("torch", "FloatStorage") + ")R"), {"torch.FloatStorage, which is no function"});
  expect_words(line_of(global("numpy", "ndarray") + ")R"), {"numpy.ndarray, which is no function"});
  expect_words(line_of(global("torch", "Size")), {"torch.Size where a value should be"});
  expect_words(line_of(global("torch", "Size") + "K\1\x85R"), {"gives torch.Size what it does not take"});
  expect_words(line_of(text("os.system") + reduce), {"calls what is no function"});
  expect_words(line_of("]K\1b"), {"sets the state"});
  expect_words(line_of(storage("FloatStorage", "0", 8) + "}b"), {"sets the state"});
  expect_words(line_of(global("_codecs", "encode") + text("x") + text("rot13") + "\x86R"),
               {"_codecs.encode"});
  expect_words(line_of("P0\n"), {"instruction 0x50"});
  expect_words(line_of("(K\1o"), {"instruction 0x6f"});  // OBJ
  expect_words(line_of(global("torch", "Size") + ")}\x92"), {"calls what is no function"});
  expect_words(line_of("\x82\x01"), {"instruction 0x82"});
  expect_words(line_of("\x97"), {"instruction 0x97"});
  EXPECT_EQ(
      read(global("collections", "OrderedDict") + ")R}" + text("_metadata") + "K\1sb").as_dict()->size(), 0u);
}

TEST(Pickle, MalformedIsRefused) {
  const std::string cases[][2] = {
      {"", "takes more than it gave"},
      {"0", "takes more than it gave"},
      {"t", "lacks a mark"},
      {"NK\1a", "appends to what"},
      {"]((K\1e", "takes more than it gave"},
      {"]K\1K\2s", "item of what is no dict"},
      {"}(K\1u", "key without a value"},
      {"}(K\1K\2"
       "a",
       "appends to what"},
      {"h\1", "recalls what"},
      {"K", "pickle is cut"},
      {"X\xff\xff\xff\xff", "pickle is cut"},
      {"B\xff\xff\xff\xff", "pickle is cut"},
      {"\x8e" + std::string(8, '\xff'), "pickle is cut"},
      {"\x8d" + std::string(7, '\0') + "\x10", "pickle is cut"},
      {"\x95" + std::string(8, '\x7f'), "pickle is cut"},
      {"\x8b\xff\xff\xff\xff", "pickle is cut"},
      {"cos", "pickle is cut"},
      {"\x8a\x09" + std::string(9, '\1'), "more than 64 bits"},
      {std::string("\x8b\x09\0\0\0", 5) + std::string(9, '\1'), "more than 64 bits"},
      {"}(" + text("a") + "K\1" + text("a") + "K\2u", "the key 'a' twice"},
      {"]q\1h\1a", "contains itself"},
      {"}q\1" + text("a") + "h\1s", "contains itself"},
      {repeated("]", 100) + repeated("a", 99), "nested deeper than 64"},
      {repeated("]0", 5'000'001), "more than 5000000 objects"},
      {repeated("]", 1'000'001), "stack is too deep"},
      {repeated("N", 1'000'001), "stack is too deep"},
      {repeated("(", 1'000'001), "stack is too deep"},
  };
  for (const auto& [body, says] : cases) expect_words(line_of(body), {"cannot load p: ", says});
  EXPECT_EQ(line_of(repeated("]", 64) + repeated("a", 63)), "");
  for (const std::string bytes : {"", "\x80", "\x80\x01K\1.", "\x80\x06K\1.", "hello", "(dp0\n."}) {
    EXPECT_NE(error_of([&] { read_pickle(bytes, "p"); }), "") << bytes;
  }
}

TEST(Pickle, ThatGrowsIsRefused) {
  // Each line holds the one before twice: 2^60 of them from a few hundred bytes.
  std::string doubling = "]q\1";
  for (int i = 0; i < 60; ++i) doubling += "0(h\1h\1tq\1";
  expect_words(line_of(doubling), {"the same things over and over"});

  const std::string megabyte = text(std::string(1'000'000, 'a')) + "q\1" + "0";
  expect_words(line_of(megabyte + "](" + repeated("h\1", 1000) + "e"), {"the same text over and over"});
  expect_words(line_of(megabyte + global("_codecs", "encode") +
                       "q\2"
                       "0" +
                       "](" + repeated("h\2h\1" + text("latin1") + "\x86R", 1000) + "e"),
               {"encodes the same text over and over"});
  const std::string longest = "](" + repeated("N", 900'000) +
                              "eq\1"
                              "0";
  expect_words(line_of(longest + repeated(global("torch", "Size") + "h\1\x85R", 100)),
               {"copies the same things"});
}

TEST(Pickle, TensorsKeepWithinTheirStorage) {
  constexpr std::int64_t huge = std::int64_t{1} << 60;
  const std::string numbers = storage("FloatStorage", "0", 8);
  const auto line = [&](const std::string& from, std::int64_t offset, const std::vector<std::int64_t>& sizes,
                        const std::vector<std::int64_t>& strides) {
    return line_of(tensor_call(from, offset, sizes, strides));
  };
  const Value window = read(tensor_call(numbers, 1, {2, 3}, {1, 2}));
  expect_tensor(&window, at::tensor(std::vector<float>{1, 3, 5, 2, 4, 6}).view({2, 3}));
  EXPECT_EQ(line(numbers, 0, {8}, {1}), "");
  EXPECT_EQ(line(numbers, 7, {}, {}), "");
  EXPECT_EQ(line(numbers, 0, {0, 5}, {5, 1}), "");

  const char* const too_large = "claims more bytes than there are";
  expect_words(line(numbers, 0, {9}, {1}), {too_large});
  expect_words(line(numbers, 1, {8}, {1}), {too_large});
  expect_words(line(numbers, 8, {}, {}), {too_large});
  expect_words(line(numbers, 0, {2, 2}, {7, 1}), {too_large});
  expect_words(line(numbers, 0, {huge}, {1}), {too_large});
  expect_words(line(numbers, 0, {huge / 4}, {1}), {too_large});
  expect_words(line(numbers, 0, {huge}, {0}), {"far more memory"});
  expect_words(line(numbers, 0, {1 << 30, 1 << 30, 1 << 30}, {0, 0, 0}), {too_large});
  expect_words(line(numbers, 0, {0, huge, huge}, {0, 0, 0}), {too_large});
  expect_words(line(numbers, 0, {3}, {huge * 4}), {too_large});
  expect_words(line(numbers, std::numeric_limits<std::int64_t>::max(), {2}, {1}), {too_large});
  expect_words(line(numbers, 0, {huge / 8}, {0}), {"far more memory than the file has"});
  expect_words(line(numbers, 0, {100'000'000}, {0}), {"far more memory"});
  expect_words(line(numbers, 7, {2}, {-1}), {"no natural number"});
  expect_words(line(numbers, 0, {-1}, {1}), {"no natural number"});
  expect_words(line(numbers, -1, {1}, {1}), {"cannot load p"});
  expect_words(line(numbers, 0, {2, 2}, {1}), {"not as many strides as sizes"});
  expect_words(line(numbers, 0, std::vector<std::int64_t>(65, 1), std::vector<std::int64_t>(65, 1)),
               {"64 dimensions"});

  expect_words(line(storage("FloatStorage", "0", 9), 0, {1}, {1}), {"claims 9 numbers and has 32 bytes"});
  expect_words(line(storage("DoubleStorage", "0", 8), 0, {1}, {1}), {"claims 8 numbers"});
  expect_words(line(storage("FloatStorage", "0", huge * 4), 0, {1}, {1}),
               {"claims 4611686018427387904 numbers"});
  expect_words(line(storage("FloatStorage", "0", -1), 0, {1}, {1}), {"claims -1 numbers"});
  expect_words(line(storage("FloatStorage", "../0", 8), 0, {1}, {1}), {"no storage '../0'"});
  expect_words(line(storage("FloatStorage", "/etc/passwd", 8), 0, {1}, {1}), {"no storage '/etc/passwd'"});
  expect_words(line(storage("BoolStorage", "0", 32), 0, {32}, {1}), {"truth values"});
  // Many views of few bytes: together they are bound as well.
  const std::string view = tensor_call(numbers, 0, {1'000'000}, {0});
  expect_words(line_of("](" + repeated(view, 20) + "e"), {"far more memory"});
}

TEST(TorchFile, IsRefusedWhenItIsSomethingElse) {
  const ScratchFolder scratch;
  const auto path = scratch.path / "a.pth";
  const auto line = [&](const std::map<std::string, std::string>& entries) {
    write_torch_file(path, entries);
    return error_of([&] { read_torch_file(path); });
  };
  EXPECT_EQ(line({{"data.pkl", pickle("K\1")}}), "");
  expect_words(line({{"data.pkl", pickle("K\1") + "x"}}), {"bytes behind its pickle"});
  expect_words(line({{"data.pkl", pickle("K\1")}, {"byteorder", "big"}}), {"not little-endian"});
  expect_words(line({{"model.json", "{}"}}), {"no data.pkl"});
  for (const char* name : {"constants.pkl", "code/__torch__/net.py"}) {
    expect_words(line({{"data.pkl", pickle("K\1")}, {name, ""}}),
                 {"is a TorchScript program", "load it as a model"});
  }
  expect_words(line({{"data.pkl", pickle(tensor_call(storage("FloatStorage", "../version", 1), 0, {1}, {1}))},
                     {"version", "3333"}}),
               {"no storage '../version'"});
  expect_words(error_of([&] { read_torch_file(scratch.write("t", "hello")); }), {"no file of torch.save"});
  expect_words(error_of([&] { read_torch_file(scratch.write("e", "")); }), {"no file of torch.save"});
  expect_words(error_of([&] { read_torch_file(scratch.path / "none"); }), {"No such file"});
}

TEST(TorchFile, CutAnywhereIsRefused) {
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

TEST(TorchFile, WithAnyByteChangedIsReadOrRefusedInOneLine) {
  for (const char* name : {"kinds_legacy.pth", "arrays_protocol2.pth", "arrays_protocol5.pth"}) {
    const std::string whole = content(fixtures / name);
    for (const int with : {0x01, 0x41, 0xff}) {
      for (std::size_t i = 0; i < whole.size(); ++i) {
        std::string changed = whole;
        changed[i] = static_cast<char>(changed[i] ^ with);
        error_of([&] { detail::read_unzipped("changed", changed); });  // anything but an Error fails the test
      }
    }
  }
}

TEST(Weights, AreThoseOfTheStateDict) {
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

TEST(Weights, AreRefusedWhenTheyAreNone) {
  expect_words(error_of([] { read_weights(fixtures / "module.pth"); }),
               {"module.pth", "it asks for torch.nn.modules.container.Sequential", "model.state_dict()"});
  expect_words(error_of([] { read_weights(fixtures / "label_shuffle.pth"); }),
               {"no dict of tensors by name"});
  expect_words(error_of([] { read_weights(fixtures / "kinds.pth"); }), {"'numbers' is no tensor"});
  const ScratchFolder scratch;
  const auto line = [&](const std::string& body) {
    const auto path = scratch.write("a", pickle(body));
    return error_of([&] { read_weights(path); });
  };
  expect_words(line("}"), {"it has no tensors"});
  expect_words(line("}K\1K\2s"), {"an entry without a name is no tensor"});
  expect_words(line("}" + text("model") + "K\2s"), {"'model' is no tensor"});
}

TEST(Permutation, IsReadWhoeverWroteIt) {
  const std::vector<std::int64_t> expected{2, 0, 3, 1};
  EXPECT_EQ(read_permutation(fixtures / "label_shuffle.pth"), expected);
  EXPECT_EQ(read_permutation(fixtures / "label_shuffle_list.pth"), expected);
  const ScratchFolder scratch;
  EXPECT_EQ(read_permutation(scratch.write("a", pickle(std::string("(K\2K\0K\3K\1t", 10)))), expected);
}

TEST(Permutation, IsRefusedWhenItIsNone) {
  const ScratchFolder scratch;
  const auto line = [&](const std::string& body) {
    const auto path = scratch.write("a", pickle(body));
    return error_of([&] { read_permutation(path); });
  };
  expect_words(line("(K\1K\1l"), {"it names 1 twice", "0 to n-1"});
  expect_words(line("(K\1K\2l"), {"it has 2 numbers, and 2 among them"});
  expect_words(line("(K\1J\xff\xff\xff\xffl"), {"and -1 among them"});
  expect_words(line("]"), {"it is empty"});
  expect_words(line("(" + text("0") + "l"), {"something else than integers"});
  expect_words(line("(\x88l"), {"something else than integers"});
  expect_words(line("K\1"), {"no list of integers"});
  expect_words(error_of([] { read_permutation(fixtures / "state_dict.pth"); }), {"no list of integers"});
}

}  // namespace
}  // namespace refine::formats
