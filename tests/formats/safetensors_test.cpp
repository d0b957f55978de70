#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <refine/formats/safetensors.hpp>

#include <csignal>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "tests/fixtures/pytorch.hpp"
#include "tests/support/error_of.hpp"
#include "tests/support/scratch_folder.hpp"
#include "tests/support/sparse_bytes.hpp"

namespace refine::formats {
namespace {

using refine::testing::content;
using refine::testing::error_of;
using refine::testing::expect_words;
using refine::testing::ScratchFolder;
using refine::testing::SparseBytes;

/// Returns a file of this header and data, consistent or not.
std::string file_of(const std::string& header, const std::string& data = {}) {
  const std::uint64_t size = header.size();
  return std::string(reinterpret_cast<const char*>(&size), sizeof size) + header + data;
}

/// Returns the JSON entry of a tensor.
std::string entry(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
}

TEST(WriteSafeTensors, AnyStrides_WritesFormatExactly) {
  const ScratchFolder scratch;
  const auto path = scratch.path / "a.safetensors";
  at::Tensor numbers = at::arange(6, at::kFloat).view({2, 3});
  write_safetensors(path,
                    {{{"b", numbers.t()}, {"a", at::scalar_tensor(-2, at::kLong)}}, {{"key", "valüe"}}});

  // Parsed by hand: eight bytes of length, JSON, numbers.
  const std::string bytes = content(path);
  std::uint64_t size = 0;
  std::memcpy(&size, bytes.data(), 8);
  const std::string header = bytes.substr(8, size);
  EXPECT_EQ((8 + size) % 8, 0u);
  EXPECT_EQ(header.find_first_not_of(' ', header.rfind('}') + 1), std::string::npos) << "padded with spaces";
  EXPECT_EQ(header.substr(0, header.rfind('}') + 1),
            R"({"__metadata__":{"key":"valüe"},"a":{"dtype":"I64","shape":[],"data_offsets":[0,8]},)"
            R"("b":{"dtype":"F32","shape":[3,2],"data_offsets":[8,32]}})");
  ASSERT_EQ(bytes.size(), 8 + size + 32);
  std::int64_t a = 0;
  float b[6];
  std::memcpy(&a, bytes.data() + 8 + size, 8);
  std::memcpy(b, bytes.data() + 8 + size + 8, 24);
  EXPECT_EQ(a, -2);
  const float transposed[] = {0, 3, 1, 4, 2, 5};
  for (int i = 0; i < 6; ++i) EXPECT_EQ(b[i], transposed[i]);
}

TEST(ReadSafeTensors, PythonFile_ReturnsTensors) {
  const auto read = read_safetensors("tests/fixtures/pytorch.safetensors");
  EXPECT_TRUE(read.metadata.contains("torch"));
  EXPECT_EQ(read.tensors.at("images").sizes(), (std::vector<std::int64_t>{3, 3, 32, 32}));
  EXPECT_EQ(read.tensors.at("resnet18.bn1.num_batches_tracked").scalar_type(), at::kLong);
  EXPECT_EQ(read.tensors.at("resnet18.bn1.num_batches_tracked").dim(), 0);
}

TEST(SafeTensors, EveryDtypeAndLayout_RoundTrips) {
  const ScratchFolder scratch;
  SafeTensors all;
  for (const auto type : {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kLong, at::kInt, at::kShort,
                          at::kChar, at::kByte, at::kBool}) {
    const at::Tensor values = (at::randn({3, 4}) * 50).to(type);
    const std::string name = toString(type);
    all.tensors[name] = values;
    all.tensors[name + " transposed"] = values.t();
    all.tensors[name + " scalar"] = values[1][2];
    all.tensors[name + " empty"] = at::empty({5, 0, 2}, type);
  }
  all.tensors["expanded"] = at::ones({1, 3}).expand({4, 3});
  all.tensors["channels last"] = at::randn({2, 3, 4, 5}).contiguous(at::MemoryFormat::ChannelsLast);
  all.tensors["with gradient"] = at::randn({2}).set_requires_grad(true);
  all.tensors["a \"name\"\nwith \\ and ü"] = at::ones({1});
  write_safetensors(scratch.path / "a", all);
  const auto back = read_safetensors(scratch.path / "a");
  ASSERT_EQ(back.tensors.size(), all.tensors.size());
  for (const auto& [name, tensor] : all.tensors) {
    const at::Tensor& other = back.tensors.at(name);
    EXPECT_EQ(other.scalar_type(), tensor.scalar_type()) << name;
    EXPECT_TRUE(at::equal(other, tensor)) << name;
  }
}

TEST(SafeTensors, EmptyContent_RoundTrips) {
  const ScratchFolder scratch;
  write_safetensors(scratch.path / "a", {});
  EXPECT_TRUE(read_safetensors(scratch.path / "a").tensors.empty());
  write_safetensors(scratch.path / "a", {{{"e", at::empty({1000, 0})}}, {}});
  EXPECT_EQ(read_safetensors(scratch.path / "a").tensors.at("e").size(0), 1000);
}

TEST(ReadSafeTensors, TruncatedAnywhere_Throws) {
  const ScratchFolder scratch;
  write_safetensors(scratch.path / "whole",
                    {{{"a", at::ones({2, 2})}, {"b", at::ones({3}, at::kByte)}}, {{"k", "v"}}});
  const std::string whole = content(scratch.path / "whole");
  for (std::size_t n = 0; n < whole.size(); ++n) {
    const auto path = scratch.write("cut", whole.substr(0, n));
    EXPECT_NE(error_of([&] { read_safetensors(path); }), "") << n;
  }
  expect_words(error_of([&] { read_safetensors(scratch.write("longer", whole + "x")); }),
               {"extra bytes after the last tensor"});
}

TEST(ReadSafeTensors, InconsistentFile_Throws) {
  const ScratchFolder scratch;
  const std::string eight(8, '\1');
  const std::string deep = std::string(1'000'000, '[') + std::string(1'000'000, ']');
  std::string deep_object;
  for (int i = 0; i < 100'000; ++i) deep_object += R"({"a":)";
  const struct {
    std::string file, expected;
  } cases[] = {
      {std::string(8, '\xff'), "18446744073709551615 bytes, more than the 0 that the file has"},
      {std::string(7, '\0') + "\x10", "more than the 0 that the file has"},  // 2^60 bytes of header
      {file_of("[]"), "not a JSON object"},
      {file_of("{} x"), "not a JSON object"},
      {file_of("{\"a\":"), "not a JSON object"},
      {file_of(""), "not a JSON object"},
      {file_of("7"), "not a JSON object"},
      {file_of("\xff\xfe{}"), "not a JSON object"},
      {file_of(deep), "not a JSON object"},
      {file_of(deep_object), "nested deeper than 3 levels"},
      {file_of("{\"a\":" + deep + "}"), "'a' is malformed"},
      {file_of(R"({"a":{"other":)" + deep + "}}"), "nested deeper than 3 levels"},
      {file_of(R"({"a":{"shape":)" + deep + "}}"), "nested deeper than 3 levels"},
      {file_of(R"({"__metadata__":{"k":)" + deep + "}}"), "'k' is not a string"},
      {file_of(R"({"__metadata__":[]})"), "metadata is not an object"},
      {file_of(R"({"__metadata__":{"k":1}})"), "'k' is not a string"},
      {file_of(R"({"__metadata__":{"k":"1","k":"2"}})"), "duplicate key 'k'"},
      {file_of(R"({"a":7})"), "'a' is malformed"},
      {file_of(R"({"a":{}})"), "'a' is malformed"},
      {file_of(R"({"a":{"dtype":7,"shape":[],"data_offsets":[0,0]}})"), "'a' is malformed"},
      {file_of(R"({"a":)" + entry("F32", "[-2]", "[0,8]") + "}", eight), "'a' is malformed"},
      {file_of(R"({"a":)" + entry("F32", "[2.0]", "[0,8]") + "}", eight), "'a' is malformed"},
      {file_of(R"({"a":)" + entry("F32", "[\"2\"]", "[0,8]") + "}", eight), "'a' is malformed"},
      {file_of(R"({"a":)" + entry("F32", "2", "[0,8]") + "}", eight), "'a' is malformed"},
      {file_of(R"({"a":)" + entry("F32", "[2]", "[0,8,9]") + "}", eight), "'a' is malformed"},
      {file_of(R"({"a":)" + entry("F32", "[2]", "[-1,7]") + "}", eight), "'a' is malformed"},
      {file_of(R"({"a":)" + entry("F32", "[2]", "[0,8.5]") + "}", eight), "'a' is malformed"},
      {file_of(R"({"a":)" + entry("F8_E5M2", "[8]", "[0,8]") + "}", eight),
       "8-bit floating-point numbers (F8_E5M2)"},
      {file_of(R"({"a":)" + entry("X9", "[8]", "[0,8]") + "}", eight), "unknown dtype 'X9'"},
      {file_of(R"({"a":)" + entry("F32", "[2]", "[8,0]") + "}", eight), "outside the file"},
      {file_of(R"({"a":)" + entry("F32", "[2]", "[4,12]") + "}", eight), "outside the file"},
      {file_of(R"({"a":)" + entry("F32", "[1]", "[0,8]") + "}", eight),
       "8 bytes, but its shape and dtype need 4"},
      {file_of(R"({"a":)" + entry("U8", "[1152921504606846976]", "[0,8]") + "}", eight),
       "need 1152921504606846976"},
      {file_of(R"({"a":)" + entry("F64", "[4294967296,4294967296,2]", "[0,8]") + "}", eight),
       "more bytes than"},
      {file_of(R"({"a":)" + entry("F32", "[18446744073709551615]", "[0,8]") + "}", eight), "more bytes than"},
      {file_of(R"({"a":)" + entry("F32", "[0,18446744073709551615]", "[0,0]") + "}"), "more bytes than"},
      {file_of(R"({"a":)" + entry("F32", "[4294967296,0,4294967296]", "[0,0]") + "}"), "more bytes than"},
      {file_of(R"({"a":)" + entry("U8", "[5]", "[0,5]") + R"(,"b":)" + entry("U8", "[5]", "[3,8]") + "}",
               eight),
       "tensors overlap"},
      {file_of(R"({"a":)" + entry("U8", "[2]", "[0,2]") + R"(,"b":)" + entry("U8", "[4]", "[4,8]") + "}",
               eight),
       "unused bytes between tensors"},
      {file_of(R"({"a":)" + entry("U8", "[4]", "[0,4]") + "}", eight), "extra bytes after the last tensor"},
      {file_of(R"({"a":)" + entry("U8", "[8]", "[0,8]") + R"(,"a":)" + entry("U8", "[8]", "[0,8]") + "}",
               eight),
       "duplicate key 'a'"},
      {file_of(R"({"a":)" + entry("BOOL", "[8]", "[0,8]") + "}", std::string(7, '\1') + "\2"), "boolean"},
  };
  for (const auto& [file, expected] : cases) {
    const auto path = scratch.write("bad", file);
    const std::string line = error_of([&] { read_safetensors(path); });
    expect_words(line, {expected, path.string()});
  }
  expect_words(error_of([&] { read_safetensors(scratch.path / "none"); }), {"No such file"});
  expect_words(error_of([&] { read_safetensors(scratch.path); }), {scratch.path.string()});
}

TEST(ReadSafeTensors, LongNames_AreShortenedInMessages) {
  const ScratchFolder scratch;
  const std::string name(1000, 'n');
  for (const std::string& header :
       {"{\"" + name + "\":" + entry("F32", "[2]", "[0,4]") + "}",
        "{\"" + name + "\":" + entry(name, "[1]", "[0,4]") + "}", "{\"" + name + "\":{}}",
        "{\"" + name + "\":" + entry("F32", "[1]", "[0,4]") + ",\"" + name + "\":{}}",
        "{\"__metadata__\":{\"" + name + "\":1}}"}) {
    const std::string line =
        error_of([&] { read_safetensors(scratch.write("a.safetensors", file_of(header, "1234"))); });
    expect_words(line, {"cannot load", "nnn..."});
    EXPECT_LT(line.size(), 1000u);
  }
}

TEST(ReadSafeTensors, AtEachLimit_AcceptsAndOneBeyondThrows) {
  const auto error = [](std::string_view bytes) {
    return error_of([&] { read_safetensors("x.safetensors", bytes); });
  };
  const auto header_of = [&](std::uint64_t size) {  // of zeros
    const std::string_view number(reinterpret_cast<const char*>(&size), sizeof size);
    return error(SparseBytes(number, sizeof size + size).view());
  };
  expect_words(header_of(100'000'000), {"not a JSON object"});
  expect_words(header_of(100'000'001),
               {"the header claims 100000001 bytes, more than the 100000000 that the format allows"});

  const auto with_other = [&](const std::string& value) {
    return error(
        file_of(R"({"a":{"other":)" + value + R"(,"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "x"));
  };
  EXPECT_EQ(with_other("[1]"), "");
  expect_words(with_other("[[1]]"), {"nested deeper than 3 levels"});

  const auto of_dimensions = [&](int n) {
    std::string shape = "[1";
    for (int i = 1; i < n; ++i) shape += ",1";
    return error(file_of(R"({"a":)" + entry("U8", shape + "]", "[0,1]") + "}", "x"));
  };
  const auto of_name = [&](std::size_t size) {
    return error(file_of("{\"" + std::string(size, 'n') + "\":" + entry("U8", "[1]", "[0,1]") + "}", "x"));
  };
  EXPECT_EQ(of_name(1024), "");
  expect_words(of_name(1025), {"the name of a tensor has 1025 bytes, more than the 1024 allowed"});
  EXPECT_EQ(of_dimensions(64), "");
  expect_words(of_dimensions(65), {"tensor 'a' has 65 dimensions, more than the 64 allowed"});
}

TEST(WriteSafeTensors, UnsupportedContent_Throws) {
  const ScratchFolder scratch;
  const auto path = scratch.path / "a";
  const auto error = [&](const SafeTensors& content) {
    return error_of([&] { write_safetensors(path, content); });
  };
  expect_words(error({{{"c", at::ones({2}, at::kComplexFloat)}}, {}}), {"'c' has the dtype ComplexFloat"});
  expect_words(error({{{"__metadata__", at::ones({2})}}, {}}), {"rename it"});
  expect_words(error({{}, {{"k", "\xff"}}}), {"UTF-8"});
  EXPECT_EQ(scratch.files(), 0);
}

TEST(WriteSafeTensors, FullDisk_LeavesNoFile) {
  const ScratchFolder scratch;
  const auto path = scratch.path / "a";
  const SafeTensors large{{{"a", at::zeros({1'000'000})}}, {}};
  const pid_t child = ::fork();  // the limit applies to a whole process
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{100'000, 100'000};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    const auto line = error_of([&] { write_safetensors(path, large); });
    ::_exit(line.starts_with("cannot write " + path.string() + ": File too large") ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(scratch.files(), 0);
}

}  // namespace
}  // namespace refine::formats
