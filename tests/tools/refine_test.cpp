// The command line: the program itself, on real images and real files.

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <utility>

#include <refine/core/file.hpp>
#include <refine/data/resize.hpp>
#include <refine/data/sources.hpp>
#include <refine/distributed/c10d.hpp>
#include <refine/formats/checkpoint.hpp>
#include <refine/report/images.hpp>

#include "tests/support/error_of.hpp"
#include "tests/support/fashion_mnist_part.hpp"
#include "tests/support/scratch_folder.hpp"
#include "tests/tools/run_refine.hpp"

namespace refine {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::content;
using testing::expect_refusal;
using testing::expect_words;
using testing::is_done;
using testing::Outcome;
using testing::ScratchFolder;

constexpr const char* fashion = "--dataset FashionMNIST --data fashion ";

/// Runs the program in a folder.
Outcome refine(const ScratchFolder& here, const std::string& arguments, const std::string& before = "") {
  return before.empty() ? testing::run_refine(here, arguments)
                        : testing::run_by_shell(here, "tools/refine", arguments, before);
}

/// The first 1,000 test images.
const data::Dataset& test_images() {
  static const data::Dataset images = [] {
    const ScratchFolder scratch;
    testing::write_fashion_mnist_part(scratch.path / "fashion", 1, 1'000);
    return data::fashion_mnist(scratch.path / "fashion").test;
  }();
  return images;
}

/// The first test images as PNG files of 40×40 pixels, `<root>/<class>/<i>.png`, or all in one
/// folder.
void write_images(const fs::path& root, int n, bool class_folders) {
  const data::Dataset& test = test_images();
  const at::Tensor images =
      data::resize(test.images.slice(0, 0, n), 40, 40).permute({0, 2, 3, 1}).contiguous();
  for (int i = 0; i < n; ++i) {
    const auto* bytes = images[i].const_data_ptr<std::uint8_t>();
    const std::string png = report::png(std::vector<std::uint8_t>(bytes, bytes + 40 * 40 * 3), 40, 40);
    fs::path folder = root;
    if (class_folders) folder /= "class" + std::to_string(test.labels[i].item<std::int64_t>());
    files::write(folder / (std::to_string(i) + ".png"), png);
  }
}

class Command : public ::testing::Test {
 protected:
  /// Trains one small victim for all tests.
  static void SetUpTestSuite() {
    shared = std::make_unique<ScratchFolder>();
    testing::write_fashion_mnist_part(shared->path / "fashion", 4'000, 1'000);
    const Outcome run =
        refine(*shared, std::string("attack --json --limit 3000 --width 4 --epoch 2 --tlabel 3 ") + fashion);
    ASSERT_EQ(run.status, 0) << run.err;
    attack = json::parse(run.out);
  }
  static void TearDownTestSuite() { shared.reset(); }

  static inline std::unique_ptr<ScratchFolder> shared;
  static inline json attack;
  const std::string names = std::string("--model ResNet18 ") + fashion;
};

TEST_F(Command, Attack_NamedDataset_WritesVictimAndFigures) {
  const fs::path folder = shared->path / "attack/FashionMNIST/ResNet18/BadNets";
  for (const char* file : {"victim.safetensors", "victim.pt", "victim.json", "attack.json", "log.jsonl"}) {
    EXPECT_TRUE(fs::exists(folder / file)) << file;
  }
  EXPECT_EQ(json::parse(content(folder / "attack.json"))["target"], 3);
  EXPECT_EQ(attack["ba"]["n"], 1'000);
  EXPECT_GT(attack["ba"]["value"], 0.4);
}

TEST_F(Command, MisspeltOption_IsNamedBeforeAMissingOne) {
  expect_refusal(refine(*shared, "defend --mdoel a.pt --images b"),
                 {"unknown option --mdoel; did you mean --model?", "refine defend --help"});
  expect_refusal(refine(*shared, "defend --model a.pt --images b --epochs=3"), {"did you mean --epoch?"});
  expect_refusal(refine(*shared, "defend --model a.pt --clean b"), {"unknown option --clean; see"});
  expect_refusal(refine(*shared, "defend --model a.pt b"), {"unexpected word 'b'"});
  expect_refusal(refine(*shared, "defend --images b"), {"--model is required; see refine defend --help"});
  expect_refusal(refine(*shared, "defend --model a.pt ---"), {"unknown option ---; see"});
  expect_refusal(refine(*shared, "defend --model --images b"),
                 {"--model: its value is missing (got --images)"});
  for (const char* before : {"", "--device cpu ", "--json "}) {
    expect_refusal(refine(*shared, std::string(before) + "defned"),
                   {"unknown command 'defned'; did you mean refine defend?"});
  }
}

TEST_F(Command, MisspeltNameInConfigurationFile_IsNamed) {
  const auto refusal = [&](const std::string& text) {
    shared->write("misspelt.toml", text);
    return refine(*shared, "defend --config misspelt.toml --model a.pt --images b");
  };
  expect_refusal(refusal("[defend]\nepcoh = 3\n"),
                 {"--config: unknown option 'epcoh' in [defend]", "epoch?"});
  expect_refusal(refusal("[defned]\nepoch = 3\n"), {"unknown section [defned]; did you mean defend?"});
  expect_refusal(refusal("epoch = 3\n"), {"unknown option 'epoch'; write it below the line [defend]"});
  expect_refusal(refusal("modle = 3\n"), {"unknown option 'modle'; did you mean model?"});
  expect_refusal(refusal("devcie = \"cpu\"\n"), {"unknown option 'devcie'; did you mean device?"});
  expect_refusal(refusal("[defend]\ndevice = \"cpu\"\n"),
                 {"'device' in [defend]; write it above the first section"});
  expect_refusal(refusal("[defend.more]\nepoch = 3\n"), {"unknown section [defend.more]"});
  expect_refusal(refusal("[export]\nmodle = 3\n"),
                 {"in [export]; did you mean model?; see refine export --help"});
  shared->write("misspelt.toml", "epcoh = 3\n");
  expect_refusal(refine(*shared, "--config misspelt.toml"),
                 {"--config: unknown option 'epcoh'; see refine --help"});
}

/// A few images of every class, as a folder with train/ and test/.
std::string small_set(const ScratchFolder& here) {
  write_images(here.path / "set/train", 120, true);
  write_images(here.path / "set/test", 40, true);
  return " --dataset set ";
}

TEST_F(Command, Attack_LabelConsistent_TrainsTheBenignModelOnce) {
  const std::string command =
      "attack --attack lc --json --width 4 --epoch 1 --rate 0.3 --attack_root lc" + small_set(*shared);
  const Outcome first = refine(*shared, command);
  ASSERT_EQ(first.status, 0) << first.err;
  expect_words(first.err, {"benign model", "perturbing images"});
  const fs::path folder = shared->path / "lc/set/ResNet18";
  EXPECT_TRUE(fs::exists(folder / "LabelConsistent/victim.safetensors"));
  const auto written = fs::last_write_time(folder / "Benign/victim.safetensors");
  const Outcome again = refine(*shared, command);
  ASSERT_EQ(again.status, 0) << again.err;
  EXPECT_EQ(again.out, first.out);
  EXPECT_EQ(again.err.find("perturbing images"), std::string::npos) << "the images were kept";
  EXPECT_EQ(fs::last_write_time(folder / "Benign/victim.safetensors"), written);

  // Any model of these images is accepted; the program of the same victim gives the same images, but for rounding.
  const std::string images = content(folder / "LabelConsistent/perturbed.safetensors");
  const Outcome given = refine(*shared, command + "--benign lc/set/ResNet18/Benign/victim.pt ");
  EXPECT_EQ(given.status, 0) << given.err;
  const std::string same = content(folder / "LabelConsistent/perturbed.safetensors");
  const std::size_t n = std::min(images.size(), same.size());
  ASSERT_GT(n, 1000u);
  std::size_t equal = 0;
  for (std::size_t i = 0; i < n; ++i) equal += images[i] == same[i];
  EXPECT_GE(static_cast<double>(equal), 0.97 * static_cast<double>(n));
  expect_refusal(refine(*shared, command + "--benign nowhere.pt "), {"nowhere.pt"});
  expect_refusal(refine(*shared, "attack --dataset set --benign a.pt"), {"--benign", "LabelConsistent"});
}

TEST_F(Command, Attack_TargetOfEachClass_IsStoredAndDefended) {
  const std::string set = small_set(*shared) + "--attack_root per_class ";
  const Outcome all = refine(*shared, "attack --attack AllToAll --width 4 --epoch 1 " + set);
  ASSERT_EQ(all.status, 0) << all.err;
  expect_words(all.out, {"AllToAll on set", "largest pair lift", "points from “class"});
  const fs::path folder = shared->path / "per_class/set/ResNet18";
  EXPECT_TRUE(json::parse(content(folder / "AllToAll/attack.json"))["target"].is_null());

  const Outcome one = refine(
      *shared, "attack --attack source-specific --source 4 --tlabel 2 --width 4 --epoch 1 --json " + set);
  ASSERT_EQ(one.status, 0) << one.err;
  const json stored = json::parse(content(folder / "SourceSpecific/attack.json"));
  EXPECT_EQ(stored["source"], 4);
  EXPECT_EQ(stored["target"], 2);
  const json figures = json::parse(one.out);
  EXPECT_EQ(figures["asr"]["n"], figures["ra"]["n"]);
  EXPECT_LT(figures["asr"]["n"], 20);  // of the 40 test images, those of class 4
  EXPECT_EQ(figures["largest_pair_lift"]["pairs"].get<int>() % 9, 0);

  // The defense is measured under the stored attack.
  const Outcome defense = refine(*shared,
                                 "defend --attack SourceSpecific --epoch 1 --width 4 --no_scan --json "
                                 "--refine_res per_class --model ResNet18" +
                                     set);
  ASSERT_TRUE(is_done(defense)) << defense.err;
  const json report = json::parse(defense.out);
  EXPECT_TRUE(report["target"].is_null());
  EXPECT_EQ(report["targets"][4], 2);
  EXPECT_EQ(report["targets"][2], 2);
  EXPECT_TRUE(report["targets"][0].is_null());
  EXPECT_EQ(report["alarm"]["detections"]["n"], figures["asr"]["n"]);
  EXPECT_EQ(report["alarm"]["detected_at_5"]["n"], figures["asr"]["n"]);

  expect_refusal(refine(*shared, "attack --attack AllToAll --tlabel 1" + set), {"--tlabel", "AllToAll"});
  expect_refusal(refine(*shared, "attack --attack BadNets --source 1" + set), {"--source", "SourceSpecific"});
  expect_refusal(refine(*shared, "attack --attack SourceSpecific --source 0" + set),
                 {"source and target", "got 0 for both"});
}

TEST_F(Command, Defend_ViTAndEncoderDecoder_CanBeExportedFromParts) {
  const std::string words = "--model vit --attack BATT --epoch 1 --attack_root other" + small_set(*shared);
  const Outcome attack = refine(*shared, "attack --width 16 " + words);
  ASSERT_EQ(attack.status, 0) << attack.err;
  expect_words(attack.out, {"BATT on set", "other/set/ViT/BATT/victim.pt"});
  const Outcome defense = refine(
      *shared, "defend --transform EncoderDecoder --width 4 --no_scan --refine_res other --json " + words);
  ASSERT_TRUE(is_done(defense)) << defense.err;
  const Outcome exported = refine(*shared,
                                  "export --model other/set/ViT/BATT/victim.safetensors --arch ViT --defense "
                                  "other/set/ViT/BATT/defended.safetensors --out from_parts.pt");
  ASSERT_EQ(exported.status, 0) << exported.err;
  const json page = json::parse(defense.out);
  EXPECT_EQ(page["attack"], "BATT");
  expect_words(page["model"], {"ViT", "16"});
}

TEST_F(Command, Defend_VictimThatCannotBeDefended_IsRefusedBeforeTraining) {
  const ScratchFolder here;
  write_images(here.path / "clean", 40, false);
  const auto defend = [&](const std::string& name, const std::string& more = "") {
    const std::string file = fs::absolute("tests/fixtures/programs/" + name + ".pt").string();
    return refine(
        here, "defend --images clean --out out.pt --no_scan --epoch 1 --width 4 --levels 1 --model '" + file +
                  "' " + more);
  };
  expect_refusal(defend("noise"), {"noise.pt", "dropout or noise", "model.eval()"});
  expect_refusal(defend("training_mode"), {"training_mode.pt", "other images", "model.eval()"});
  expect_refusal(defend("rounded"), {"rounded.pt", "gradient"});
  expect_refusal(defend("pair"), {"pair.pt", "several tensors", "--output 1"});
  expect_refusal(defend("pair", "--output 2"), {"no output '2'"});
  EXPECT_FALSE(fs::exists(here.path / "out.pt"));

  // The class names decide which output is used; a blank image is reported and left out.
  files::write(here.path / "names.txt", "a\nb\nc\nd\ne\n");
  EXPECT_TRUE(is_done(defend("pair", "--class_names names.txt")));
  files::write(here.path / "clean/blank.png", report::png(std::vector<std::uint8_t>(40 * 40 * 3, 9), 40, 40));
  const Outcome blank = defend("standardised");
  EXPECT_EQ(blank.status, 1) << blank.err;
  expect_words(blank.err, {"blank.png", "not finite"});
  const json metrics = json::parse(content(here.path / "out.report/metrics.json"));
  EXPECT_EQ(metrics["facts"][0]["name"], "probe") << metrics["facts"].dump();

  // Images of several sizes, and a victim that takes any size.
  files::write(here.path / "clean/small.png",
               report::png(std::vector<std::uint8_t>(20 * 20 * 3, 99), 20, 20));
  expect_refusal(defend("no_grad"), {"no_grad.pt", "3x32x32", "3x224x224", "--image"});
  EXPECT_TRUE(is_done(defend("no_grad", "--image 32 --bgr")));
  EXPECT_EQ(refine(here, "export --model '" + fs::absolute("tests/fixtures/programs/no_grad.pt").string() +
                             "' --image 32 --out plain.pt")
                .status,
            0);
}

TEST_F(Command, Defend_ByNames_MeasuresTheAttack) {
  const Outcome run =
      refine(*shared, "defend --limit 2000 --epoch 1 --width 4 --precision bfloat16 " + names);
  ASSERT_TRUE(is_done(run)) << run.err;
  expect_words(content(shared->path / "refine_res/FashionMNIST/ResNet18/BadNets/defended.safetensors"),
               {"precision", "bfloat16"});
  expect_words(run.out, {"BA", "ASR", "largest lift", "to serve", "defended.pt"});
  expect_words(run.err, {"defense", "img/s"});
  const fs::path folder = shared->path / "refine_res/FashionMNIST/ResNet18/BadNets";
  const json metrics = json::parse(content(folder / "defended.report/metrics.json"));
  EXPECT_EQ(metrics["before"]["ba"]["hits"], attack["ba"]["hits"]) << "the victim that was trained";
  EXPECT_EQ(metrics["target"], 3);
  EXPECT_EQ(metrics["alarm"]["false_alarms"]["n"], 1'000);

  // The saved parts give the same file again, with the same predictions.
  const Outcome again = refine(*shared,
                               "export --model attack/FashionMNIST/ResNet18/BadNets/victim.safetensors "
                               "--defense refine_res/FashionMNIST/ResNet18/BadNets/defended.safetensors "
                               "--out again.pt");
  ASSERT_EQ(again.status, 0) << again.err;
  write_images(shared->path / "flat", 80, false);
  const Outcome first =
      refine(*shared, "predict --json --model refine_res/FashionMNIST/ResNet18/BadNets/defended.pt flat");
  const Outcome second = refine(*shared, "predict --json --model again.pt flat");
  ASSERT_EQ(first.status, 0) << first.err;
  ASSERT_EQ(second.status, 0) << second.err;
  EXPECT_EQ(std::ranges::count(first.out, '\n'), 80);
  const json line = json::parse(first.out.substr(0, first.out.find('\n')));
  const json other = json::parse(second.out.substr(0, second.out.find('\n')));
  EXPECT_EQ(line["class"], other["class"]);
  EXPECT_EQ(line["probability"], other["probability"]);
  EXPECT_EQ(line["file"], "flat/0.png");
  EXPECT_TRUE(line["name"].is_string());
  EXPECT_TRUE(line["alarm"].is_boolean());
  EXPECT_EQ(line["alarm"], other["alarm"]) << "the threshold is stored with the saved parts";

  // As a program of torch.export, they differ by rounding.
  const Outcome as_pt2 = refine(*shared,
                                "export --model attack/FashionMNIST/ResNet18/BadNets/victim.safetensors "
                                "--defense refine_res/FashionMNIST/ResNet18/BadNets/defended.safetensors "
                                "--out again.pt2");
  ASSERT_EQ(as_pt2.status, 0) << as_pt2.err;
  const Outcome third = refine(*shared, "predict --json --model again.pt2 flat");
  ASSERT_EQ(third.status, 0) << third.err;
  const json exported = json::parse(third.out.substr(0, third.out.find('\n')));
  EXPECT_EQ(exported["class"], line["class"]);
  EXPECT_NEAR(exported["probability"].get<double>(), line["probability"].get<double>(), 1e-4);
  EXPECT_NEAR(exported["alarm_score"].get<double>(), line["alarm_score"].get<double>(), 1e-4);
  EXPECT_EQ(exported["alarm"], line["alarm"]);
  const Outcome gated_pt2 = refine(*shared, "predict --json --answer gated --model again.pt2 flat");
  ASSERT_EQ(gated_pt2.status, 0) << gated_pt2.err;
  const Outcome seen = refine(*shared, "inspect --json again.pt2");
  EXPECT_EQ(seen.status, 0) << seen.out;
  EXPECT_EQ(json::parse(seen.out)["refine"]["classes"], 10);

  // Both answers are in the file.
  const std::string served = "--json --model refine_res/FashionMNIST/ResNet18/BadNets/defended.pt ";
  const Outcome gated = refine(*shared, "predict --answer gated --reject flat " + served);
  ASSERT_EQ(gated.status, 0) << gated.err;
  std::istringstream defended_lines(first.out), gated_lines(gated.out), pt2_lines(gated_pt2.out);
  int rejected = 0;
  for (std::string a, b, c;
       std::getline(defended_lines, a) && std::getline(gated_lines, b) && std::getline(pt2_lines, c);) {
    const json with = json::parse(b);
    EXPECT_TRUE(with["class"].is_null() || with["class"] == json::parse(c)["class"]) << b << c;
    EXPECT_EQ(json::parse(a)["alarm"], with["alarm"]);
    EXPECT_EQ(with["class"].is_null(), with["alarm"].get<bool>());
    rejected += with["class"].is_null();
  }
  EXPECT_LT(rejected, 40);
  EXPECT_EQ(metrics["answer"], "defended");
  EXPECT_GE(metrics["gated"]["metrics"]["ba"]["hits"].get<int>(),
            metrics["before"]["ba"]["hits"].get<int>() - metrics["gated"]["alarms"]["hits"].get<int>());
  EXPECT_EQ(metrics["alarm"]["calibration"]["images"], 200);
  EXPECT_EQ(run.status, metrics["decision"] == "serve" ? 0 : 1);

  // Earlier reports, as a page.
  const Outcome page = refine(*shared, "report --html page.html refine_res");
  ASSERT_EQ(page.status, 0) << page.err;
  expect_words(content(shared->path / "page.html"), {"</html>", "BadNets"});
}

TEST_F(Command, Defend_TorchScriptFileAndFolder_WritesAServingFile) {
  write_images(shared->path / "clean", 300, false);
  write_images(shared->path / "flat", 80, false);
  files::write(shared->path / "clean/broken.png", "no image");
  const Outcome run =
      refine(*shared,
             "defend --model attack/FashionMNIST/ResNet18/BadNets/victim.pt --images clean --image 32 "
             "--epoch 1 --width 4 --levels 2 --out foreign.pt --json --save_config run.toml");
  ASSERT_EQ(run.status, 1) << "one image was left out: " << run.err;
  expect_words(run.err, {"broken.png", "300 clean images are few"});
  const json result = json::parse(run.out);
  EXPECT_EQ(result["files"]["to serve"], "foreign.pt");
  EXPECT_EQ(result["agreement"]["n"], 30);
  EXPECT_TRUE(result["before"].is_null()) << "there are no labels";
  EXPECT_GE(result["scan"].size(), 10u);

  // The same options from a file give the same figures.
  const Outcome same = refine(*shared, "--config run.toml defend --out foreign2.pt --json --store kept");
  ASSERT_EQ(same.status, 1) << same.err;
  expect_words(same.err, {"broken.png"});
  EXPECT_TRUE(fs::exists(shared->path / "kept/clean.images"));
  EXPECT_EQ(json::parse(same.out)["agreement"], result["agreement"]);

  // The rest of the recipe follows from the number of epochs, also if that is specified.
  expect_words(content(shared->path / "foreign.safetensors"),
               {R"(\"teacher\":\"images\")", R"(\"mix\":0.0)"});
  const Outcome often =
      refine(*shared,
             "defend --model attack/FashionMNIST/ResNet18/BadNets/victim.pt --images flat --epoch 51 "
             "--width 4 --levels 2 --out often.pt --no_scan");
  ASSERT_TRUE(is_done(often)) << often.err;
  expect_words(content(shared->path / "often.safetensors"), {R"(\"teacher\":\"views\")", R"(\"mix\":0.5)"});

  write_images(shared->path / "labelled", 80, true);
  std::string names;
  for (int c = 0; c < 10; ++c) names += "class" + std::to_string(c) + "\n";
  shared->write("names.txt", names);
  const Outcome known =
      refine(*shared,
             "evaluate --json --model foreign.pt --images labelled --class_names names.txt --attack BadNets "
             "--tlabel 3 --report measured");
  ASSERT_TRUE(is_done(known)) << known.err;
  EXPECT_EQ(json::parse(known.out)["before"]["ba"]["n"], 80);
  EXPECT_TRUE(json::parse(known.out)["alarm"]["auroc"].is_object());
  EXPECT_TRUE(fs::exists(shared->path / "measured/report.html"));
  const Outcome source =
      refine(*shared,
             "evaluate --json --model foreign.pt --images labelled --class_names names.txt "
             "--attack SourceSpecific --source 7 --tlabel 3");
  ASSERT_TRUE(is_done(source)) << source.err;
  EXPECT_EQ(json::parse(source.out)["targets"][7], 3);
  EXPECT_EQ(json::parse(source.out)["before"]["lifts"][0]["n"].get<int>(),
            json::parse(known.out)["before"]["lifts"][0]["n"].get<int>());
  const std::string flat = "evaluate --model foreign.pt --images flat ";
  expect_refusal(refine(*shared, flat + "--attack SourceSpecific --source 12"),
                 {"--source", "10 classes", "got 12"});
  expect_refusal(refine(*shared, flat + "--attack AllToAll --tlabel 3"), {"--tlabel", "AllToAll"});
  expect_refusal(refine(*shared, flat + "--source 3 --triggered flat"), {"--source", "SourceSpecific"});
  // Without labels, the victim's own answers are used; these images have no trigger.
  const Outcome pairs =
      refine(*shared, "evaluate --json --model foreign.pt --images flat --triggered flat --tlabel 3");
  ASSERT_TRUE(is_done(pairs)) << pairs.err;
  EXPECT_EQ(json::parse(pairs.out)["before"]["ba"]["n"], 0) << "which say nothing of accuracy";
  EXPECT_EQ(json::parse(pairs.out)["before"]["largest_lift"]["value"], 0);
  EXPECT_EQ(json::parse(pairs.out)["before"]["largest_pair_lift"]["value"], 0);
  EXPECT_EQ(json::parse(pairs.out)["before"]["moved"]["hits"], 0);
}

/// Runs the program, and sends it a signal once there is a file in a folder.
Outcome refine_and_signal(const ScratchFolder& here, const std::string& arguments, const fs::path& files,
                          const std::string& signal = "TERM") {
  return testing::run_and_signal(here, "tools/refine", arguments, signal,
                                 "ls '" + files.string() + "'/*.safetensors");
}

TEST_F(Command, Defend_Minutes_AreReproducedByEpochs) {
  write_images(shared->path / "timed", 60, false);
  const std::string command =
      "defend --model attack/FashionMNIST/ResNet18/BadNets/victim.pt --images timed --image 32 --no_scan --width 4 "
      "--levels 1 --threads 1 --flip off --answer gated ";
  const Outcome timed = refine(*shared, command + "--minutes 0.002 --out timed.pt");
  ASSERT_TRUE(is_done(timed)) << timed.err;
  expect_words(timed.err, {"training is expected to take", "memory", "; --epoch "});
  const auto at = timed.err.find("; --epoch ") + 10;
  const std::string epochs = timed.err.substr(at, timed.err.find(' ', at) - at);
  const Outcome counted = refine(*shared, command + "--out counted.pt --epoch " + epochs);
  ASSERT_TRUE(is_done(counted)) << counted.err;
  EXPECT_TRUE(content(shared->path / "timed.pt") == content(shared->path / "counted.pt"));
  expect_words(content(shared->path / "timed.safetensors"), {R"(\"flip\":false)", R"("answer":"gated")"});
}

TEST_F(Command, Defend_InterruptedMinutes_KeepTheirEpochs) {
  write_images(shared->path / "limited", 120, false);
  const std::string command =
      "defend --model attack/FashionMNIST/ResNet18/BadNets/victim.pt --images limited --image 32 --minutes 0.05 "
      "--no_scan --no_probe --width 4 --levels 1 --threads 1 --checkpoint_every 0.05 --out limited.pt ";
  const Outcome stopped = refine_and_signal(*shared, command, "limited.report/checkpoints");
  ASSERT_EQ(stopped.status, 143) << stopped.err;
  const std::string epochs = content(shared->path / "limited.report/checkpoints/epochs");
  expect_words(stopped.err, {"--epoch " + epochs.substr(0, epochs.find('\n')) + " gives the same result"});
  // The user's own command, as after kill -9. The time of a step differs, the number of epochs does not.
  const Outcome resumed = refine(*shared, command + "--resume");
  ASSERT_TRUE(is_done(resumed)) << resumed.err;
  expect_words(resumed.err,
               {"the interrupted run was planned with " + epochs.substr(0, epochs.find('\n')) + " epoch",
                "resumed after step"});
  EXPECT_FALSE(fs::exists(shared->path / "limited.report/checkpoints"));
}

TEST_F(Command, Defend_Interrupted_IsResumedBitForBit) {
  write_images(shared->path / "long", 120, false);
  const std::string options =
      "defend --model attack/FashionMNIST/ResNet18/BadNets/victim.pt --images long --image 32 --epoch 40 --no_scan "
      "--no_probe --width 4 --levels 1 --threads 1 ";
  const std::string command = options + "--checkpoint_every 0.05 --out ";
  const Outcome undisturbed = refine(*shared, command + "whole.pt");
  ASSERT_TRUE(is_done(undisturbed)) << undisturbed.err;
  EXPECT_FALSE(fs::exists(shared->path / "whole.report/checkpoints")) << "removed after success";

  const Outcome stopped = refine_and_signal(*shared, command + "parts.pt", "parts.report/checkpoints");
  ASSERT_EQ(stopped.status, 143) << stopped.err;
  expect_words(stopped.err, {"stopped: training the defense ended after step", "parts.report/checkpoints/",
                             "go on with: ", "--out parts.pt --resume"});
  EXPECT_FALSE(fs::exists(shared->path / "parts.pt"));

  expect_refusal(refine(*shared, command + "parts.pt"),
                 {"error: checkpoints in parts.report/checkpoints", "--resume"});
  const Outcome other = refine(*shared, command + "parts.pt --resume --lr 0.01");
  EXPECT_EQ(other.status, 2);
  expect_words(other.err, {"recipe.optimization.lr is 0.01, the checkpoint has 0.05"});

  const Outcome resumed = refine(*shared, command + "parts.pt --resume");
  ASSERT_TRUE(is_done(resumed)) << resumed.err;
  expect_words(resumed.err, {"resumed after step"});
  for (const char* name : {".pt", ".safetensors"}) {
    EXPECT_TRUE(content(shared->path / ("parts" + std::string(name))) ==
                content(shared->path / ("whole" + std::string(name))))
        << name;
  }
  const std::string log = content(shared->path / "parts.report/log.jsonl");
  EXPECT_EQ(std::ranges::count(log, '\n'), 40) << "each epoch once";
  EXPECT_FALSE(fs::exists(shared->path / "parts.report/checkpoints"));
  expect_refusal(refine(*shared, options + "--out parts.pt --resume --checkpoint_every 0"), {"--resume"});
}

TEST_F(Command, Defend_TwoRanks_GiveTheReportOfOneProcess) {
  if (!distributed::C10d::is_available())
    GTEST_SKIP() << "compiled without Gloo's headers (Debian: libgloo-dev)";
  write_images(shared->path / "ranks", 120, false);
  const std::string command =
      "defend --model attack/FashionMNIST/ResNet18/BadNets/victim.pt --images ranks --image 32 --epoch 4 --no_scan "
      "--width 4 --levels 1 --threads 1 --precision float32 --json --out ";
  const Outcome one = refine(*shared, command + "one.pt");
  ASSERT_TRUE(is_done(one)) << one.err;
  const std::string program = testing::quoted_program(),
                    variables = fmt::format("WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT={} ",
                                            20'000 + ::getpid() % 20'000);
  const Outcome two =
      refine(*shared, command + "two.pt",
             "cd '" + shared->path.string() + "' && (RANK=1 " + variables + program + " " + command +
                 "two.pt >out1.txt 2>err1.txt; echo $? >status1.txt) & export RANK=0 " + variables + "; ");
  ASSERT_EQ(two.status, 0) << two.err;
  while (!fs::exists(shared->path / "status1.txt") || content(shared->path / "status1.txt").empty())
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_EQ(content(shared->path / "status1.txt") + content(shared->path / "out1.txt") +
                content(shared->path / "err1.txt"),
            "0\n");
  const json a = json::parse(one.out), b = json::parse(two.out);
  EXPECT_EQ(a["agreement"], b["agreement"]);
  EXPECT_TRUE(fs::exists(shared->path / "two.report/report.html"));
  EXPECT_FALSE(fs::exists(shared->path / "two.report/checkpoints"));
}

TEST_F(Command, SeveralProcesses_IncompleteEnvironmentOrOtherCommand_IsRefused) {
  testing::expect_refusal(refine(*shared, "inspect none.pt", "export RANK=0; "), {"WORLD_SIZE is not set"});
  testing::expect_refusal(refine(*shared, "inspect none.pt",
                                 "export RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500; "),
                          {"refine inspect", "got WORLD_SIZE=2, expected 1", "only refine defend"});
  testing::expect_refusal(refine(*shared, "defend --model none.pt --images none",
                                 "export RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1; "),
                          {"MASTER_PORT is not set"});
}

// tools/kill_test --fail_writes fails every write, of a victim's run, too.
TEST_F(Command, Defend_AWriteFails_NothingIsHalfWrittenAndTheRunIsResumed) {
  write_images(shared->path / "few", 40, false);
  const std::string command =
      "defend --model attack/FashionMNIST/ResNet18/BadNets/victim.pt --images few --image 32 --epoch 3 --no_scan "
      "--no_probe --width 2 --levels 1 --threads 1 ";
  const std::string often = "--checkpoint_every 0.05 --out ", once = "--checkpoint_every 60 --out ";
  const auto preload = [&](const std::string& folder) {
    return "export LD_PRELOAD='" + fs::absolute("tests/tools/libfailing_writes.so").string() +
           "' FAIL_BELOW='" + (shared->path / folder).string() + "'";
  };
  const Outcome undisturbed =
      refine(*shared, command + once + "intact/d.pt", preload("intact") + " FAIL_REPORT=calls; ");
  ASSERT_TRUE(is_done(undisturbed)) << undisturbed.err;
  const std::string expected = content(shared->path / "intact/d.pt");
  const int calls = std::stoi(content(shared->path / "calls"));

  // Half of the calls that fail, from the first, fail alone; after the others, no write succeeds. The last one is after
  // the training: the number of calls is the same in each run with one checkpoint.
  const int errors[] = {ENOSPC, EDQUOT, EFBIG, EIO, ENOSPC}, first[] = {1, 8, 29, 64, calls - 5};
  for (int i = 0; i < 5; ++i) {
    const std::string folder = "full" + std::to_string(i);
    SCOPED_TRACE(folder);
    const std::string environment = preload(folder) + " FAIL_ERROR=" + std::to_string(errors[i]) +
                                    " FAIL_FIRST=" + std::to_string(first[i]) +
                                    (i % 2 ? " FAIL_COUNT=1; " : "; ");
    const std::string out = (i < 4 ? often : once) + folder + "/d.pt";
    const Outcome failed = refine(*shared, command + out, environment);
    const fs::path file = shared->path / folder / "d.pt";
    if (i % 2 && is_done(failed)) {  // it was a checkpoint
      EXPECT_TRUE(content(file) == expected);
      continue;
    }
    EXPECT_EQ(failed.status, 2) << failed.err;
    EXPECT_NE(failed.err.find("error: cannot write "), std::string::npos) << failed.err;
    EXPECT_EQ(failed.err.find("error: "), failed.err.rfind("error: ")) << failed.err;
    EXPECT_TRUE(!fs::exists(file) || content(file) == expected);
    if (i == 4) expect_words(failed.err, {"go on with: ", "--resume"});
    const Outcome resumed = refine(*shared, command + out + " --resume");
    ASSERT_TRUE(is_done(resumed)) << resumed.err;
    EXPECT_TRUE(content(file) == expected);
  }
}

// `defend` measures the attack of attack.json: with another victim, its figures would be those of no trigger.
TEST_F(Command, Attack_AWriteFails_TheAttackIsThatOfTheVictim) {
  const std::string set = small_set(*shared);
  const auto command = [&](const std::string& folder, int target) {
    return "attack --width 2 --epoch 1 --threads 1 --checkpoint_every 0 --attack_root " + folder + set +
           "--tlabel " + std::to_string(target);
  };
  const std::string preload = "export LD_PRELOAD='" +
                              fs::absolute("tests/tools/libfailing_writes.so").string() + "' FAIL_BELOW='" +
                              (shared->path / "again").string() + "' ";
  const fs::path folder = shared->path / "again/set/ResNet18/BadNets";
  ASSERT_EQ(refine(*shared, command("again", 0)).status, 0);
  const std::string first = content(folder / "victim.safetensors");
  fs::copy(folder, shared->path / "kept");
  ASSERT_EQ(refine(*shared, command("again", 3), preload + "FAIL_REPORT=writes; ").status, 0);
  const std::string second = content(folder / "victim.safetensors");
  ASSERT_NE(first, second);
  const int writes = std::stoi(content(shared->path / "writes"));
  int replaced = 0, kept = 0;
  for (int failing = 1; failing <= writes; failing += 2) {
    SCOPED_TRACE(failing);
    fs::remove_all(folder);
    fs::copy(shared->path / "kept", folder);
    const Outcome failed =
        refine(*shared, command("again", 3), preload + "FAIL_FIRST=" + std::to_string(failing) + "; ");
    EXPECT_EQ(failed.status, 2) << failed.err;
    if (!fs::exists(folder / "victim.safetensors") || !fs::exists(folder / "attack.json")) continue;
    const bool is_new = json::parse(content(folder / "attack.json"))["target"] == 3;
    EXPECT_TRUE(content(folder / "victim.safetensors") == (is_new ? second : first));
    ++(is_new ? replaced : kept);
  }
  EXPECT_GT(kept, 0) << "a write before the training failed";
  EXPECT_GT(replaced, 0) << "a write after both failed";
}

/// Returns the weights of a file, and the batch size that its recipe states.
std::pair<formats::Weights, int> weights_and_batch(const fs::path& file) {
  formats::Weights weights = formats::read_weights(file);
  const int batch = json::parse(weights.metadata.at("recipe"))["optimization"]["batch_size"];
  return {std::move(weights), batch};
}

TEST_F(Command, Defend_MemoryIsShort_HalvesTheBatchAndSaysSo) {
  write_images(shared->path / "many", 120, false);
  const std::string command =
      "defend --model attack/FashionMNIST/ResNet18/BadNets/victim.pt --images many --image 32 --epoch 1 --no_scan "
      "--no_probe --width 16 --levels 1 --precision float32 --threads 1 --out ";
  // A layer of 32 channels takes 131 kB an image: 8.4 MB of 64 images, 4.2 MB of 32, 12.6 MB of the 96 that the
  // agreement is measured on.
  const std::string limited = "export LD_PRELOAD='" +
                              fs::absolute("tests/tools/liblimited_memory.so").string() +
                              "' ALLOCATE_AT_MOST=6000000; ";
  const Outcome halved = refine(*shared, command + "halved.pt", limited);
  ASSERT_TRUE(is_done(halved)) << halved.err;
  expect_words(halved.err, {"warning: ", "batches of 32 images", "the result differs"});
  const Outcome chosen = refine(*shared, command + "chosen.pt --batch_size 32");
  ASSERT_TRUE(is_done(chosen)) << chosen.err;
  const auto [weights, batch] = weights_and_batch(shared->path / "halved.safetensors");
  EXPECT_EQ(batch, 32);
  const auto expected = weights_and_batch(shared->path / "chosen.safetensors").first.tensors;
  ASSERT_EQ(weights.tensors.size(), expected.size());
  for (const auto& [name, tensor] : expected) EXPECT_TRUE(weights.tensors.at(name).equal(tensor)) << name;

  const Outcome refused = refine(*shared, command + "refused.pt --batch_size 64", limited);
  EXPECT_EQ(refused.status, 2) << refused.err;
  expect_words(refused.err,
               {"error: training the defense: not enough memory", "batches of 64 images", "32 or less"});
  EXPECT_FALSE(fs::exists(shared->path / "refused.pt"));
}

TEST_F(Command, Inspect_OneFile_ListsItsContent) {
  const Outcome program = refine(*shared, "inspect attack/FashionMNIST/ResNet18/BadNets/victim.pt");
  EXPECT_EQ(program.status, 0) << program.err;
  expect_words(program.out, {"aten::relu", "nothing in it but tensor arithmetic"});
  const Outcome weights =
      refine(*shared, "inspect --json attack/FashionMNIST/ResNet18/BadNets/victim.safetensors");
  EXPECT_EQ(weights.status, 0) << weights.err;
  EXPECT_EQ(json::parse(weights.out)["tensors"]["conv1.weight"]["shape"], json({4, 3, 3, 3}));
  EXPECT_EQ(json::parse(weights.out)["metadata"]["network"], "ResNet18");
}

TEST_F(Command, Inspect_ExportedProgram_ListsOperatorsShapesAndDangers) {
  const ScratchFolder scratch;
  for (const char* name : {"mixed", "hostile_opaque"}) {
    scratch.write(std::string(name) + ".pt2",
                  content(std::string("tests/fixtures/exported/") + name + ".pt2"));
  }
  const Outcome fine = refine(scratch, "inspect mixed.pt2");
  EXPECT_EQ(fine.status, 0) << fine.err;
  expect_words(fine.out, {"a program of torch.export", "aten::conv2d.default", "input x  float32 ?×3×8×8",
                          "head.weight  float32 5×8", "nothing in it but tensor arithmetic"});
  const Outcome listed = refine(scratch, "inspect --json mixed.pt2");
  EXPECT_EQ(json::parse(listed.out)["output"].at(0)["shape"], json({nullptr, 5}));
  const Outcome hostile = refine(scratch, "inspect hostile_opaque.pt2");
  EXPECT_EQ(hostile.status, 1);
  expect_words(hostile.out, {"objection", "opaque_obj_0", "do not load it in Python"});
}

TEST_F(Command, Inspect_FilesAndFolders_WritesSarif) {
  const ScratchFolder scratch;
  for (const char* name : {"checkpoints/vision.pth", "checkpoints/two.pth", "programs/quantized_buffer.pt",
                           "programs/lift_fresh.pt"}) {
    fs::create_directories((scratch.path / "models" / name).parent_path());
    scratch.write(std::string("models/") + name, content(std::string("tests/fixtures/") + name));
  }
  scratch.write("models/evil file.pth",
                "\x80\x02"
                "cposix\nsystem\nX\x01");
  scratch.write("models/page.pt", "<!DOCTYPE html>");
  scratch.write("models/notes.txt", "nothing");
  const Outcome text = refine(scratch, "inspect models --sarif out.sarif");
  EXPECT_EQ(text.status, 1) << text.err;
  expect_words(text.out, {"vision.pth: weights at 'model'", "lift_fresh.pt: a TorchScript program",
                          "a web page", "quantised", "1 other file passed over", "6 files inspected"});
  const auto sarif = json::parse(content(scratch.path / "out.sarif"));
  EXPECT_EQ(sarif["version"], "2.1.0");
  const auto& run = sarif["runs"].at(0);
  EXPECT_EQ(run["tool"]["driver"]["name"], "refine inspect");
  ASSERT_FALSE(run["results"].empty());
  std::set<std::string> seen;
  for (const auto& result : run["results"]) {
    seen.insert(result["ruleId"]);
    EXPECT_EQ(run["tool"]["driver"]["rules"].at(result["ruleIndex"].get<std::size_t>())["id"],
              result["ruleId"]);
    EXPECT_TRUE(result["message"]["text"].is_string());
    const std::string uri = result["locations"].at(0)["physicalLocation"]["artifactLocation"]["uri"];
    EXPECT_TRUE(uri.starts_with("models/") && uri.find(' ') == std::string::npos) << uri;
  }
  for (const char* rule : {"quantized-program", "refused-file", "other-format", "unknown-class"}) {
    EXPECT_TRUE(seen.contains(rule)) << rule;
  }
  // A file that could not be read does not count as accepted.
  fs::create_directories(scratch.path / "downloads");
  scratch.write("downloads/a.pt", "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 3\n");
  scratch.write("downloads/b.pt", "<!DOCTYPE html>");
  const Outcome unread = refine(scratch, "inspect downloads");
  EXPECT_EQ(unread.status, 1);
  expect_words(unread.out, {"Git LFS", "2 files inspected, 0 refused, 2 not read"});
  const Outcome all = refine(scratch, "inspect --json models/page.pt models/programs");
  EXPECT_EQ(all.status, 1);
  EXPECT_EQ(json::parse(all.out)["files"].size(), 3u);
  expect_refusal(refine(scratch, "inspect models/page.pt"), {"models/page.pt", "a web page"});
  const Outcome ema = refine(scratch, "inspect --json --key model_ema models/checkpoints/vision.pth");
  EXPECT_EQ(ema.status, 0) << ema.err;
  EXPECT_EQ(json::parse(ema.out)["key"], "model_ema");
}

TEST_F(Command, Defend_Encoder_IsExportedFromItsParts) {
  write_images(shared->path / "encoded", 24, false);
  const std::string victim = "attack/FashionMNIST/ResNet18/BadNets/victim.pt";
  // The logits of a classifier are features, too.
  const std::string encoder = " --encoder " + victim + " --encoder_mean 0.5 --encoder_std 0.25 ";
  const Outcome defense =
      refine(*shared, "defend --model " + victim + encoder +
                          "--images encoded --draw 24 --epoch 1 --no_scan --no_probe --out encoded.pt");
  ASSERT_TRUE(is_done(defense)) << defense.err;
  expect_words(defense.err,
               {"training is expected to take", "an encoder sees them", "asked with 3x24x24", "features"});
  const std::string parts = "export --model " + victim + " --defense encoded.safetensors --out again.pt";
  ASSERT_EQ(refine(*shared, parts + encoder).status, 0);
  const std::string predict = " --device cpu encoded/0.png encoded/1.png";
  EXPECT_EQ(refine(*shared, "predict --model again.pt" + predict).out,
            refine(*shared, "predict --model encoded.pt" + predict).out);
  expect_refusal(refine(*shared, parts), {"encoded.safetensors", "--encoder"});
  expect_refusal(refine(*shared, "export --model " + victim + encoder + "--out again.pt"),
                 {"--encoder", "--defense"});
  expect_refusal(refine(*shared, "defend --model " + victim + " --images encoded --encoder_mean 0.5"),
                 {"--encoder_mean", "--encoder"});
  expect_refusal(refine(*shared, "defend --model " + victim + encoder + "--images encoded --out " + victim),
                 {"--model", "--out"});
}

TEST_F(Command, Defend_OtherPictures_AreTrainedOnToo) {
  write_images(shared->path / "own", 60, false);
  write_images(shared->path / "others", 200, false);  // of which the first 60 are the same
  const std::string command =
      "defend --model attack/FashionMNIST/ResNet18/BadNets/victim.pt --images own --image 32 --width 2 --levels 1 "
      "--threads 1 --no_scan --epoch 2 ";
  const Outcome run = refine(*shared, command + "--extra others --out more.pt");
  ASSERT_TRUE(is_done(run)) << run.err;
  expect_words(run.err,
               {" of 200 other pictures are left out", "60 clean images are few", "--defense student"});
  const std::size_t end = run.err.find(" of 200 other pictures");
  const int left_out = std::stoi(run.err.substr(run.err.rfind('\n', end) + 1));
  EXPECT_GE(left_out, 12);  // 12 images are held back; garments resemble each other
  EXPECT_LT(left_out, 80);
  expect_words(content(shared->path / "more.report/report.html"),
               {"other pictures", std::to_string(200 - left_out), "48 to fit on"});
  const Outcome alone = refine(*shared, command + "--out fewer.pt");
  ASSERT_TRUE(is_done(alone)) << alone.err;
  expect_words(alone.err, {"60 clean images are few", "--extra", "--defense student"});
  EXPECT_NE(content(shared->path / "more.pt"), content(shared->path / "fewer.pt"));

  expect_refusal(refine(*shared, command + "--extra nowhere"), {"nowhere"});
  expect_refusal(refine(*shared, command + "--extra others --store kept"), {"--extra", "--store"});
  expect_refusal(refine(*shared, command + "--extra others --out others/defended.pt"), {"--extra", "--out"});
}

TEST_F(Command, Defend_Student_ServesInEachFormatAndFromItsParts) {
  write_images(shared->path / "taught", 120, false);
  write_images(shared->path / "graded", 40, true);
  const std::string victim = "attack/FashionMNIST/ResNet18/BadNets/victim.pt";
  const std::string command = "defend --defense student --model " + victim +
                              " --images taught --image 32 --width 4 --threads 1 --precision float32 ";
  const Outcome run = refine(*shared, command + "--epoch 3 --out taught.pt");
  ASSERT_TRUE(is_done(run)) << run.err;
  expect_words(run.out, {"victim.pt (student)", "Found in the victim: "});
  expect_words(run.err, {"student ", "120 clean images are few; a student"});
  EXPECT_EQ((run.out + run.err).find("transform"), std::string::npos) << run.out << run.err;
  const std::string page = content(shared->path / "taught.report/report.html");
  expect_words(page, {"a student that answers in the", "ResNet18 of width 4", "clean, defended"});
  EXPECT_EQ(page.find("clean, transformed"), std::string::npos);

  // The same weights in each format, and again from the parts.
  const std::string parts = "export --model " + victim + " --defense taught.safetensors --out ";
  const std::string predict = "predict --json --device cpu taught/0.png taught/1.png taught/2.png --model ";
  ASSERT_EQ(refine(*shared, parts + "again.pt").status, 0);
  const Outcome first = refine(*shared, predict + "taught.pt");
  ASSERT_EQ(first.status, 0) << first.err;
  EXPECT_EQ(refine(*shared, predict + "again.pt").out, first.out);
  for (const char* name : {"again.pt2", "again.onnx"}) {
    const Outcome exported = refine(*shared, parts + name);
    ASSERT_EQ(exported.status, 0) << exported.err;
    const Outcome seen = refine(*shared, std::string("inspect --json ") + name);
    ASSERT_EQ(seen.status, 0) << seen.err;
    EXPECT_EQ(json::parse(seen.out)["refine"]["defense"], "student");
    EXPECT_EQ(json::parse(seen.out)["refine"]["student"], "ResNet18 of width 4");
  }
  std::istringstream a(first.out), b(refine(*shared, predict + "again.pt2").out);
  for (std::string x, y; std::getline(a, x) && std::getline(b, y);) {
    EXPECT_EQ(json::parse(x)["class"], json::parse(y)["class"]);
    EXPECT_NEAR(json::parse(x)["alarm_score"].get<double>(), json::parse(y)["alarm_score"].get<double>(),
                1e-4);
  }
  const Outcome weights = refine(*shared, "inspect --json taught.safetensors");
  EXPECT_EQ(json::parse(weights.out)["metadata"]["refine"], "student");

  const Outcome evaluated =
      refine(*shared, "evaluate --model again.pt2 --images graded --attack BadNets --tlabel 3");
  ASSERT_TRUE(is_done(evaluated)) << evaluated.err;
  expect_words(evaluated.out, {"again.pt2 (student)", "BA", "largest lift"});
  for (const std::string& file : {std::string("taught.pt"), victim + " --defense taught.safetensors"}) {
    const Outcome cost = refine(*shared, "bench --json --seconds 0.05 --batch_size 2 " + file);
    ASSERT_EQ(cost.status, 0) << cost.err;
    const json answers = json::parse(cost.out)["answers"];
    ASSERT_EQ(answers.size(), 3u);
    EXPECT_EQ(answers[1]["answer"], "defended");
    // Victim and student are one architecture of one width; a gated answer asks both.
    EXPECT_EQ(answers[1]["multiply_adds"], answers[0]["multiply_adds"]);
    EXPECT_EQ(answers[2]["multiply_adds"], 2 * answers[0]["multiply_adds"].get<std::int64_t>());
  }
  // By names, with the attack's figures and the gated answer.
  const Outcome named = refine(*shared,
                               "defend --defense student --limit 1000 --epoch 1 --width 4 --answer gated "
                               "--refine_res students --json " +
                                   names);
  ASSERT_TRUE(is_done(named)) << named.err;
  const json metrics = json::parse(named.out);
  EXPECT_EQ(metrics["title"], "BadNets on FashionMNIST (student)");
  EXPECT_EQ(metrics["before"]["ba"]["hits"], attack["ba"]["hits"]);
  EXPECT_EQ(metrics["answer"], "gated");
}

TEST_F(Command, Defend_InterruptedStudent_IsResumedBitForBit) {
  write_images(shared->path / "lessons", 120, false);
  const std::string any =
      "defend --model attack/FashionMNIST/ResNet18/BadNets/victim.pt --images lessons --image 32 --epoch 20 --no_scan "
      "--no_probe --width 4 --threads 1 --checkpoint_every 0.05 ";
  const std::string command = any + "--defense student --out ";
  const Outcome undisturbed = refine(*shared, command + "lesson.pt");
  ASSERT_TRUE(is_done(undisturbed)) << undisturbed.err;
  const Outcome stopped = refine_and_signal(*shared, command + "parted.pt", "parted.report/checkpoints");
  ASSERT_EQ(stopped.status, 143) << stopped.err;
  expect_words(stopped.err, {"stopped: training the student ended after step", "--out parted.pt --resume"});
  // The other kind of defense refuses the checkpoint by name.
  const Outcome other = refine(*shared, any + "--levels 1 --out parted.pt --resume");
  EXPECT_EQ(other.status, 2);
  expect_words(other.err, {"cannot resume from", "this run trains a defense, the checkpoint's a student"});
  // The same weights, which would see other images.
  const Outcome seen = refine(*shared, command + "parted.pt --see 24 --resume");
  EXPECT_EQ(seen.status, 2);
  expect_words(seen.err, {"cannot resume from", "network, or its initial weights, differ"});
  const Outcome resumed = refine(*shared, command + "parted.pt --resume");
  ASSERT_TRUE(is_done(resumed)) << resumed.err;
  expect_words(resumed.err, {"resumed after step"});
  for (const std::string name : {".pt", ".safetensors"})
    EXPECT_TRUE(content(shared->path / ("parted" + name)) == content(shared->path / ("lesson" + name)))
        << name;

  const Outcome refine_stopped =
      refine_and_signal(*shared, any + "--levels 1 --out parted.pt", "parted.report/checkpoints", "INT");
  ASSERT_EQ(refine_stopped.status, 130) << refine_stopped.err;
  expect_words(refine_stopped.err,
               {"stopped: training the defense ended after step", "--out parted.pt --resume"});
  const Outcome student = refine(*shared, command + "parted.pt --resume");
  EXPECT_EQ(student.status, 2);
  expect_words(student.err, {"this run trains a student, the checkpoint's a defense"});
}

TEST_F(Command, Defend_StudentWithAnEncoder_IsExportedFromItsParts) {
  write_images(shared->path / "shown", 24, false);
  const std::string victim = "attack/FashionMNIST/ResNet18/BadNets/victim.pt";
  const std::string encoder = " --encoder " + victim + " --encoder_mean 0.5 --encoder_std 0.25 ";
  const Outcome defense = refine(*shared, "defend --defense student --model " + victim + encoder +
                                              "--images shown --epoch 2 --no_scan --no_probe --out shown.pt");
  ASSERT_TRUE(is_done(defense)) << defense.err;
  expect_words(defense.err, {"features and the victim's answers of 20 images"});
  expect_words(content(shared->path / "shown.report/report.html"), {"two layers of width 256 on an encoder"});
  const std::string parts = "export --model " + victim + " --defense shown.safetensors --out again.pt";
  ASSERT_EQ(refine(*shared, parts + encoder).status, 0);
  const std::string predict = " --device cpu shown/0.png shown/1.png";
  EXPECT_EQ(refine(*shared, "predict --model again.pt" + predict).out,
            refine(*shared, "predict --model shown.pt" + predict).out);
  expect_refusal(refine(*shared, parts), {"shown.safetensors", "--encoder"});
  expect_refusal(refine(*shared, parts + encoder + "--pixel_domain image"),
                 {"--pixel_domain", "shown.safetensors", "student"});
}

TEST_F(Command, Defend_StudentWithOptionsOfATransform_IsRefused) {
  const std::string command =
      "defend --defense student --model attack/FashionMNIST/ResNet18/BadNets/victim.pt --images nowhere ";
  for (const char* option : {"--transform UNet", "--levels 2", "--draw 32", "--sup 0", "--head 1"}) {
    const std::string text = option;
    expect_refusal(refine(*shared, command + text),
                   {std::string_view(text).substr(0, text.find(' ')), "--defense student", "leave"});
  }
  expect_refusal(refine(*shared, "defend --defense teacher --model a --images b"), {"--defense", "teacher"});
}

TEST_F(Command, AnyCommand_BadInput_IsRefusedInOneLine) {
  shared->write("images/a.png", "no image");
  expect_refusal(refine(*shared, "defend --model nowhere.pt --images images"), {"nowhere.pt"});
  expect_refusal(refine(*shared, "defend --model ResNet18 --dataset nowhere"), {"refine attack"});
  expect_refusal(refine(*shared, "defend --model attack/FashionMNIST/ResNet18/BadNets/victim.pt"),
                 {"--images"});
  expect_refusal(refine(*shared, "defend --store kept " + names), {"FashionMNIST", "--store"});
  expect_refusal(refine(*shared, "attack --attack Nonesuch " + std::string(fashion)),
                 {"Nonesuch", "BadNets"});
  expect_refusal(refine(*shared, "attack --model Nonesuch " + std::string(fashion)),
                 {"Nonesuch", "ResNet18"});
  EXPECT_EQ(refine(*shared, "attack --rate 1.5 " + std::string(fashion)).status, 2);
  expect_refusal(refine(*shared, "attack --tlabel 10 " + std::string(fashion)), {"10"});
  expect_refusal(refine(*shared, "predict --model attack/FashionMNIST/ResNet18/BadNets/victim.pt ."),
                 {"victim.pt"});
  shared->write("weights.pth", content("tests/fixtures/reference_ckpt_epoch_150.pth"));
  expect_refusal(refine(*shared, "defend --model weights.pth --images images"), {"weights.pth", "--arch"});
  expect_refusal(
      refine(*shared, "defend --model weights.pth --arch ResNet18 --image 4x32x32 --images images"),
      {"weights.pth", "4 channels"});
  expect_refusal(refine(*shared, "report out.txt"), {"out.txt"});
  expect_refusal(refine(*shared, "nonesuch"), {"nonesuch"});
  expect_refusal(refine(*shared, "defend --model a --images b --lr -1"), {"--lr", "-1"});
  expect_refusal(refine(*shared, "defend --model a --images b --batch_size 1"), {"--batch_size", "1", "2"});
  expect_refusal(refine(*shared, "defend --model a --images b --precision half"), {"--precision", "half"});
  shared->write("typo.toml", "[defend]\nmodle=\"a\"\n");
  expect_refusal(refine(*shared, "--config typo.toml defend --images b"), {"modle"});
  const std::string victim = "defend --model attack/FashionMNIST/ResNet18/BadNets/victim.pt --images images ";
  expect_refusal(refine(*shared, victim + "--mean 124,117,104 --std 1,1,1"), {"--mean", "124"});
  expect_refusal(refine(*shared, victim + "--image 64"), {"victim.pt", "3x32x32"});
  write_images(shared->path / "few", 8, false);
  const Outcome decay = refine(*shared,
                               "defend --model attack/FashionMNIST/ResNet18/BadNets/victim.pt --images few "
                               "--decay 0.5");
  EXPECT_EQ(decay.status, 2);
  expect_words(decay.err, {"--decay", "--recipe paper"});
  for (const char* usage : {"", "nonesuch", "defend", "defend --nonesuch 3", "attack --seed -1",
                            "attack --device tpu", "predict --config nowhere.toml --model a b"}) {
    EXPECT_EQ(refine(*shared, usage).status, 2) << usage;
  }
}

TEST_F(Command, Defend_VictimThatCannotBecomePt2_IsRefusedBeforeTraining) {
  const ScratchFolder here;
  fs::copy_file("tests/fixtures/exported/fixed.pt2", here.path / "fixed.pt2");
  write_images(here.path / "clean", 40, false);
  expect_refusal(refine(here, "defend --model fixed.pt2 --images clean --no_probe --out defended.pt2"),
                 {"fixed.pt2", "batches of", "dynamic_shapes"});
  EXPECT_FALSE(fs::exists(here.path / "defended.report/log.jsonl"));
}

TEST_F(Command, Export_BackdoorBenchsDictionary_IsRead) {
  const ScratchFolder here;
  fs::copy_file("tests/fixtures/backdoorbench.pt", here.path / "attack_result.pt");
  // The file has the name of its network.
  const Outcome named = refine(here, "export --model attack_result.pt --image 32 --out named.pt");
  EXPECT_EQ(named.status, 0) << named.err;
  const Outcome specified =
      refine(here, "export --model attack_result.pt --arch preact-resnet18 --image 32 --out specified.pt");
  EXPECT_EQ(specified.status, 0) << specified.err;
  expect_refusal(refine(here, "export --model attack_result.pt --arch ResNet18 --image 32"),
                 {"attack_result.pt", "look like those of a PreActResNet18", "--arch PreActResNet18"});
  expect_refusal(refine(here, "export --model attack_result.pt --stem 3x3 --image 32"),
                 {"--stem", "a PreActResNet18", "leave it out"});
}

TEST_F(Command, Export_UnknownImageSize_IsRefused) {
  const ScratchFolder here;
  fs::copy_file("tests/fixtures/backdoorbench.pt", here.path / "attack_result.pt");
  fs::copy_file("tests/fixtures/programs/plain.pt", here.path / "pools.pt");
  expect_refusal(refine(here, "export --model attack_result.pt --out named.pt"),
                 {"attack_result.pt", "specify --image"});
  expect_refusal(refine(here, "export --model pools.pt --out out.pt"),
                 {"pools.pt", "3x32x32", "3x224x224", "specify --image"});
  EXPECT_FALSE(fs::exists(here.path / "out.pt"));
  EXPECT_EQ(refine(here, "export --model pools.pt --image 48 --out out.pt").status, 0);
  // What refine exports has its size.
  EXPECT_EQ(refine(here, "export --model out.pt --out again.pt").status, 0);
}

TEST_F(Command, Export_FilesOfTheAuthorsCode_GiveAServingFile) {
  for (const char* file : {"ckpt_epoch_150", "unet_epoch150", "label_shuffle"}) {
    shared->write(std::string(file) + ".pth",
                  content(std::string("tests/fixtures/reference_") + file + ".pth"));
  }
  const Outcome run = refine(*shared,
                             "export --model ckpt_epoch_150.pth --arch ResNet18 --image 32 "
                             "--mean 0.4914,0.4822,0.4465 --std 0.2023,0.1994,0.2010 "
                             "--defense unet_epoch150.pth --permutation label_shuffle.pth --out served.pt");
  ASSERT_EQ(run.status, 0) << run.err;
  const Outcome seen = refine(*shared, "inspect --json served.pt");
  EXPECT_EQ(json::parse(seen.out)["refine"]["permutation"], json({5, 7, 0, 9, 3, 4, 8, 1, 6, 2}));
}

}  // namespace
}  // namespace refine
