// Checkpoints in the forms of common training code (tests/fixtures/make_checkpoint_files.py).

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <gtest/gtest.h>
#include <refine/formats/checkpoint.hpp>
#include <refine/formats/detail/pickle_machine.hpp>
#include <refine/formats/inspect.hpp>
#include <refine/formats/safetensors.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
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

std::string checkpoint(const std::string& name) {
  return "tests/fixtures/checkpoints/" + name + ".pth";
}

/// Expects the state dict of little_net, whose values are ranges.
/// \param shift is added to the values of averages
void expect_little_net(const Weights& weights, float shift = 0) {
  EXPECT_EQ(weights.tensors.size(), 7u);
  const at::Tensor two = at::arange(2, at::kFloat) + shift;
  for (const auto& [name, expected] :
       {std::pair("0.weight", two.view({2, 1, 1, 1})), std::pair("0.bias", two + 10),
        std::pair("1.weight", two + 20), std::pair("1.bias", two + 30)}) {
    const auto found = weights.tensors.find(name);
    ASSERT_NE(found, weights.tensors.end()) << name;
    EXPECT_TRUE(at::equal(found->second, expected)) << name << found->second;
  }
}

/// A checkpoint, and where its weights lie.
struct Checkpoint {
  const char* name;
  const char* key = "";    ///< the `key` argument
  const char* found = "";  ///< the key of the state dict
  float shift = 0;         ///< difference of the values to those of little_net
};

class ReadWeights : public ::testing::TestWithParam<Checkpoint> {};

TEST_P(ReadWeights, Checkpoint_FindsStateDictByContentOrKey) {
  const auto& [name, key, found, shift] = GetParam();
  const Weights weights = read_weights(checkpoint(name), key);
  expect_little_net(weights, shift);
  EXPECT_EQ(weights.key, found);
}

INSTANTIATE_TEST_SUITE_P(
    Checkpoints, ReadWeights,
    ::testing::Values(
        Checkpoint{"vision", "", "model"}, Checkpoint{"vision", "model_ema", "model_ema", 100},
        Checkpoint{"wanet", "", "netC"}, Checkpoint{"timm", "", "state_dict"},
        Checkpoint{"timm", "state_dict_ema", "state_dict_ema", 100}, Checkpoint{"averaged"},
        Checkpoint{"compiled"}, Checkpoint{"compiled_inside"}, Checkpoint{"lightning", "", "state_dict"},
        Checkpoint{"lightning", "state_dict/model", "state_dict"},
        Checkpoint{"lightning_ema", "", "state_dict"},
        Checkpoint{"lightning_ema", "state_dict.model_ema", "state_dict", 100},
        Checkpoint{"backdoorbench", "", "model"}, Checkpoint{"numbers", "", "net"},
        Checkpoint{"of_a_class", "", "checkpoint/model"}, Checkpoint{"pair", "", "0"},
        Checkpoint{"pair", "0", "0"}, Checkpoint{"mixed"}, Checkpoint{"two", "encoder", "encoder"},
        Checkpoint{"two", "decoder", "decoder", 100}, Checkpoint{"best_and_last", "", "run/model"},
        Checkpoint{"best_and_last", "run.last", "run/last", 100}, Checkpoint{"legacy", "", "model"},
        Checkpoint{"protocol4", "", "model"}, Checkpoint{"fp8_beside", "", "model"}));

TEST(ReadWeights, Checkpoint_ListsOtherContent) {
  const Weights vision = read_weights(checkpoint("vision"));
  EXPECT_EQ(vision.other_keys, std::vector<std::string>({"model_ema"}));
  EXPECT_TRUE(vision.unknown_names.contains("argparse.Namespace"));
  EXPECT_EQ(vision.metadata.at("epoch"), "3");
  const Weights ema = read_weights(checkpoint("lightning_ema"));
  EXPECT_EQ(ema.other_keys, std::vector<std::string>({"state_dict/model_ema"}));
  EXPECT_EQ(read_weights(checkpoint("mixed")).metadata.at("arch"), "little");
  EXPECT_EQ(read_weights(checkpoint("numbers")).metadata.at("epoch"), "7");
}

TEST(ReadWeights, TensorsWithAttributes_AreRead) {
  const Weights weights = read_weights(checkpoint("attributes"));
  EXPECT_TRUE(at::equal(weights.tensors.at("0.weight"), at::arange(2, at::kFloat)));
  EXPECT_TRUE(at::equal(weights.tensors.at("0.bias"), at::arange(2, at::kFloat) + 10));
}

TEST(ReadTorchFile, UnknownClass_BecomesOpaque) {
  const Value file = read_torch_file(checkpoint("numbers"));
  ASSERT_NE(file.find("when"), nullptr);
  ASSERT_NE(file.find("when")->as_opaque(), nullptr);
  EXPECT_EQ(file.find("when")->as_opaque()->name, "datetime.datetime");
  EXPECT_FALSE(file.find("when")->as_opaque()->has_tensors);
  EXPECT_NEAR(file.find("acc")->as_tensor()->item<double>(), 91.2, 1e-12);
}

TEST(ReadWeights, AmbiguousOrUnknownKey_Throws) {
  expect_words(error_of([] { read_weights(checkpoint("two")); }),
               {"2 sets of weights", "'encoder' (7 tensors)", "'decoder'", "--key"});
  expect_words(error_of([] { read_weights(checkpoint("two"), "middle"); }), {"no weights at --key middle"});
  expect_words(error_of([] { read_weights(checkpoint("vision"), "epoch"); }), {"no weights at --key epoch"});
  expect_words(error_of([] { read_weights(checkpoint("compiled"), "nothing"); }), {"--key nothing"});
}

TEST(ReadWeights, UnsupportedTensors_ThrowsTheirKind) {
  const struct {
    const char* name;
    std::vector<std::string_view> words;
  } cases[] = {
      {"fp8", {"'0.weight' is a tensor of 8-bit floating-point numbers", "torch.float8_e4m3fn", "float32"}},
      {"complex", {"'0.weight' is a tensor of complex numbers", "view_as_real"}},
      {"sparse", {"'0.weight' is a sparse tensor", "to_dense"}},
      {"unsigned", {"'0.weight' is a tensor of unsigned integers", "torch.uint16"}},
      {"quantized_plain", {"'0.weight' is a quantised tensor", "no gradient passes", "float model"}},
      {"quantized", {"_packed_params' is a quantised tensor", "no gradient passes", "float model"}},
      {"whole_inside",
       {"'model' is not a tensor but an object of class torch.nn.modules.container.Sequential",
        "model.state_dict()"}},
  };
  for (const auto& [name, words] : cases) {
    const std::string line = error_of([&] { read_weights(checkpoint(name)); });
    for (const auto word : words) expect_words(line, {word});
  }
}

TEST(ReadWeights, AnyByteChanged_ReadsOrThrows) {
  const std::string whole = content(checkpoint("legacy"));
  const ScratchFolder scratch;
  for (std::size_t i = 0; i < whole.size(); ++i) {
    for (const int with : {0x01, 0x41, 0xff}) {
      std::string changed = whole;
      changed[i] = static_cast<char>(changed[i] ^ with);
      error_of([&] {  // any other exception fails the test
        detail::extract_weights(detail::read_unzipped("changed", changed), "changed", "");
      });
    }
  }
}

// Each of these pickles evaded a public scanner. Python would create `marker` while loading it.
TEST(ReadWeights, MaliciousPickle_ThrowsWithoutRunningIt) {
  const ScratchFolder scratch;
  const std::string marker = (scratch.path / "marker").string();
  const std::string system = global("posix", "system"), command = text("touch " + marker);
  const std::string bomb = [] {
    std::string all = "]q\x01";
    for (int i = 0; i < 40; ++i) all += "0(h\x01h\x01tq\x01";
    return all;
  }();
  const struct {
    const char* way;
    std::string body;
    const char* expected;
  } cases[] = {
      {"GLOBAL, REDUCE", system + command + "\x85R", "posix.system"},
      {"in a dict of weights", "}" + text("a.weight") + system + command + "\x85Rs", "posix.system"},
      {"popped from the stack", system + command + "\x85R0}", "posix.system"},
      {"STACK_GLOBAL", "\x8c\x05posix\x8c\x06system\x93" + command + "\x85R", "posix.system"},
      {"STACK_GLOBAL by memo",
       "\x8c\x05posixq\x01"
       "0\x8c\x06systemq\x02"
       "0h\x01h\x02\x93" +
           command + "\x85R",
       "posix.system"},
      {"INST", "(" + command + "iposix\nsystem\n", "posix.system"},
      {"OBJ", "(" + system + command + "o", "posix.system"},
      {"NEWOBJ", system + command + "\x85\x81", "posix.system"},
      {"NEWOBJ_EX", system + command + "\x85}\x92", "posix.system"},
      {"EXT1", "\x82\x01", "instruction 0x82"},
      {"EXT2", std::string("\x83\x01\x00", 3), "instruction 0x83"},
      {"EXT4", std::string("\x84\x01\x00\x00\x00", 5), "instruction 0x84"},
      {"BUILD with __setstate__", global("builtins", "eval") + ")\x81" + text("x") + "b", "builtins.eval"},
      {"PERSID", "Pposix\n" + system, "unknown kind of persistent id"},
      {"BINPERSID", "(" + text("storage") + system + text("0") + text("cpu") + "K\x01tQ", "posix.system"},
      {"a buffer out of band", "\x97", "instruction 0x97"},
      {"a dotted name",
       "\x8c\x08"
       "builtins\x8c\x0d"
       "eval.__self__\x93" +
           command + "\x85R",
       "builtins.eval"},
      {"getattr", global("builtins", "getattr") + global("os", "path") + text("x") + "\x86R",
       "builtins.getattr"},
      {"an alias of the module", global("nt", "system") + command + "\x85R", "nt.system"},
      {"an unknown gadget", global("some.library", "run") + command + "\x85R", "some.library.run"},
      {"a tensor's own loader", global("torch.storage", "_load_from_bytes") + command + "\x85R",
       "_load_from_bytes"},
      {"a second stream", "}." + std::string("\x80\x02") + system + command + "\x85R", "posix.system"},
      {"a second stream of another kind", "}.}", "extra bytes after the pickle"},
      {"a frame that lies", std::string("\x95\xff\xff\xff\x7f\x00\x00\x00\x00", 9) + "}", "is truncated"},
      {"a memo bomb", bomb, "too often"},
      {"a memo of 2^32",
       std::string("}r\xff\xff\xff\xff"
                   "j\xff\xff\xff\xff"
                   "s"),
       ""},
      {"a broken end",
       system + command +
           "\x85R"
           "0K",
       "posix.system"},
      {"a broken end and an old protocol", "\xff", "instruction 0xff"},
  };
  for (const auto& [way, body, expected] : cases) {
    for (const char* protocol : {"\x80\x02", "\x80\x04"}) {
      const auto path = scratch.write("a.pth", protocol + body + ".");
      const std::string line = error_of([&] { read_weights(path); });
      EXPECT_NE(line, "") << way;
      expect_words(line, {expected});
    }
  }
  EXPECT_FALSE(std::filesystem::exists(marker));
}

TEST(ReadWeights, ProgramOrUnknownClass_ThrowsDifferentErrors) {
  const ScratchFolder scratch;
  const auto program = scratch.write("a.pth", "\x80\x02" + global("os", "system") + text("x") + "\x85R.");
  EXPECT_THROW(read_weights(program), ProgramError);
  const auto object = scratch.write("b.pth", "\x80\x02" + global("nets", "Net") + ")\x81.");
  EXPECT_THROW(read_weights(object), Error);
  try {
    read_weights(object);
  } catch (const ProgramError&) {
    ADD_FAILURE() << "an unknown class is not a program";
  } catch (const Error&) {
  }
}

// CVE-2025-32434: torch.load(..., weights_only=True) ran code of files in PyTorch's old tar format.
TEST(ReadWeights, Cve_2025_32434_Throws) {
  const ScratchFolder scratch;
  std::string tar(1024, '\0');
  tar.replace(0, 6, "pickle");
  tar.replace(257, 5, "ustar");
  expect_words(error_of([&] { read_weights(scratch.write("a.tar", tar)); }), {"a tar archive"});
  tar.replace(124, 11, "00000000027");
  tar.replace(512, 23, "cos\nsystem\n(S'true'\ntR.");
  expect_words(error_of([&] { read_weights(scratch.write("a.tar", tar)); }), {"asks for os.system"});
}

// A file in the format before PyTorch 1.6 has five pickles, and torch.load runs each.
TEST(ReadWeights, ProgramInAnyPickleOfLegacyFile_ThrowsProgramError) {
  const ScratchFolder scratch;
  const std::string whole = refine::testing::content("tests/fixtures/kinds_legacy.pth");
  const std::string call = global("os", "system") + text("true") + "\x85R0";
  int found = 0;
  for (std::size_t i = whole.find("\x80\x02"); i != std::string::npos; i = whole.find("\x80\x02", i + 2)) {
    std::string changed = whole;
    changed.insert(i + 2, call);
    const auto path = scratch.write("a.pth", changed);
    EXPECT_THROW(read_weights(path), ProgramError) << "at " << i;
    ++found;
  }
  EXPECT_GE(found, 4);
}

// CVE-2026-24747: SETITEMS on other objects than dicts and too small storages corrupted memory.
TEST(ReadWeights, Cve_2026_24747_Throws) {
  const ScratchFolder scratch;
  const std::string storage =
      "(" + text("storage") + global("torch", "FloatStorage") + text("0") + text("cpu") + "K\x08tQ";
  const std::string tensor = global("torch._utils", "_rebuild_tensor_v2") + "(" + storage +
                             std::string("K\x00(K\x08t(K\x01t\x89}tR", 14);
  for (const std::string& body :
       {tensor + "K\x01K\x02s", tensor + "(K\x01K\x02u", std::string("](K\x01K\x02u"),
        storage + "(K\x01K\x02u", std::string("K\x01K\x01K\x02s")}) {
    expect_words(error_of([&] { read_weights(scratch.write("a", "\x80\x02" + body + ".")); }),
                 {"sets an item of an object that is not a dict"});
  }
  expect_words(error_of([&] {
                 const Storages short_storages = [](std::string_view) { return std::string_view("1234"); };
                 const std::string bytes = "\x80\x02" + tensor + ".";
                 read_pickle(bytes, "a", short_storages);
               }),
               {"claims 8 elements but has 4 bytes"});
}

TEST(ExtractWeights, NameAtTheLimit_IsReadAndOneBeyondThrows) {
  const auto file = [](std::size_t size) {
    Dict dict;
    dict.emplace_back(Value{std::string(size, 'n')}, Value{at::ones({2})});
    return detail::TorchFile{.value = {std::make_shared<const Dict>(std::move(dict))}};
  };
  EXPECT_EQ(detail::extract_weights(file(1024), "a.pth", "").tensors.size(), 1u);
  expect_words(error_of([&] { detail::extract_weights(file(1025), "a.pth", ""); }),
               {"a.pth", "the name of a tensor has 1025 bytes, more than the 1024 allowed"});
}

TEST(StripSharedPrefix, AllTensorsShareIt_RemovesIt) {
  std::map<std::string, at::Tensor> tensors = {{"resnet.conv1.weight", {}}, {"resnet.fc.weight", {}}};
  EXPECT_TRUE(strip_shared_prefix(tensors));
  EXPECT_TRUE(tensors.contains("conv1.weight") && tensors.contains("fc.weight"));
  EXPECT_FALSE(strip_shared_prefix(tensors));
}

TEST(ReadWeights, SafeTensorsWithKey_SelectsPrefix) {
  const ScratchFolder scratch;
  const at::Tensor two = at::arange(2, at::kFloat);
  write_safetensors(scratch.path / "a",
                    {.tensors = {{"student.0.weight", two}, {"teacher.0.weight", two + 1}}});
  const Weights weights = read_weights(scratch.path / "a", "teacher");
  EXPECT_TRUE(at::equal(weights.tensors.at("0.weight"), two + 1));
  expect_words(error_of([&] { read_weights(scratch.path / "a", "nothing"); }), {"--key nothing"});
}

}  // namespace
}  // namespace refine::formats
