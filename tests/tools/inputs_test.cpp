// Inputs of the command line: folders, names and paths of all kinds. The victim needs no training:
// it recognizes the colour of an image.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <ATen/core/jit_type.h>
#include <ATen/ops/tensor.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/serialization/import.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include <refine/core/file.hpp>
#include <refine/report/images.hpp>

#include "tests/support/error_of.hpp"
#include "tests/support/file_permissions.hpp"
#include "tests/support/scratch_folder.hpp"
#include "tests/tools/run_refine.hpp"

namespace refine {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using namespace std::string_literals;
using testing::content;
using testing::expect_words;
using testing::is_done;
using testing::Outcome;
using testing::ScratchFolder;

constexpr int classes = 12, side = 16;

/// Returns the colour of class c, far from the others.
std::vector<int> colour(int c) {
  return {20 + 100 * (c % 3), 20 + 100 * (c / 3 % 2), 20 + 200 * (c / 6)};
}

class Inputs : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    here = std::make_unique<ScratchFolder>();
    torch::jit::Module victim("Colours");
    std::vector<double> palette;
    for (int c = 0; c < classes; ++c) {
      for (const int v : colour(c)) palette.push_back(v / 255.0);
    }
    victim.register_buffer("palette", at::tensor(palette, at::kFloat).view({classes, 3}));
    victim.define(
        "def forward(self, x):\n"
        "  mean = x.mean(3).mean(2)\n"
        "  return 50.0 * (2.0 * mean.matmul(self.palette.t()) - (self.palette * self.palette).sum(1))\n");
    victim.save((here->path / "victim.pt").string());
    for (int i = 0; i < 60; ++i) write("clean/" + std::to_string(i) + ".png", i % classes, i);
    const Outcome run = refine("defend --model victim.pt --images clean --out d.pt" + quick);
    ASSERT_TRUE(is_done(run)) << run.err;
  }
  static void TearDownTestSuite() { here.reset(); }

  /// Writes an image of class c, `height` pixels high.
  static void write(const fs::path& name, int c, int variant = 0, int height = side) {
    std::vector<std::uint8_t> rows;
    for (int i = 0; i < height * side; ++i) {
      for (const int v : colour(c)) rows.push_back(static_cast<std::uint8_t>(v + (i + variant) % 7));
    }
    files::write(here->path / name, report::png(rows, height, side));
  }

  /// Writes `each` images of each of the first `of` classes, in folders by `name`.
  template <typename Name>
  static void write_classes(const std::string& root, Name&& name, int each = 4, int of = classes) {
    for (int c = 0; c < of; ++c) {
      for (int i = 0; i < each; ++i) write(fs::path(root) / name(c) / (std::to_string(i) + ".png"), c, i);
    }
  }

  static Outcome refine(const std::string& arguments) { return testing::run_refine(*here, arguments); }

  static void expect_refusal(const std::string& arguments, std::initializer_list<std::string_view> words) {
    SCOPED_TRACE(arguments);
    testing::expect_refusal(refine(arguments), words);
  }

  /// Returns the victim's accuracy as `evaluate` measures it, or −1 if it measures none.
  /// \param words on standard error
  static double accuracy(const std::string& folder, const std::string& more = {},
                         std::initializer_list<std::string_view> words = {}) {
    const Outcome run = refine("evaluate --json --scan 0 --model d.pt --images " + folder + " " + more);
    EXPECT_TRUE(is_done(run)) << run.err;
    expect_words(run.err, words);
    if (!is_done(run)) return -2;
    const json before = json::parse(run.out)["before"];
    return before.is_null() ? -1 : before["ba"]["value"].get<double>();
  }

  static inline std::unique_ptr<ScratchFolder> here;
  static inline const std::string quick = " --image 16 --epoch 1 --width 2 --levels 1 --no_scan ";
};

TEST_F(Inputs, Outputs_ThatAreInputs_AreRefused) {
  const fs::path root = here->path;
  const std::string victim = content(root / "victim.pt");
  fs::copy_file(root / "victim.pt", root / "other.safetensors");
  fs::create_symlink("victim.pt", root / "linked.pt");
  fs::create_hard_link(root / "victim.pt", root / "hard.pt");
  fs::create_directory_symlink("clean", root / "mirror");
  here->write("names.txt", "a\n");
  const std::string defend = "defend --images clean" + quick;
  for (const char* out : {"victim.pt", "./clean/../victim.pt", "linked.pt", "hard.pt"}) {
    expect_refusal(defend + "--model victim.pt --out " + out, {out, "--model", "victim.pt", "--out"});
    expect_refusal("export --image 16 --model victim.pt --out "s + out, {out, "--model"});
  }
  expect_refusal(defend + "--model hard.pt --out victim.pt", {"--model", "hard.pt"});
  expect_refusal(defend + "--model other.safetensors --out other.pt", {"other.safetensors", "--model"});
  expect_refusal(defend + "--model victim.pt --class_names names.txt --out names.txt", {"--class_names"});
  expect_refusal(defend + "--model victim.pt --out clean/d.pt", {"images.png", "--images", "clean"});
  expect_refusal(defend + "--model victim.pt --out mirror/d.pt", {"images.png", "--images", "clean"});
  expect_refusal(defend + "--model victim.pt --save_config victim.pt", {"victim.pt", "--save_config"});
  expect_refusal(defend + "--model victim.pt --out e.pt --save_config e.safetensors",
                 {"e.safetensors", "--save_config"});
  fs::copy_file(root / "d.pt", root / "defended.pt");  // the default --out
  expect_refusal("defend --model defended.pt --images clean" + quick, {"defended.pt", "--model", "--out"});
  EXPECT_EQ(content(root / "victim.pt"), victim);
  EXPECT_EQ(content(root / "other.safetensors"), victim);
  EXPECT_FALSE(fs::exists(root / "e.safetensors")) << "before any work";
}

TEST_F(Inputs, ReportsAndExports_OntoTheirInputs_AreRefused) {
  expect_refusal("evaluate --model d.pt --images clean --report clean",
                 {"images.png", "--images", "--report"});
  expect_refusal("evaluate --model d.pt --images clean --report clean/new/deep", {"images.png", "--images"});
  expect_refusal("export --image 16 --model victim.pt --defense d.safetensors --out d.safetensors",
                 {"--defense", "--out"});
  const std::string metrics = content(here->path / "d.report/metrics.json");
  expect_refusal("report d.report --html d.report/metrics.json", {"metrics.json", "--html"});
  EXPECT_EQ(content(here->path / "d.report/metrics.json"), metrics);
  const std::string model = content(here->path / "d.pt");
  expect_refusal("predict --model d.pt clean --save_config d.pt", {"d.pt", "--save_config"});
  expect_refusal("inspect d.pt --save_config ./d.pt", {"d.pt", "--save_config"});
  EXPECT_EQ(content(here->path / "d.pt"), model);
  const Outcome saved = refine("inspect d.pt --save_config kept.toml");
  EXPECT_EQ(saved.status, 0) << saved.err;
  EXPECT_TRUE(fs::exists(here->path / "kept.toml"));
}

TEST_F(Inputs, ClassNames_Utf8OfAnyEditor_AreRead) {
  std::string lines;
  for (int c = 0; c < classes; ++c) lines += "  name " + std::to_string(c) + " \t\r\n\r\n";
  here->write("bom.txt", "\xef\xbb\xbf" + lines + "\n\n");
  std::string old = lines;
  std::erase(old, '\n');
  here->write("mac.txt", old);
  write_classes(
      "named", [](int c) { return "name " + std::to_string(c); }, 2);
  EXPECT_EQ(accuracy("named", "--class_names bom.txt"), 1);
  EXPECT_EQ(accuracy("named", "--class_names mac.txt"), 1);

  here->write("latin.txt",
              "c0\nK\xe4"
              "fer\n");
  std::string wide = "\xff\xfe";
  for (const char c : "a\nb\n"s) wide += {c, '\0'};
  here->write("wide.txt", wide);
  here->write("bare.txt", wide.substr(2));
  here->write("empty.txt", "\xef\xbb\xbf\r\n  \n");
  const std::string defend =
      "defend --model victim.pt --images nowhere --out n.pt" + quick + "--class_names ";
  here->write("nowhere/a.png", "not an image: it is not read");
  expect_refusal(defend + "latin.txt", {"latin.txt", "line 2", "0xe4", "UTF-8"});
  expect_refusal(defend + "wide.txt", {"wide.txt", "UTF-16"});
  expect_refusal(defend + "bare.txt", {"bare.txt", "UTF-16"});
  expect_refusal(defend + "empty.txt", {"empty.txt", "no names"});
  expect_refusal("predict --model d.pt nowhere --class_names latin.txt", {"latin.txt", "line 2"});

  std::string twice = "name 0\n" + lines.substr(0, lines.rfind("name"));
  here->write("twice.txt", twice);  // 0 and 1 have the same name
  expect_refusal("evaluate --model d.pt --images named --class_names twice.txt", {"'name 0'", "0 and 1"});
  EXPECT_EQ(accuracy("named", "--class_names twice.txt --no_labels"), -1);
}

TEST_F(Inputs, ClassFolders_NamesInAnyBytes_AreClasses) {
  const auto name = [](int c) {
    return c == 3 ? "K\xe4"
                    "fer"s
                  : "c" + std::to_string(c);
  };
  write_classes("bytes/train", name, 6, 4);
  write_classes("bytes/test", name, 2, 4);
  const std::string words = " --dataset bytes --model ResNet18 --width 2 --epoch 1 ";
  const Outcome attack = refine("attack --tlabel 0 --json --rate 0.2" + words);
  ASSERT_EQ(attack.status, 0) << attack.err;
  EXPECT_TRUE(fs::exists(here->path / "attack/bytes/ResNet18/BadNets/victim.safetensors"));
  EXPECT_TRUE(fs::exists(here->path / "attack/bytes/ResNet18/BadNets/victim.json"));
  const Outcome defense = refine(
      "defend --dataset bytes --model ResNet18 --epoch 1 --width 2 --levels 1 --no_scan --json --out bytes.pt");
  ASSERT_TRUE(is_done(defense)) << defense.err;
  EXPECT_EQ(json::parse(defense.out)["class_names"][0],
            "K\\xe4"
            "fer");
  const Outcome known = refine("evaluate --json --scan 0 --model bytes.pt --images bytes/test");
  ASSERT_TRUE(is_done(known)) << known.err;
  EXPECT_EQ(json::parse(known.out)["before"]["ba"]["n"], 8);
}

TEST_F(Inputs, BatchSize_OneImage_IsRefused) {
  const std::string defend = "defend --model victim.pt --images clean --out b.pt" + quick;
  expect_refusal(defend + "--batch_size 1", {"--batch_size", "2 or more", "got 1"});
  expect_refusal("attack --dataset nowhere --batch_size 1", {"--batch_size", "2 or more"});
  here->write("batch.toml", "[defend]\nbatch_size=1\n");
  expect_refusal("--config batch.toml " + defend, {"2 or more"});
  for (const char* size : {"2", "47"}) {  // 60 images less 12 held back: 48
    const Outcome run = refine(defend + "--batch_size " + size);
    EXPECT_TRUE(is_done(run)) << run.err;
  }
}

TEST_F(Inputs, ClassFolders_Numbers_AreReadInTheOrderThatFitsTheModel) {
  write_classes("numbers", [](int c) { return std::to_string(c); });
  write_classes("padded", [](int c) { return (c < 10 ? "0000" : "000") + std::to_string(c); });
  write_classes("prefixed", [](int c) { return "class" + std::to_string(c); });
  write_classes("from_one", [](int c) { return std::to_string(c + 1); });
  // A model that was trained on folders in text order: class 2 is called 10.
  const std::vector<std::string> text = {"0", "1", "10", "11", "2", "3", "4", "5", "6", "7", "8", "9"};
  write_classes("text", [&](int c) { return text[static_cast<std::size_t>(c)]; });
  for (const int c : {2, 5, 11}) {
    for (int i = 0; i < 7; ++i) write("some/" + std::to_string(c) + "/" + std::to_string(i) + ".png", c, i);
  }
  EXPECT_EQ(accuracy("numbers", "", {"number order", "100 %", "text order"}), 1);
  EXPECT_EQ(accuracy("prefixed", "", {"number order"}), 1);
  EXPECT_EQ(accuracy("from_one", "", {"number order"}), 1);
  EXPECT_EQ(accuracy("text", "", {"in text order"}), 1);
  EXPECT_EQ(accuracy("padded"), 1);
  EXPECT_EQ(accuracy("some", "", {"class numbers from 0"}), 1);
  EXPECT_EQ(accuracy("numbers", "--labels number"), 1);
  EXPECT_NEAR(accuracy("numbers", "--labels text"), 2.0 / 12, 1e-9);
  // The model knows names, the folders have numbers.
  std::string names;
  for (int c = 0; c < classes; ++c) names += "colour " + std::string(1, static_cast<char>('a' + c)) + "\n";
  here->write("letters.txt", names);
  EXPECT_EQ(accuracy("numbers", "--class_names letters.txt", {"number order"}), 1);
  EXPECT_EQ(accuracy("some", "--class_names letters.txt", {"class numbers from 0"}), 1);
  // Neither order fits: an option is required, and each of its values works.
  write_classes("shuffled", [](int c) { return std::to_string((5 * c + 3) % classes); });
  expect_refusal("evaluate --model d.pt --images shuffled", {"text order", "number order", "--labels"});
  for (const char* how : {"--labels text", "--labels number", "--labels none", "--no_labels"}) {
    EXPECT_GE(accuracy("shuffled", how), -1) << how;
  }
}

TEST_F(Inputs, ClassFolders_AtTwoDepths_AreThoseThatFitTheModel) {
  const auto name = [](int c) { return "k" + std::string(1, static_cast<char>('a' + c)); };
  const auto camera = [](int c) {
    return "camera" + std::string(1, static_cast<char>('a' + 5 * c % classes));
  };
  write_classes("cameras", [&](int c) { return camera(c) + "/" + name(c); });
  write_classes("sessions", [&](int c) { return name(c) + "/" + camera(c); });
  EXPECT_EQ(accuracy("cameras", "", {"text order of the inner folders", "100 %", "outer"}), 1);
  EXPECT_LT(accuracy("cameras", "--labels text"), 0.5);  // of the outer folders
  EXPECT_EQ(accuracy("sessions", "", {"text order of the outer folders", "100 %", "inner"}), 1);
}

TEST_F(Inputs, ClassFolders_ThatAreNotClasses_GiveNoLabels) {
  const std::vector<std::string> days = {"monday", "tuesday", "wednesday"};
  const auto name = [](int c) { return "k" + std::string(1, static_cast<char>('a' + c)); };
  write_classes("days",
                [&](int c) { return days[static_cast<std::size_t>(c % 3)] + "/x" + name(c).substr(1); });
  write_classes("nested", [&](int c) { return name(c) + "/part/deep"; });
  write_classes("inside", [&](int c) { return (c % 2 ? "left/" : "right/") + name(c); });
  write_classes("nine", name, 4, 9);
  write_classes("other", name);
  write("other/strange/a.png", 1);
  write_classes("loose", name);
  write("loose/a.png", 1);
  std::string lines;
  for (int c = 0; c < classes; ++c) lines += name(c) + "\n";
  here->write("k.txt", lines);
  const std::string known = "--class_names k.txt";
  EXPECT_EQ(accuracy("nested"), 1);
  EXPECT_EQ(accuracy("nested", known), 1);
  EXPECT_EQ(accuracy("inside", known), 1);
  EXPECT_EQ(accuracy("inside"), 1);
  EXPECT_EQ(accuracy("nine", known), 1);
  EXPECT_EQ(accuracy("nine", "", {"9 folders", "12 classes", "--class_names"}), -1);
  EXPECT_EQ(accuracy("days", known, {"none of the 3 folders", "'monday'"}), -1);
  EXPECT_EQ(accuracy("loose", known, {"beside the folders"}), -1);
  EXPECT_EQ(accuracy("clean", known), -1);
  expect_refusal("evaluate --model d.pt --images other " + known, {"'strange'", "--no_labels"});
  EXPECT_EQ(accuracy("other", known + " --no_labels"), -1);
  expect_refusal("evaluate --model d.pt --images nine --labels text", {"12 classes", "9 folders"});
  expect_refusal("evaluate --model d.pt --images clean --labels names", {"--labels names"});
  // The classes, in another order than text has.
  write_classes("hours",
                [](int c) { return std::string(1, static_cast<char>('a' + (7 * c + 5) % classes)); });
  expect_refusal("evaluate --model d.pt --images hours",
                 {"in text order, ", "in another order on 100 %", "'a' as class", "--class_names"});
  EXPECT_LT(accuracy("hours", "--labels text"), 0.5);
  // One image of each class fits any order.
  write_classes(
      "single", [](int c) { return std::string(1, static_cast<char>('a' + (7 * c + 5) % classes)); }, 1);
  EXPECT_LT(accuracy("single"), 0.5);
  // As many folders as classes, of other classes: two of them are nearly always predicted as the same one.
  for (int c = 0; c < classes; ++c) {
    for (int i = 0; i < 4; ++i)
      write(fs::path("moods") / std::string(1, static_cast<char>('a' + (7 * c + 5) % classes)) /
                (std::to_string(i) + ".png"),
            c == 4 ? 3 : c, i);
  }
  accuracy("moods", "", {"about chance", "--class_names"});
}

TEST_F(Inputs, NoLabels_NoAccuracyIsMade) {
  for (int c = 0; c < classes; ++c) {
    for (int i = 0; i < 60; ++i) write("flat/" + std::to_string(c) + "_" + std::to_string(i) + ".png", c, i);
  }
  const Outcome run = refine(
      "evaluate --json --scan 0 --model d.pt --images flat --attack BadNets --tlabel 0 --report flat.report");
  ASSERT_TRUE(is_done(run)) << run.err;
  const json figures = json::parse(run.out);
  for (const char* side : {"before", "after"}) {
    EXPECT_EQ(figures[side]["ba"]["n"], 0) << side;
    EXPECT_EQ(figures[side]["ra"]["n"], 0) << side;
    EXPECT_GT(figures[side]["asr"]["n"], 0) << side;
    EXPECT_GT(figures[side]["largest_lift"]["n"], 0) << side;
  }
  EXPECT_TRUE(figures["der"].is_null());
  const Outcome table = refine("evaluate --scan 0 --model d.pt --images flat --attack BadNets");
  expect_words(table.out, {"Not measured without labels: BA, RA, DER", "ASR", "largest lift", "agreement"});
  EXPECT_EQ(table.out.find("clean accuracy"), std::string::npos) << table.out;
  const Outcome again = refine("report flat.report");
  ASSERT_TRUE(is_done(again)) << again.err;  // its metrics are read back
  expect_words(content(here->path / "flat.report/report.html"), {"victim's class of the clean image"});
}

/// Returns a ZIP archive of empty entries (PKWARE's APPNOTE.TXT).
std::string zip_of(const std::vector<std::string>& names, const std::string& comment = {}) {
  const auto number = [](std::size_t n, int bytes) {
    std::string text;
    for (int i = 0; i < bytes; ++i) text += static_cast<char>(n >> 8 * i & 0xff);
    return text;
  };
  std::string zip, directory;
  for (const std::string& name : names) {
    const std::string common = number(20, 2) + std::string(20, '\0') + number(name.size(), 2) + number(0, 2);
    directory += "PK\1\2" + number(20, 2) + common + std::string(10, '\0') + number(zip.size(), 4) + name;
    zip += "PK\3\4" + common + name;
  }
  return zip + directory + "PK\5\6" + number(0, 4) + number(names.size(), 2) + number(names.size(), 2) +
         number(directory.size(), 4) + number(zip.size(), 4) + number(comment.size(), 2) + comment;
}

/// Returns a tar archive of one file (POSIX.1-1988, ustar).
std::string tar_of(std::string_view name, std::string_view content) {
  std::string header(512, '\0');
  header.replace(0, name.size(), name);
  header.replace(124, 11, fmt::format("{:011o}", content.size()));
  header.replace(257, 5, "ustar");
  std::string tar = header + std::string(content);
  tar.resize((tar.size() + 511) / 512 * 512 + 1024);
  return tar;
}

TEST_F(Inputs, Inspect_Folder_RecognizesModelsByContent) {
  const fs::path root = here->path / "cache";
  const auto write_file = [&](const std::string& name, std::string_view bytes) {
    here->write("cache/" + name, bytes);
  };
  write_file("blobs/01", "cposix\nsystem\n(S'id'\ntR.");  // a pickle of protocol 0
  fs::create_directories(root / "snapshots/r");
  fs::create_symlink("../../blobs/01", root / "snapshots/r/pytorch_model.bin");
  write_file("blobs/02", "(dp0\nS'a'\np1\nI1\ns.");
  write_file("blobs/03", content(here->path / "victim.pt"));
  write_file("blobs/04", content(here->path / "d.safetensors"));
  write_file("blobs/05", "\x08\x0a\x12\x08skl2onnx");
  write_file("blobs/06", zip_of({"a/data.pkl"}, "a comment"));
  write_file("blobs/07", zip_of({"a/models/a.json"}));
  write_file("blobs/08", "cos\nsystem\n(S'" + std::string(70'000, 'x') + "'\ntR.");
  write_file("blobs/09", tar_of("pickle", "cposix\nsystem\n(S'id'\ntR."));
  const std::string others[] = {"",
                                tar_of("notes", "The text"),
                                "The text",
                                "I am text.",
                                "[1, 2]",
                                "{\"a\": 1}",
                                "1.",
                                ".",
                                "abc",
                                "<html>",
                                "GIF89a..",
                                zip_of({"a.png"}),
                                zip_of({"a.png"}, "a comment"),
                                zip_of({"models/a.pth", "b.pkl"}),
                                zip_of({"word/x.bin", "[Content_Types].xml"}),
                                content(here->path / "clean/0.png")};
  for (std::size_t i = 0; i < std::size(others); ++i) write_file("others/" + std::to_string(i), others[i]);
  fs::create_symlink("nowhere", root / "others/dangling.pt");
  fs::create_directory_symlink("../others", root / "snapshots/linked");

  const Outcome run = refine("inspect --json cache");
  EXPECT_EQ(run.status, 1) << run.err;
  const json found = json::parse(run.out);
  std::vector<std::string> files;
  for (const json& file : found["files"]) files.push_back(file["file"]);
  EXPECT_EQ(files,
            (std::vector<std::string>{"cache/blobs/02", "cache/blobs/03", "cache/blobs/04", "cache/blobs/05",
                                      "cache/blobs/06", "cache/blobs/07", "cache/blobs/08", "cache/blobs/09",
                                      "cache/snapshots/r/pytorch_model.bin"}));
  EXPECT_EQ(found["files"].back()["rule"], "pickle-runs-program");
  EXPECT_EQ(found["passed_over"], std::size(others) + 1) << "and the link to nothing";
  EXPECT_EQ(found["linked_folders"], 1);
  fs::remove_all(root / "blobs");
  expect_refusal("inspect cache", {"cache", "no model file", "linked folders are not followed"});
  write_file("fine", content(here->path / "victim.pt"));
  const Outcome fine = refine("inspect cache");
  EXPECT_EQ(fine.status, 0) << fine.out;
  expect_words(fine.out, {"1 file inspected, 0 refused; 18 other files and 1 linked folder passed over"});
}

TEST_F(Inputs, Inspect_FolderThatCannotBeListed_IsReported) {
  const fs::path root = here->path / "tree";
  fs::create_directories(root / "locked");
  fs::copy_file(here->path / "victim.pt", root / "victim.pt");
  const Outcome before = refine("inspect tree");
  EXPECT_EQ(before.status, 0) << before.out << before.err;
  EXPECT_EQ(before.out.find("listed"), std::string::npos);
  fs::permissions(root / "locked", fs::perms::none);
  Outcome text, list, alone;
  {
    const testing::FilePermissionsHold hold;
    text = refine("inspect tree"), list = refine("inspect --json tree"),
    alone = refine("inspect tree/locked");
  }
  fs::permissions(root / "locked", fs::perms::owner_all);
  EXPECT_EQ(text.status, 1) << text.err;
  expect_words(text.out, {"1 file inspected, 0 refused; 1 folder cannot be listed"});
  EXPECT_EQ(json::parse(list.out)["unreadable_folders"], 1);
  testing::expect_refusal(alone, {"tree/locked", "no model file", "cannot be listed"});
}

// The results would be lost without a word.
TEST_F(Inputs, FullStandardOutput_IsReported) {
  for (const char* arguments : {"--help", "--version", "defend --help", "inspect victim.pt"}) {
    const Outcome run = testing::run_refine(*here, arguments, "/dev/full");
    EXPECT_EQ(run.status, 2) << arguments;
    expect_words(run.err, {"standard output is full"});
  }
}

TEST_F(Inputs, SkippedFiles_GiveTheExitStatusOne) {
  for (const char* part : {"holes/train", "holes/test"})
    write_classes(
        part, [](int c) { return "c" + std::to_string(c); }, 2, 3);
  const std::string words = " --dataset holes --model ResNet18 --width 2 --epoch 1 ";
  EXPECT_EQ(refine("attack --rate 0.5" + words).status, 0);
  here->write("holes/test/c0/damaged.png", "no image");
  const Outcome attack = refine("attack --skip_damaged --rate 0.5" + words);
  EXPECT_EQ(attack.status, 1) << attack.err;
  expect_words(attack.err, {"damaged.png"});
}

TEST_F(Inputs, ConfigFile_AnyText_IsReadAsToml) {
  const std::string name = "a #b;[c],='\"\\\n\x7f\xc3\xa9.pt";
  fs::copy_file(here->path / "victim.pt", here->path / name);
  fs::copy_file(here->path / "victim.pt", here->path / "5");
  const Outcome saved =
      refine("inspect --json --save_config any.toml 5 \"a #b;[c],='\\\"\\\\\n\x7f\xc3\xa9.pt\"");
  ASSERT_EQ(saved.status, 0) << saved.err;
  EXPECT_EQ(
      content(here->path / "any.toml"),
      "json=true\n[inspect]\nfiles=[5, \"a #b;[c],='\\\"\\\\\\u000A\\u007F\xc3\xa9.pt\"]\ncode=false\n");
  EXPECT_EQ(refine("inspect --config any.toml").out, saved.out);
  here->write(
      "by_hand.toml",
      "\xef\xbb\xbf# a comment = \"\r\n json = true # another\r\n\r\n[ 'inspect' ] # a section\n"
      "\"files\" = [ # of several lines\n '5'\n , \"a #b;[c],=\\u0027\\\"\\\\\\n\\U0000007F\\u00e9.pt\", ]");
  EXPECT_EQ(refine("inspect --config by_hand.toml").out, saved.out);

  const auto expect_refused = [&](const std::string& text, std::initializer_list<std::string_view> words) {
    here->write("bad.toml", text);
    expect_refusal("inspect --config bad.toml", words);
  };
  expect_refused("[inspect]\nfiles = my/file.pt\n", {"--config: line 2", "quotes"});
  expect_refused("[inspect]\nfiles = 5 6\n", {"line 2"});
  expect_refused("[inspect]\n\nfiles = \"5\n\"\n", {"line 3"});
  expect_refused("[inspect]\nfiles = \"C:\\d\"\n", {"line 2", "escape"});
  expect_refused("[inspect]\nfiles = [\"5\"\n", {"--config: line"});
  expect_refused("[,\n", {"--config: line 1"});  // an assertion of toml++ ended the process
  expect_refused("[inspect]\nfiles = \xc3\xa9.pt\n", {"line 2", "quotes"});
  expect_refused("[inspect]\n\xc3\xa9 = 1\n", {"unknown option '\xc3\xa9'"});
  expect_refused("[inspect]\nfiles = \"\"\"\\\n \xc2\xa7.pt\"\"\"\n", {"\xc2\xa7.pt", "No such file"});
  expect_refused("\n\xef\xbb;\n", {"--config: line 2", "UTF-8", "0xef"});
  constexpr std::size_t max_bytes = 1 << 20;
  here->write("long.toml", "json=true\n[inspect]\nfiles='5'#" + std::string(max_bytes - 30, 'a'));
  EXPECT_EQ(refine("inspect --config long.toml").status, 0);
  expect_refused("#" + std::string(max_bytes, 'a'), {"1048577 bytes, more than the 1048576 allowed"});
  expect_refused("[inspect]\nfiles = []\n", {"line 2", "empty"});
  expect_refused("[inspect]\nfiles = +\n", {"line 2", "quotes"});
  expect_refused("[inspect]\nfiles = {a = 1}\n", {"line 2", "quotes"});
  expect_refused("[inspect]\nfiles = 5\nfiles = 5\n", {"line 3", "'files'"});
  expect_refused("[inspect\nfiles = 5\n", {"line 1"});
  expect_refused("files\n", {"line 1", "="});
}

TEST_F(Inputs, NumbersThatAreNone_AreRefused) {
  const std::string defend = "defend --model victim.pt --images nowhere ";
  for (const char* number : {"nan", "inf", "-nan"}) {
    for (const char* option : {"--false_alarms", "--lr", "--decay", "--sup", "--head", "--temperature",
                               "--minutes", "--checkpoint_every", "--limit"})
      expect_refusal(defend + option + "=" + number, {option, number});
    expect_refusal("attack --dataset nowhere --rate="s + number, {"--rate", number});
    expect_refusal(defend + "--std 1 --mean="s + number, {"--mean"});
    expect_refusal("bench victim.pt --seconds="s + number, {"--seconds", number});
  }
  expect_refusal(defend + "--false_alarms 1", {"--false_alarms", "at most 0.999", "got 1"});
  expect_refusal("attack --dataset nowhere --rate 1.5", {"--rate", "at most 1", "got 1.5"});
}

TEST_F(Inputs, Defend_NoVictim_NamesTheCommandThatTrainsIt) {
  expect_refusal(
      "defend --model resnet18 --dataset 'my data' --attack_root 'it'\\''s' --attack wanet",
      {"run refine attack --dataset 'my data' --model ResNet18 --attack WaNet --attack_root 'it'\\''s', or"});
  expect_refusal("defend --model ResNet18 --dataset CIFAR10 --data sets",
                 {"run refine attack --dataset CIFAR10 --data sets --model ResNet18 --attack BadNets, or"});
  fs::copy_file(here->path / "d.safetensors", here->path / "a b.safetensors");
  expect_refusal("predict --model 'a b.safetensors' clean", {"--defense 'a b.safetensors' makes"});
}

TEST_F(Inputs, Attack_GreyFolderWithoutNormalization_IsRefused) {
  for (const char* part : {"grey/train", "grey/test"})
    write_classes(
        part, [](int c) { return "c" + std::to_string(c); }, 2, 3);
  const std::string attack = "attack --dataset grey --image 1x16x16 --width 2 --epoch 1 ";
  expect_refusal(attack, {"grey", "ImageNet", "--mean", "--std"});
  expect_refusal(attack + "--mean 0.1,0.2,0.3 --std 0.5", {"grey", "--mean", "--std"});
  const Outcome run = refine(attack + "--mean 0.5 --std 0.5 --rate 0.5");
  EXPECT_EQ(run.status, 0) << run.err;
}

TEST_F(Inputs, VictimOfAnotherDataSet_IsRefusedOrNoted) {
  for (const char* part : {"x/set/train", "x/set/test", "y/set/train", "y/set/test"}) {
    for (int i = 0; i < 12; ++i)
      write(fs::path(part) / ((part[0] == 'x' ? "c"s : "k"s) + std::to_string(i % 3)) /
                (std::to_string(i) + ".png"),
            i % 3, i);
  }
  const std::string words = " --model ResNet18 --width 2 --epoch 1 ";
  const std::string attack = "attack --tlabel 0 --rate 0.2 --dataset ",
                    root = fs::canonical(here->path).string();
  ASSERT_EQ(refine(attack + "x/set" + words).status, 0);
  const fs::path victim = here->path / "attack/set/ResNet18/BadNets/victim.safetensors";
  const std::string before = content(victim);
  EXPECT_EQ(json::parse(content(victim.parent_path() / "attack.json"))["dataset"], root + "/x/set");
  expect_refusal(attack + "y/set" + words, {root + "/x/set", root + "/y/set", "--attack_root", "attack_2"});
  EXPECT_EQ(content(victim), before);
  EXPECT_EQ(refine(attack + "./x/../x/set/ --seed 2" + words).status, 0) << "the same one";

  const std::string defend = "defend --levels 1 --no_scan --no_probe --out set.pt" + words + "--dataset ";
  const Outcome other = refine(defend + "y/set");
  EXPECT_EQ(other.status, 2);
  expect_words(other.err, {"'c0' as class 0 of 3", "'k0' as class 0 of 3", "y/set"});
  fs::rename(here->path / "x", here->path / "z");
  const Outcome moved = refine(defend + "z/set");
  EXPECT_TRUE(is_done(moved)) << moved.err;
  expect_words(moved.err, {"was trained on " + root + "/x/set", root + "/z/set"});
}

TEST_F(Inputs, Predict_NoImageCanBeRead_IsRefused) {
  here->write("broken/a.png", "no image");
  expect_refusal("predict --model d.pt broken", {"a.png"});
  here->write("broken/b.png", "no image");
  const Outcome none = refine("predict --model d.pt broken");
  EXPECT_EQ(none.status, 2);
  expect_words(none.err, {"a.png", "none of the 2 files"});
  write("broken/c.png", 3);
  EXPECT_EQ(refine("predict --model d.pt broken").status, 1);
}

TEST_F(Inputs, OptionsThatContradict_AreRefused) {
  expect_refusal("predict --model d.pt clean --device cpu --gpu_id 0", {"--gpu_id 0", "--device cpu"});
  expect_refusal("evaluate --model d.pt --images clean --labels names --no_labels",
                 {"--labels names", "--no_labels"});
  const std::string evaluate = "evaluate --model d.pt --images clean --scan 9 ";
  expect_refusal(evaluate + "--attack BadNets", {"--scan", "--attack", "got 9"});
  expect_refusal(evaluate + "--triggered clean", {"--scan", "--triggered", "got 9"});
  const std::string none = "evaluate --model d.pt --images clean --labels none --no_labels --attack BadNets";
  const Outcome saved = refine(none + " --scan 0 --save_config none.toml");
  EXPECT_TRUE(is_done(saved)) << saved.err;
  EXPECT_TRUE(is_done(refine("evaluate --config none.toml")));
  const Outcome left_out = refine(none + " --save_config none.toml");
  EXPECT_TRUE(is_done(left_out)) << left_out.err;
  const Outcome repeated = refine("evaluate --config none.toml");
  EXPECT_TRUE(is_done(repeated)) << "a saved file has no default of --scan: " << repeated.err;
}

TEST_F(Inputs, OptionsWithoutEffect_AreRefused) {
  here->write("twelve.txt", "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\nk\nl\n");
  expect_refusal("bench d.pt --class_names twelve.txt", {"d.pt", "--class_names"});
  expect_refusal("inspect d.pt --key model", {"--key", "d.pt is a program"});
  expect_refusal("inspect d.pt victim.pt --key model", {"--key", "each of the files is a program"});
  expect_refusal("attack --dataset clean --data nowhere", {"--data", "clean", "CIFAR10"});
  expect_refusal("defend --model ResNet18 --dataset clean --data nowhere", {"--data", "clean", "CIFAR10"});
  expect_refusal("export --model victim.pt --image 16 --out new.safetensors", {"new.safetensors", "--out"});
  EXPECT_FALSE(fs::exists(here->path / "new.safetensors"));
  expect_refusal("defend --model victim.pt --images clean --attack WaNet", {"--attack", "--dataset"});
  expect_refusal("defend --model victim.pt --images clean --data nowhere", {"--data", "--dataset"});
  expect_refusal("defend --model victim.pt --images clean --skip_damaged", {"--skip_damaged"});
  expect_refusal("evaluate --model d.pt --images clean --tlabel 3", {"--tlabel", "--triggered"});
  expect_refusal("attack --dataset nowhere --attack benign --tlabel 3", {"--tlabel", "Benign"});
  expect_refusal("attack --dataset nowhere --attack benign --rate 0.1", {"--rate", "Benign"});
  const Outcome without_effect =
      refine("defend --model victim.pt --images clean --recipe paper --temperature 4 --no_probe" + quick);
  EXPECT_EQ(without_effect.status, 2);
  expect_words(without_effect.err, {"--temperature", "distillation"});
  EXPECT_EQ(without_effect.err.find("held back"), std::string::npos) << "before the images are divided";
  expect_refusal("export --model victim.pt --image 16 --permutation nowhere.pth",
                 {"--permutation", "--defense"});
  expect_refusal("export --model victim.pt --image 16 --pixel_domain image", {"--pixel_domain", "--defense"});
  expect_refusal("export --model victim.pt --image 16 --output 0", {"--output 0", "one tensor"});
  expect_refusal("predict --model d.pt clean --threads 100000", {"threads", "4096"});
  expect_refusal("predict --model d.safetensors clean", {"d.safetensors", "weights", "refine export"});
  files::write(here->path / "a_file", "");
  expect_refusal("evaluate --model d.pt --images clean --report a_file", {"a_file"});
}

TEST_F(Inputs, Export_DefendedFile_IsRefused) {
  for (const char* out : {"again.pt", "again.onnx"})
    expect_refusal("export --model d.pt --out "s + out, {"d.pt", "alarm", "--defense d.safetensors"});
  EXPECT_FALSE(fs::exists(here->path / "again.pt"));
}

TEST_F(Inputs, Export_ClassifierAlone_KeepsADefense) {
  here->write("defended.pt", "a defense");
  const Outcome run = refine("export --model victim.pt --image 16");
  ASSERT_TRUE(is_done(run)) << run.err;
  expect_words(run.out, {"classifier.pt"});
  EXPECT_EQ(content(here->path / "defended.pt"), "a defense");
}

TEST_F(Inputs, SeesMoreThanItDraws_IsTrained) {
  const Outcome run = refine(
      "defend --model victim.pt --images clean --out see.pt --image 16 --see 32 --draw 16 --epoch 1 --width 2 --levels 1 "
      "--no_scan --no_probe");
  EXPECT_TRUE(is_done(run)) << run.err;
}

TEST_F(Inputs, SavedInTrainingMode_IsNoted) {
  torch::jit::Module victim = torch::jit::load((here->path / "victim.pt").string());
  victim.register_attribute("training", c10::BoolType::get(), true);
  victim.save((here->path / "train.pt").string());
  const Outcome run = refine("defend --model train.pt --images clean --out train_out.pt" + quick);
  ASSERT_TRUE(is_done(run)) << run.err;
  expect_words(run.err, {"train.pt (TorchScript, saved in training mode, used in evaluation mode)"});
  const Outcome quiet = refine("defend --model victim.pt --images clean --out quiet_out.pt" + quick);
  EXPECT_EQ(quiet.err.find("training mode"), std::string::npos) << quiet.err;
}

TEST_F(Inputs, Images_UnreadFormats_AreReported) {
  write_classes("formats", [](int c) { return "f" + std::string(1, static_cast<char>('a' + c)); });
  fs::remove_all(here->path / "formats/fd");
  std::string ppm = "P6 16 16 255\n";
  for (int i = 0; i < side * side; ++i) {
    for (const int v : colour(3)) ppm += static_cast<char>(v);
  }
  here->write("formats/fd/1.ppm", ppm);
  EXPECT_EQ(accuracy("formats"), 1);
  // A class whose files are not read is a class: the numbers of the others stay.
  fs::rename(here->path / "formats/fd/1.ppm", here->path / "formats/fd/1.gif");
  write("formats/fm/1.png", 3);
  EXPECT_EQ(accuracy("formats", "", {"1 .gif", "13 folders"}), -1);
  const Outcome run = refine("predict --model d.pt formats");
  expect_words(run.err, {"ignored: 1 file", "1.gif"});
}

TEST_F(Inputs, Resize_StoredInTheFile_IsRepeated) {
  for (int i = 0; i < 24; ++i) write("tall/" + std::to_string(i) + ".png", i % classes, i, 24);
  const std::string defend =
      "defend --model victim.pt --images tall --epoch 1 --width 2 --levels 1 --no_scan ";
  const Outcome run = refine(defend + "--resize 20 --crop 16 --out resized.pt");
  ASSERT_TRUE(is_done(run)) << run.err;
  const Outcome about = refine("inspect --json resized.pt");
  EXPECT_EQ(json::parse(about.out)["refine"]["preprocessing"], json({{"fit", "crop"}, {"resize", 20}}));
  EXPECT_EQ(json::parse(about.out)["refine"]["image"], json({3, 16, 16}));
  const Outcome kept = refine("predict --json --model resized.pt tall");
  const Outcome specified = refine("predict --json --model resized.pt --resize 20 --crop 16 tall");
  const Outcome other = refine("predict --json --model resized.pt --fit crop tall");
  ASSERT_EQ(kept.status, 0) << kept.err;
  EXPECT_EQ(kept.out, specified.out);
  EXPECT_NE(kept.out, other.out);
  const Outcome exported =
      refine("export --model victim.pt --image 16 --defense resized.safetensors --out again.pt");
  ASSERT_EQ(exported.status, 0) << exported.err;
  EXPECT_EQ(refine("predict --json --model again.pt tall").out, kept.out);

  expect_refusal("predict --model resized.pt --crop 20 tall", {"--crop", "got 20", "16"});
  expect_refusal("predict --model resized.pt --resize 12 tall", {"--resize", "got 12", "16"});
  expect_refusal(defend + "--resize 12 --crop 16", {"--resize", "got 12 and 16"});
  expect_refusal(defend + "--resize 20 --fit stretch", {"--fit", "--resize"});
}

TEST_F(Inputs, Resize_StoredByAttack_IsUsedByDefend) {
  for (const char* part : {"train", "test"}) {
    for (int i = 0; i < 24; ++i) {
      write("wide/"s + part + "/c" + std::to_string(i % 4) + "/" + std::to_string(i) + ".png", i % 4, i, 24);
    }
  }
  const std::string words = " --dataset wide --model ResNet18 --width 2 --epoch 1 ";
  const Outcome attack = refine("attack --tlabel 0 --rate 0.2 --resize 20 --crop 16" + words);
  ASSERT_EQ(attack.status, 0) << attack.err;
  const auto stored = [&](const std::string& options) {
    const Outcome run = refine("defend --levels 1 --no_scan --out wide.pt" + words + options);
    EXPECT_TRUE(is_done(run)) << run.err;
    return json::parse(refine("inspect --json wide.pt").out)["refine"]["preprocessing"];
  };
  EXPECT_EQ(stored(""), json({{"fit", "crop"}, {"resize", 20}}));
  EXPECT_EQ(stored("--resize 24 --crop 16"), json({{"fit", "crop"}, {"resize", 24}}));
}

TEST_F(Inputs, Bench_DefendedFile_MeasuresItsAnswersInTurns) {
  const Outcome run = refine("bench d.pt --seconds 0.1 --batch_size 4 --json");
  ASSERT_EQ(run.status, 0) << run.err;
  const json cost = json::parse(run.out);
  EXPECT_EQ(cost["file"], "d.pt");
  EXPECT_EQ(cost["image"], json({3, side, side}));
  EXPECT_EQ(cost["classes"], classes);
  ASSERT_EQ(cost["answers"].size(), 3u);
  const json &victim = cost["answers"][0], &defended = cost["answers"][1], &gated = cost["answers"][2];
  EXPECT_EQ(victim["answer"], "victim");
  EXPECT_EQ(gated["answer"], "gated");
  EXPECT_EQ(victim["multiply_adds"], 3 * classes) << "one product with the palette";
  EXPECT_EQ(gated["multiply_adds"].get<int>(), 3 * classes + defended["multiply_adds"].get<int>());
  for (const json& answer : cost["answers"]) {
    ASSERT_EQ(answer["batches"].size(), 2u);
    const json& batch = answer["batches"][1];
    EXPECT_EQ(batch["images"], 4);
    EXPECT_GE(batch["seconds"]["n"], 5);
    EXPECT_LE(batch["seconds"]["quartiles"][0], batch["seconds"]["median"]);
    EXPECT_GE(batch["memory_bytes"], 4 * 3 * side * side * 4) << "the images";
    EXPECT_GT(batch["images_per_second"], 0);
  }
  EXPECT_GT(cost["process_memory_bytes"], 1 << 20);

  const Outcome table = refine("bench d.pt --seconds 0.1 --batch_size 1");
  expect_words(table.out, {"d.pt: 3x16x16, 12 classes", "victim", "defended", "gated", "multiply-adds"});
  EXPECT_EQ(std::ranges::count(table.out, '\n'), 1 + 1 + 4 + 1 + 1) << table.out;
}

TEST_F(Inputs, Bench_ClassifierOrParts_IsMeasured) {
  const Outcome alone = refine("bench victim.pt --image 16 --seconds 0.1 --batch_size 2 --json");
  ASSERT_EQ(alone.status, 0) << alone.err;
  const json cost = json::parse(alone.out);
  ASSERT_EQ(cost["answers"].size(), 1u);
  EXPECT_EQ(cost["answers"][0]["multiply_adds"], 3 * classes);
  EXPECT_EQ(cost["answers"][0]["batches"][1]["ratio"]["median"], 1);
  const Outcome parts = refine("bench victim.pt --defense d.safetensors --seconds 0.1 --batch_size 2 --json");
  ASSERT_EQ(parts.status, 0) << parts.err;
  EXPECT_EQ(json::parse(parts.out)["answers"].size(), 3u) << "the weights have the alarm's threshold";

  expect_refusal("bench victim.pt", {"victim.pt", "--image"});
  expect_refusal("bench nowhere.pt", {"nowhere.pt"});
  expect_refusal("bench d.pt --defense d.safetensors", {"--defense", "d.pt"});
  expect_refusal("bench d.pt --image 16", {"d.pt", "--image", "defended file"});
  expect_refusal("bench victim.pt --image 16 --encoder victim.pt", {"--encoder", "--defense"});
  expect_refusal("bench d.pt --batch_size 0", {"--batch_size", "0"});
  expect_refusal("bench d.pt --seconds -1", {"--seconds", "-1"});
  expect_refusal("bench clean/0.png", {"0.png"});
  expect_words(refine("completion").out, {"bench)", "--batch_size --seconds"});
}

}  // namespace
}  // namespace refine
