#include <archive.h>
#include <archive_entry.h>
#include <fmt/core.h>
#include <gtest/gtest.h>
#include <refine/formats/archive.hpp>
#include <refine/formats/checkpoint.hpp>
#include <refine/formats/detail/objection.hpp>
#include <refine/formats/inspect.hpp>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support/error_of.hpp"
#include "tests/support/scratch_folder.hpp"

namespace refine::formats {
namespace {

using namespace std::string_literals;
using refine::testing::error_of;
using refine::testing::expect_words;
using refine::testing::ScratchFolder;

std::string field(char tag, const std::string& content) {
  return tag + std::string(1, static_cast<char>(content.size())) + content;
}

/// Writes a ZIP archive with entries of these names, with libarchive.
void write_zip(const std::filesystem::path& path, const std::vector<std::string>& names) {
  const std::unique_ptr<::archive, int (*)(::archive*)> zip(archive_write_new(), &archive_write_free);
  archive_write_set_format_zip(zip.get());
  ASSERT_EQ(archive_write_open_filename(zip.get(), path.c_str()), ARCHIVE_OK);
  for (const std::string& name : names) {
    const std::unique_ptr<archive_entry, void (*)(archive_entry*)> entry(archive_entry_new(),
                                                                         &archive_entry_free);
    archive_entry_set_pathname(entry.get(), name.c_str());
    archive_entry_set_filetype(entry.get(), AE_IFREG);
    archive_entry_set_size(entry.get(), 1);
    ASSERT_EQ(archive_write_header(zip.get(), entry.get()), ARCHIVE_OK);
    archive_write_data(zip.get(), "x", 1);
  }
  ASSERT_EQ(archive_write_close(zip.get()), ARCHIVE_OK);
}

/// The first bytes of a file, and words that its refusal must have.
struct ForeignFile {
  std::string beginning, what;
};

class RecognizeContent : public ::testing::TestWithParam<ForeignFile> {};

TEST_P(RecognizeContent, ForeignFile_NamesKindAndAdvice) {
  const ScratchFolder scratch;
  const auto& [beginning, what] = GetParam();
  for (const std::string& tail : {std::string(120, ' '), std::string(300, '\0')}) {
    const auto path = scratch.write("model.pt", beginning + tail);
    const std::string line = error_of([&] { read_weights(path); });
    expect_words(line, {path.string(), what, "; "});
    EXPECT_EQ(line.find("damaged"), std::string::npos) << line;
    EXPECT_THROW(read_weights(path), ForeignFileError);
  }
}

// The first bytes are those that the writers of each format produce.
INSTANTIATE_TEST_SUITE_P(
    Kinds, RecognizeContent,
    ::testing::Values(
        ForeignFile{"\x89HDF\r\n\x1a\n\0"s, "HDF5"},
        ForeignFile{"\x08\x08\x12\x07pytorch\x1a\x05"
                    "2.1.0:\x20"s,
                    "an ONNX model"},
        ForeignFile{"\x08\x0a" + field('\x12', "skl2onnx"), "an ONNX model"},
        ForeignFile{"\x08\x07:\x20\x0a\x04node"s, "an ONNX model"},
        ForeignFile{"\x08\x01\x12\x64\x0a\x40\x12\x3e\x0a\x05\x0a\x03"
                    "Add"s,
                    "a TensorFlow SavedModel"},
        ForeignFile{"\x08\x05\x12\x64\x0a\x20\x0a\x05image\x12\x03"s, "a Core ML model"},
        ForeignFile{"\x0a\x20\x0a\x05input\x12\x0bPlaceholder*\x08"s, "a frozen TensorFlow graph"},
        ForeignFile{"\x1c\0\0\0TFL3"s, "TensorFlow Lite"}, ForeignFile{"\x1c\0\0\0ET12"s, "ExecuTorch"},
        ForeignFile{"GGUF\3\0\0\0"s, "GGUF"},
        ForeignFile{"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"},
        ForeignFile{"\n <!DOCTYPE html><html>", "a web page"},
        ForeignFile{"\xef\xbb\xbf<HTML>", "a web page"},
        ForeignFile{"{\"error\": \"not found\"}", "a JSON document"},
        ForeignFile{"{\"weight_map\": {}}", "in several files"},
        ForeignFile{"<?xml version=\"1.0\"?>\n<net name=\"a\">", "an OpenVINO model"},
        ForeignFile{"<?xml version=\"1.0\"?><Error>", "an XML"}, ForeignFile{"\x1f\x8b\x08", "gunzip"},
        ForeignFile{"\x93NUMPY\1"s, "a NumPy array"}, ForeignFile{"\x89PNG\r\n\x1a\n", "a PNG image"},
        ForeignFile{"\x7f"
                    "ELF\2\1\1"s,
                    "an executable"},
        ForeignFile{std::string(600, '\0'), "a file of zeros"}));

TEST(RecognizeFile, EmptyFileOrFolder_NamesKind) {
  const ScratchFolder scratch;
  expect_words(error_of([&] { read_weights(scratch.write("a.pt", "")); }), {"is empty", "get it again"});
  expect_words(error_of([&] { read_weights(scratch.path); }), {"is a folder"});
  scratch.write("saved_model.pb", "x");
  expect_words(error_of([&] { read_weights(scratch.path); }), {"a folder of a TensorFlow SavedModel"});
}

TEST(RecognizeContent, UnknownContent_ReturnsNothing) {
  for (const std::string& bytes :
       {"hello, world"s, "\x80\x02}."s, "x"s, "\x08"s, "\x08\x08\x12"s, "\xff\xff\xff\xff"s}) {
    EXPECT_FALSE(recognize(bytes, bytes.size()).has_value()) << bytes;
  }
}

// The signatures of some formats are pickle instructions: MZ pushes an object, GGUF a float, BZh and
// TFL3 text.
TEST(ReadWeights, ForeignSignatureBeforeProgram_ThrowsProgramError) {
  const ScratchFolder scratch;
  const std::string call = "cos\nsystem\n(S'true'\ntR.";
  const std::string tar =
      "X" + std::string("\x2c\1\0\0", 4) + std::string(252, ' ') + "ustar" + std::string(43, ' ');
  const std::string safetensors_size = "X" + std::string("\x10\0\0\0\0\0\0{", 8) + std::string(12, ' ');
  const auto numpy = [](std::string_view type, std::size_t blanks = 0) {  // a type as Python evaluates it
    const std::string header = fmt::format("{{{}'descr': {}, 'fortran_order': False, 'shape': (1,), }}\n",
                                           std::string(blanks, ' '), type);
    const auto size = static_cast<std::uint32_t>(header.size());
    const std::string first{static_cast<char>(size), static_cast<char>(size >> 8)},
        second{static_cast<char>(size >> 16), static_cast<char>(size >> 24)};
    return size < 65536 ? "\x93NUMPY\1\0"s + first + header + "\x80\3"
                        : "\x93NUMPY\2\0"s + first + second + header + "\x80\3";
  };
  const std::string far = "MZ.X" + std::string("\0\0\2\0", 4) + std::string(131072, ' ');
  for (const std::string& beginning :
       {"MZ."s, "GGUF\0\0\0\0\0"s, "BZh\0\0"s + std::string(0x685a, ' '), tar, safetensors_size,
        numpy("'|O'"), numpy("'O'"), numpy("'object'"), numpy("[('a', 'O')]"), numpy("'\\x4f'"),
        numpy("'obj' 'ect'"), numpy("'|O'", 300), numpy("'|O'", 70'000), far}) {
    const auto path = scratch.write("model.pt", beginning + call);
    expect_words(error_of([&] { read_weights(path); }), {path.string(), "asks for os.system"});
    EXPECT_THROW(read_weights(path), ProgramError) << beginning.substr(0, 20);
  }
}

// "c" begins a name in a pickle, which consists of this line and the next one.
TEST(ReadWeights, TextThatBeginsLikeName_IsNotProgram) {
  const ScratchFolder scratch;
  for (const char* text :
       {"cos.name: system\nepochs: 10\n", "csys. See the manual.\nIt explains this.\n",
        "classes: /data/.os.\nlr: 0.1\n", "cbuiltins.eval is unsafe\n\nand so is exec\n"}) {
    const auto path = scratch.write("config.yaml", text);
    expect_words(error_of([&] { read_weights(path); }), {path.string(), "not a file of torch.save"});
    EXPECT_TRUE(detail::find_program(text).name.empty()) << text;
  }
}

TEST(RecognizeArchive, ForeignEntries_NamesKind) {
  const ScratchFolder scratch;
  const auto path = scratch.path / "model.pt";
  const struct {
    std::vector<std::string> names;
    std::string_view what;
  } cases[] = {
      {{"m/archive_format", "m/data/aotinductor/model/c.so"}, "AOTInductor"},
      {{"serialized_exported_program.json", "version", "serialized_state_dict.pt"}, "(.pt2)"},
      {{"metadata.json", "config.json", "model.weights.h5"}, "a Keras model"},
      {{"MAR-INF/MANIFEST.json", "model.pt"}, "TorchServe"},
      {{"a.npy", "b.npy"}, ".npz"},
      {{"m/.data/extern_modules", "m/model/model.pkl"}, "torch.package"},
      {{"m/model.json", "m/tensors/0", "m/code/m.py"}, "PyTorch 1.0 to 1.3"},
      {{"best.pth", "notes.txt"}, "unpack it"},
      {{"META-INF/MANIFEST.MF", "a.class"}, "another application"},
  };
  for (const auto& [names, what] : cases) {
    write_zip(path, names);
    expect_words(error_of([&] { read_archive(path); }), {path.string(), what});
    expect_words(error_of([&] { read_weights(path); }), {path.string(), what});
  }
}

}  // namespace
}  // namespace refine::formats
