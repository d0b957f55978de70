// The product as a function, on a tiny TorchScript file (tests/fixtures/make_program_files.py).

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/upsample_bilinear2d.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/serialization/import.h>
#include <torch/nn/modules/container/sequential.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <refine/backbones/resnet.hpp>
#include <refine/backbones/vit.hpp>
#include <refine/core/file.hpp>
#include <refine/defend/defend.hpp>
#include <refine/defend/detail/check_outputs.hpp>
#include <refine/defend/detail/hold_back.hpp>
#include <refine/defend/detail/prepared_defense.hpp>
#include <refine/defend/images.hpp>
#include <refine/defend/plan.hpp>
#include <refine/defend/probe.hpp>
#include <refine/defend/saved_defense.hpp>
#include <refine/export/exported_classifier.hpp>
#include <refine/export/weights.hpp>
#include <refine/formats/safetensors.hpp>
#include <refine/nn/device.hpp>
#include <refine/nn/torch_random.hpp>
#include <refine/report/images.hpp>
#include <refine/report/render.hpp>

#include "tests/defend/noise.hpp"
#include "tests/support/error_of.hpp"
#include "tests/support/file_permissions.hpp"
#include "tests/support/scratch_folder.hpp"

#include "tests/defend/readme_defend.inc"

namespace refine {
namespace {

namespace fs = std::filesystem;
using testing::content;
using testing::error_of;
using testing::expect_words;
using testing::ScratchFolder;

constexpr const char* plain = "tests/fixtures/programs/plain.pt";

/// Writes noise as PNG files.
void write_images(const fs::path& folder, std::int64_t n, int side) {
  const at::Tensor rows = noise(n, side).permute({0, 2, 3, 1}).contiguous();
  for (std::int64_t i = 0; i < n; ++i) {
    const at::Tensor image = rows[i];
    const auto* bytes = image.const_data_ptr<std::uint8_t>();
    files::write(folder / (std::to_string(i) + ".png"),
                 report::png(std::vector<std::uint8_t>(bytes, bytes + image.numel()), side, side));
  }
}

DefendOptions quick_options(std::uint64_t seed = 7) {
  return {.training = {.epochs = 1, .batch_size = 16},
          .transform = {.levels = 1, .width = 2},
          .seed = seed,
          .scan = false};
}

LoadedClassifier small_victim() {
  return load_classifier(plain, {.image = {3, 16, 16}});
}

TEST(LoadClassifier, TorchScriptFile_IsDescribed) {
  const LoadedClassifier victim =
      load_classifier(plain, {.image = {3, 16, 16}, .class_names = {"a", "b", "c", "d", "e"}});
  EXPECT_EQ(victim.task().classes, 5);
  EXPECT_EQ(victim.task().image, (ImageShape{3, 16, 16}));
  EXPECT_EQ(victim.name, "plain.pt");
  EXPECT_TRUE(victim.is_image_known);
  EXPECT_FALSE(victim.is_normalization_known);
  EXPECT_EQ(victim.class_names.size(), 5u);
}

constexpr const char* exported_victim = "tests/fixtures/exported/mixed.pt2";

TEST(LoadClassifier, ExportedProgram_HasItsImageSizeAndClasses) {
  const LoadedClassifier victim = load_classifier(exported_victim);
  EXPECT_EQ(victim.task(), (Task{{3, 8, 8}, 5}));
  EXPECT_TRUE(victim.is_image_known);
  EXPECT_FALSE(victim.is_normalization_known);
  expect_words(victim.description, {"torch.export", "PyTorch 2."});
  expect_words(error_of([] { load_classifier(exported_victim, {.arch = "ResNet18"}); }),
               {"mixed.pt2", ".pt2", "--arch"});
  const LoadedClassifier open =
      load_classifier("tests/fixtures/exported/resizable.pt2", {.images = {3, 10, 12}, .output = "0"});
  EXPECT_EQ(open.task().image, (ImageShape{3, 10, 12}));
  EXPECT_FALSE(open.is_image_known);
}

TEST(LoadClassifier, HostileExportedProgram_IsRefusedUnlessTrusted) {
  constexpr const char* hostile = "tests/fixtures/exported/hostile_guard.pt2";
  expect_words(error_of([&] { load_classifier(hostile); }), {"hostile_guard.pt2", "guards_code", "--trust"});
  EXPECT_EQ(load_classifier(hostile, {.trust = true}).task().classes, 5);
  EXPECT_FALSE(fs::exists("ran_guard"));
}

TEST(Defend, ExportedProgram_IsDefendedAndServed) {
  const ScratchFolder scratch;
  const LoadedClassifier victim = load_classifier(exported_victim);
  const Defended defended = defend(victim, noise(40, 8), quick_options());
  const DefendedFiles files = defended.save(scratch.path / "defended.pt");
  const ExportedClassifier exported(files.serving);
  for (const std::int64_t n : {1, 5}) {  // for any batch size
    const at::Tensor x = noise(n, 8).to(at::kFloat) / 255;
    const c10::NoGradGuard no_grad;
    EXPECT_LT((exported.undefended(x) - victim.backbone.forward(x)).abs().max().item<double>(), 1e-5);
    EXPECT_EQ(exported.forward(x).sizes(), (std::vector<std::int64_t>{n, 5}));
  }
  // The parts give the same file again.
  const SavedDefense again = load_saved_defense(exported_victim, files.weights);
  EXPECT_EQ(again.defense.task(), victim.task());
}

TEST(LoadClassifier, OptionsThatDoNotFit_AreRefused) {
  expect_words(error_of([] { load_classifier("nowhere.pt"); }), {"nowhere.pt", "does not exist"});
  expect_words(error_of([] { load_classifier(plain, {.arch = "ResNet18"}); }),
               {"plain.pt", "ResNet18", "--arch"});
  expect_words(error_of([] { load_classifier(plain, {.key = "model"}); }), {"plain.pt", "--key model"});
  expect_words(error_of([] { load_classifier(plain, {.stem = backbones::Stem{}}); }), {"plain.pt", "--stem"});
  expect_words(error_of([] {
                 load_classifier(plain, {.image = {3, 16, 16}, .class_names = {"a"}});
               }),
               {"1 class names", "5 classes"});
}

TEST(ParseShape, OneOrThreeNumbers_AreAShape) {
  EXPECT_EQ(parse_shape("224"), (ImageShape{3, 224, 224}));
  EXPECT_EQ(parse_shape("1x28x32"), (ImageShape{1, 28, 32}));
  for (const char* text : {"", "x", "3x4", "3x4x5x6", "0", "-1", "3x224x224 ", "99999"}) {
    expect_words(error_of([&] { parse_shape(text); }), {std::string("'") + text + "'", "3x224x224"});
  }
}

TEST(ParseNormalization, OneOrThreeNumbers_AreANormalization) {
  EXPECT_EQ(parse_normalization({}, {}), std::nullopt);
  EXPECT_EQ(parse_normalization({0.5}, {0.25})->deviation, (std::array{0.25, 0.25, 0.25}));
  expect_words(error_of([] { parse_normalization({0.5, 0.5}, {1}); }), {"--mean", "got 2"});
  expect_words(error_of([] { parse_normalization({0.5}, {58}); }), {"--std", "got 58", "255"});
  for (const double zero : {0.0, 1e-50}) {  // as a float
    expect_words(error_of([&] { parse_normalization({0.5}, {0.5, zero, 0.5}); }), {"--std must be positive"});
  }
  for (const double wrong : {std::nan(""), -0.5, std::numeric_limits<double>::infinity()}) {
    const std::string why = error_of([&] { parse_normalization({wrong}, {0.5}); });
    expect_words(why, {"--mean must be in [0, 1], got"});
    EXPECT_EQ(why.find("255"), std::string::npos) << why;
  }
}

/// Images in folders, for a classifier that is right by the innermost one, which begins with 'a', 'b', …
FolderImages images_in(const std::vector<std::string>& folders, int each = 10) {
  FolderImages images;
  for (const std::string& folder : folders) images.folders.insert(images.folders.end(), each, folder);
  images.all_folders = {folders.begin(), folders.end()};
  images.images = at::zeros({static_cast<std::int64_t>(images.folders.size()), 3, 4, 4}, at::kByte);
  return images;
}

FolderLabelOptions right_by_the_innermost(const FolderImages& images, int classes,
                                          std::string* notes = nullptr) {
  return {.classes = classes,
          .predictions =
              [&images] {
                std::vector<std::int64_t> all;
                for (const auto& folder : images.folders)
                  all.push_back(std::filesystem::path(folder).filename().string()[0] - 'a');
                return all;
              },
          .notify =
              [notes](const Notice& notice) {
                if (notes) *notes += notice.text;
              }};
}

// As many parts as classes: the parts must not be taken for classes.
TEST(LabelByFolders, PartsOfADataSet_AreNotClasses) {
  for (const FolderLabels how : {FolderLabels::automatic, FolderLabels::text}) {
    const FolderImages two = images_in({"train/a", "train/b", "Test/a", "Test/b"});
    auto options = right_by_the_innermost(two, 2);
    options.labels = how;
    const auto labelled = label_by_folders(two, options);
    ASSERT_TRUE(labelled);
    EXPECT_EQ(labelled->classes, (std::vector<std::string>{"a", "b"}));
    EXPECT_TRUE(labelled->labels.equal(at::tensor(options.predictions())));
    const FolderImages three =
        images_in({"train/a", "val/a", "test/a", "train/b", "val/b", "train/c", "val/c", "test/c"});
    const auto more = right_by_the_innermost(three, 3);
    EXPECT_TRUE(label_by_folders(three, more)->labels.equal(at::tensor(more.predictions())));
  }
  // Without class folders below them, nothing is a class.
  const FolderImages parts = images_in({"train", "test"});
  std::string notes;
  EXPECT_FALSE(label_by_folders(parts, right_by_the_innermost(parts, 2, &notes)));
  expect_words(notes, {"no accuracy is measured", "parts of a data set"});
  // A class may be called "train".
  FolderImages vehicles = images_in({"train/a", "train/train"});
  auto named = right_by_the_innermost(vehicles, 2);
  named.class_names = {"a", "train"};
  EXPECT_EQ(label_by_folders(vehicles, named)->labels.sum().item<int>(), 10);
}

TEST(LabelByFolders, BothDepthsPossible_ThePredictionsDecide) {
  const FolderImages images = images_in({"x/a", "x/b", "y/a", "y/b"});
  std::string notes;
  const auto options = right_by_the_innermost(images, 2, &notes);
  EXPECT_EQ(label_by_folders(images, options)->classes, (std::vector<std::string>{"a", "b"}));
  expect_words(notes, {"inner folders", "100 %", "outer folders", "50 %"});
  auto undecided = options;
  undecided.predictions = [&] { return std::vector<std::int64_t>(images.folders.size(), 0); };
  expect_words(error_of([&] { label_by_folders(images, undecided); }),
               {"outer folders", "inner folders", "neither"});
  undecided.labels = FolderLabels::text;
  EXPECT_EQ(label_by_folders(images, undecided)->classes, (std::vector<std::string>{"x", "y"}));
}

TEST(ReadDataset, ImagesOfSeveralSizes_AreNotCroppedUnasked) {
  const ScratchFolder scratch;
  const auto write = [&](const std::string& name, int height, int width) {
    scratch.write(name, report::png(std::vector<std::uint8_t>(static_cast<std::size_t>(3 * height * width)),
                                    height, width));
  };
  for (int i = 0; i < 70; ++i) write("ds/train/a/" + std::to_string(i) + ".png", 8, 8);
  write("ds/train/b/1.png", 8, 8), write("ds/test/a/1.png", 8, 8), write("ds/test/b/1.png", 8, 12);
  const std::string name = (scratch.path / "ds").string();
  NamedDatasetOptions options{.resize = data::ResizeMode::crop};
  expect_words(error_of([&] { read_dataset(name, options); }), {"several sizes", "--image"});
  options.image = {3, 8, 8};
  EXPECT_EQ(read_dataset(name, options).split.test.size(), 2);
  write("ds/test/b/1.png", 8, 8);
  const NamedDataset whole = read_dataset(name, {.resize = data::ResizeMode::crop});
  EXPECT_EQ(whole.split.train.size(), 71);
  EXPECT_EQ(whole.skipped, 0u);
}

TEST(ReadDataset, DamagedFiles_AreCountedOrRefused) {
  const ScratchFolder scratch;
  const std::string image = report::png(std::vector<std::uint8_t>(3 * 8 * 8, 7), 8, 8);
  for (const char* name : {"train/a/1.png", "train/b/1.png", "test/a/1.png", "test/b/1.png"})
    scratch.write(name, image);
  for (const char* name : {"train/a/2.png", "test/b/2.png"}) scratch.write(name, image.substr(0, 40));
  ::testing::internal::CaptureStderr();
  const NamedDataset read = read_dataset(scratch.path.string(), {.on_error = data::OnDecodeError::skip});
  expect_words(::testing::internal::GetCapturedStderr(), {"train/a/2.png", "test/b/2.png"});
  EXPECT_EQ(read.skipped, 2u);
  EXPECT_EQ(read.split.train.size() + read.split.test.size(), 4);
  expect_words(error_of([&] { read_dataset(scratch.path.string()); }), {"2.png"});
}

TEST(ReadImagePairs, DamagedOrMissingCounterpart_IsNamed) {
  const ScratchFolder scratch;
  const std::string image = report::png(std::vector<std::uint8_t>(3 * 8 * 8, 7), 8, 8);
  for (const char* name : {"clean/1.png", "clean/2.png", "triggered/1.png", "triggered/2.png"})
    scratch.write(name, image);
  scratch.write("triggered/other.png", image.substr(0, 40));  // without a clean image, so it is not read
  const auto read = [&] {
    return read_image_pairs(scratch.path / "clean", scratch.path / "triggered", {3, 8, 8});
  };
  EXPECT_EQ(read().second.size(0), 2);
  scratch.write("triggered/2.png", image.substr(0, 40));
  const std::string damaged = error_of(read);
  expect_words(damaged, {"triggered/2.png"});
  EXPECT_EQ(damaged.find("counterpart"), std::string::npos) << damaged;
  std::filesystem::remove(scratch.path / "triggered/2.png");
  expect_words(error_of(read), {"clean/2.png", "no counterpart"});
}

TEST(ReadImagePairs, NamesThatDifferInTheirExtensionAlone_AreRefused) {
  const std::string image = report::png(std::vector<std::uint8_t>(3 * 8 * 8, 7), 8, 8);
  for (const char* folder : {"clean", "triggered"}) {
    const ScratchFolder scratch;
    for (const char* name : {"clean/1.png", "triggered/1.png"}) scratch.write(name, image);
    const auto read = [&] {
      return read_image_pairs(scratch.path / "clean", scratch.path / "triggered", {3, 8, 8});
    };
    EXPECT_EQ(read().second.size(0), 1);
    scratch.write(fs::path(folder) / "1.jpg", image);
    expect_words(error_of(read), {folder, "1.", "extension alone", "rename"});
  }
}

TEST(LoadAndProbe, ImageSizeOfTheImages_IsNoted) {
  const ScratchFolder scratch;
  write_images(scratch.path / "clean", 4, 40);
  std::string notes;
  const auto image_of = [&](const fs::path& file, LoadOptions options) {
    notes.clear();
    options.notify = [&](const Notice& notice) { notes += notice.text + '\n'; };
    return load_and_probe(file, scratch.path / "clean", options, {}, /*probe=*/false).victim.task().image;
  };
  // The files of a network with a pooling layer do not have its size: weights, and a program.
  for (const char* file : {"tests/fixtures/backdoorbench.pt", plain}) {
    EXPECT_EQ(image_of(file, {}), (ImageShape{3, 40, 40})) << file;
    expect_words(notes, {"3x40x40 is that of the images", "--image"});
    EXPECT_EQ(image_of(file, {.image = {3, 32, 32}}), (ImageShape{3, 32, 32})) << file;
    EXPECT_EQ(notes, "") << file;
    image_of(file, {.images = {3, 48, 48}});  // as with --crop 48
    EXPECT_EQ(notes, "") << file;
  }
  // The position embedding of a ViT has it.
  const fs::path vit = scratch.path / "vit.safetensors";
  save(backbones::ViT<>{.task = {{3, 40, 40}, 5},
                        .patch = 8,
                        .width = 24,
                        .depth = 1,
                        .heads = 8,
                        .head_width = 2,
                        .mlp = 20},
       vit);
  EXPECT_EQ(image_of(vit, {.arch = "ViT"}), (ImageShape{3, 40, 40}));
  EXPECT_EQ(notes, "");
}

TEST(Defend, TinyClassifier_IsDefendedMeasuredAndSaved) {
  const ScratchFolder scratch;
  std::vector<std::string> warnings;
  DefendOptions options = quick_options();
  options.dataset = "noise";
  options.notify = [&](const Notice& notice) {
    if (notice.kind == Notice::Kind::warning) warnings.push_back(notice.text);
  };
  History history;
  const Defended defended = defend(small_victim(), noise(40, 16), options, history);
  EXPECT_EQ(history.epochs.size(), 1u);
  EXPECT_EQ(defended.fitted_images, 32);
  EXPECT_EQ(defended.report.agreement->n, 4);
  EXPECT_EQ(defended.report.alarm->false_alarms.n, 4);
  EXPECT_EQ(defended.report.title, "plain.pt");
  EXPECT_EQ(defended.report.facts.front().first, "probe");
  ASSERT_FALSE(warnings.empty());
  EXPECT_TRUE(std::ranges::any_of(warnings, [](const std::string& text) {
    return text.find("40 clean images are few") != std::string::npos;
  }));

  const DefendedFiles files = defended.save(scratch.path / "defended.pt");
  for (const fs::path& file : {files.serving, files.weights, files.report / "report.html",
                               files.report / "metrics.json", files.report / "images.png"}) {
    EXPECT_TRUE(fs::exists(file)) << file;
  }
  const ExportedClassifier exported(files.serving);
  const ExportedInfo info = exported_info(exported.about());
  EXPECT_EQ(info.answer, Answer::defended);
  EXPECT_EQ(info.alarm->groups, 4);
  EXPECT_EQ(info.model, "TorchScript");
  EXPECT_EQ(info.alarm->threshold, defended.alarm.threshold);
  EXPECT_EQ(info.resize, data::ResizeMode::crop);

  // The parts give the same file again.
  const SavedDefense again = load_saved_defense(plain, files.weights);
  const at::Tensor x = noise(3, 16).to(at::kFloat) / 255;
  c10::NoGradGuard no_grad;
  EXPECT_TRUE(again.defense.forward(x).equal(defended.defense.forward(x)));
  expect_words(
      error_of([&] { load_saved_defense(plain, files.weights, {.permutation = "label_shuffle.pth"}); }),
      {"--permutation", files.weights.string(), "leave it out"});
}

// The alarm is calibrated on one half of what is held back, and measured on the other one.
TEST(Defend, HeldBackImages_CalibrateOrMeasure) {
  const at::Tensor images = noise(160, 16);
  for (const std::uint64_t seed : {7, 8, 9}) {
    DefendOptions options = quick_options(seed);
    options.false_alarm_rate = 0.3;
    const Defended defended = defend(small_victim(), images, options);
    const detail::DividedImages divided = detail::hold_back(images, seed);
    ASSERT_EQ(divided.each, 16);
    const AlarmSetting expected = calibrate_alarm(defended.defense, divided.calibration(), 0.3);
    EXPECT_EQ(defended.alarm.threshold, expected.threshold);
    const std::vector<double> scores = alarm_scores(defended.defense, divided.measured());
    EXPECT_EQ(defended.report.alarm->false_alarms, metrics::share_above(scores, expected.threshold));
    EXPECT_EQ(*defended.report.agreement, label_agreement(defended.defense, divided.measured()));
  }
}

/// A victim of 8×8 images: the largest of four random sums of their pixels.
struct RandomSums {
  Task task = {{3, 8, 8}, 4};
  std::shared_ptr<torch::nn::Module> module = std::make_shared<torch::nn::SequentialImpl>();
  at::Tensor weights = nn::with_torch_seed(3, [] { return at::rand({192, 4}) - 0.5; });
  std::map<std::string, at::Tensor> named_constants() const { return {{"weights", weights}}; }
  at::Tensor forward(const at::Tensor& x) const { return 10 * (x - 0.5).flatten(1).matmul(weights); }
};

TEST(Defend, StudentThatRemembersImages_IsWarnedOf) {
  const LoadedClassifier victim{.backbone = backbones::AnyBackbone(RandomSums{}), .name = "sums"};
  DefendOptions options{.training = {.epochs = 40, .batch_size = 16},
                        .student = StudentOptions{.width = 8},
                        .seed = 7,
                        .scan = false,
                        .probe = false};
  std::string warnings;
  options.notify = [&](const Notice& notice) {
    if (notice.kind == Notice::Kind::warning) warnings += notice.text + '\n';
  };
  const Defended defended = defend(victim, noise(120, 8), options);
  EXPECT_LT(defended.report.agreement->value(), 0.8);
  expect_words(warnings,
               {"images that it was fitted on", "it remembers images", "more training, as --epoch 80"});
}

TEST(Defend, ImagesThatRepeatEachOther_AreWarnedOf) {
  const auto warnings_of = [](const at::Tensor& images) {
    DefendOptions options = quick_options();
    options.probe = false;
    std::string warnings;
    options.notify = [&](const Notice& notice) {
      if (notice.kind == Notice::Kind::warning) warnings += notice.text + '\n';
    };
    defend(small_victim(), images, options);
    return warnings;
  };
  // 40 copies of each of two images: 8 may be held back for each purpose, and the others are trained on.
  expect_words(warnings_of(noise(2, 16).repeat({40, 1, 1, 1})),
               {"16 of the 16 images held back nearly repeat images that are trained on"});
  EXPECT_EQ(warnings_of(noise(80, 16)).find("nearly repeat"), std::string::npos);
}

/// A victim that answers on which side an image is brighter, or how bright it is.
struct Sides {
  Task task = {{3, 16, 16}, 3};
  bool knows_sides = true;
  std::shared_ptr<torch::nn::Module> module = std::make_shared<torch::nn::SequentialImpl>();
  at::Tensor forward(const at::Tensor& x) const {
    const at::Tensor left = x.slice(3, 0, 8).mean({1, 2, 3}), right = x.slice(3, 8).mean({1, 2, 3});
    const at::Tensor bright = knows_sides ? left - right : left + right - 1;
    return 40 * at::stack({bright, -bright, bright.abs() - 0.5}, 1);
  }
};

TEST(Defend, VictimOfAnotherClassInTheMirror_IsDefendedWithoutFlips) {
  at::Tensor images = noise(80, 16).div(4, "floor");
  images.slice(0, 0, 40).slice(3, 0, 8).add_(150);
  images.slice(0, 40, 80).slice(3, 8).add_(150);
  for (const bool knows_sides : {true, false}) {
    const LoadedClassifier victim{.backbone = backbones::AnyBackbone(Sides{.knows_sides = knows_sides}),
                                  .name = "sides"};
    std::string notes;
    DefendOptions options = quick_options();
    options.notify = [&](const Notice& notice) { notes += notice.text + '\n'; };
    EXPECT_EQ(defend(victim, images, options).recipe.augmentation.flip, !knows_sides);
    EXPECT_EQ(notes.find("images are not mirrored in training") != std::string::npos, knows_sides) << notes;
    options.training.flip = true;  // as requested
    EXPECT_TRUE(defend(victim, images, options).recipe.augmentation.flip);
  }
}

/// Writes a TorchScript program that returns maps N×4×h×w.
fs::path write_feature_extractor(const fs::path& file, std::uint64_t seed) {
  torch::jit::Module program = nn::with_torch_seed(seed, [] {
    torch::jit::Module m(c10::QualifiedName("__torch__.Encoder"));
    m.register_parameter("kernel", at::rand({4, 3, 3, 3}) - 0.5, false);
    m.define("def forward(self, x):\n    return torch.conv2d(x, self.kernel)\n");
    m.eval();
    return m;
  });
  program.save(file.string());
  return file;
}

TEST(Defend, EncoderOrSizes_DefendedSavedAndExportedFromItsParts) {
  const ScratchFolder scratch;
  DefendOptions resized = quick_options();
  resized.transform.see = 8;
  resized.transform.draw = 12;
  resized.training.head_weight = 0.5;
  DefendOptions encoded = quick_options();
  encoded.transform = {.see = 10, .draw = 12};
  encoded.transform.encoder = {.file = write_feature_extractor(scratch.path / "encoder.pt", 1),
                               .normalization = normalizations::imagenet};
  for (DefendOptions* options : {&resized, &encoded}) {
    const bool has_encoder = options == &encoded;
    std::string notes;
    options->notify = [&](const Notice& notice) { notes += notice.text + '\n'; };
    const Defended defended = defend(small_victim(), noise(40, 16), *options);
    expect_words(notes, {"3x16x16", has_encoder ? "an encoder sees them" : "sees 3x8x8", "asked with 3x12x12",
                         "expected to take"});
    EXPECT_EQ(notes.find("mirrored"), std::string::npos) << notes;
    EXPECT_EQ(defended.recipe.head_weight, has_encoder ? 1 : 0.5);
    EXPECT_EQ(defended.defense.pipeline()->transform().output_shape, (ImageShape{3, 12, 12}));
    const DefendedFiles files = defended.save(scratch.path / "defended.pt");
    const ExportedClassifier exported(files.serving);
    const at::Tensor x = noise(3, 16).to(at::kFloat) / 255;
    const c10::NoGradGuard no_grad;
    EXPECT_LT((exported.forward(x) - defended.defense.forward(x)).abs().max().item<double>(), 1e-4);
    const SavedDefense again =
        load_saved_defense(plain, files.weights, {.encoder = options->transform.encoder});
    EXPECT_TRUE(again.defense.forward(x).equal(defended.defense.forward(x)));
    if (!has_encoder) {
      expect_words(
          error_of([&] { load_saved_defense(plain, files.weights, {.encoder = encoded.transform.encoder}); }),
          {"defended.safetensors", "without an encoder", "--encoder"});
      continue;
    }
    expect_words(error_of([&] { load_saved_defense(plain, files.weights); }),
                 {"defended.safetensors", "specify --encoder"});
    const fs::path other = write_feature_extractor(scratch.path / "other.pt", 2);
    expect_words(error_of([&] {
                   load_saved_defense(
                       plain, files.weights,
                       {.encoder = {.file = other, .normalization = normalizations::imagenet}});
                 }),
                 {"another encoder"});
    expect_words(error_of([&] {
                   load_saved_defense(plain, files.weights,
                                      {.encoder = {.file = encoded.transform.encoder.file}});
                 }),
                 {"another encoder"});
  }
}

TEST(Defend, EncoderOfTheVictimsOwnWeights_IsWarnedOf) {
  const ScratchFolder scratch;
  // A victim whose features are those of the encoder.
  const auto write_victim = [&](const char* name, std::uint64_t seed) {
    const fs::path features = write_feature_extractor(scratch.path / "features.pt", seed);
    torch::jit::Module program(c10::QualifiedName("__torch__.Victim"));
    program.register_module("features", torch::jit::load(features.string()));
    program.register_parameter("last", nn::with_torch_seed(3, [] { return at::rand({4, 4}); }), false);
    program.define(
        "def forward(self, x):\n    return self.features.forward(x).mean([2, 3]).matmul(self.last)\n");
    program.eval();
    program.save((scratch.path / name).string());
    return load_classifier(scratch.path / name, {.image = ImageShape{3, 16, 16}});
  };
  const EncoderOptions encoder{.file = write_feature_extractor(scratch.path / "encoder.pt", 1)};
  for (const bool same : {true, false}) {
    const LoadedClassifier victim = write_victim(same ? "same.pt" : "other.pt", same ? 1 : 2);
    for (const bool student : {true, false}) {
      DefendOptions options = quick_options();
      if (student) {
        options.transform = {};
        options.student = {.width = 4, .encoder = encoder};
      } else {
        options.transform = {.encoder = encoder};
      }
      std::string warnings;
      options.notify = [&](const Notice& notice) {
        if (notice.kind == Notice::Kind::warning) warnings += notice.text + '\n';
      };
      defend(victim, noise(40, 16), options);
      EXPECT_EQ(warnings.find("the victim's own") != std::string::npos, same) << student << '\n' << warnings;
    }
  }
}

TEST(Defend, Student_IsMeasuredSavedAndExportedFromItsParts) {
  const ScratchFolder scratch;
  const auto quick_student = [](const StudentOptions& student) {
    DefendOptions options = quick_options();
    options.transform = {};
    options.student = student;
    return options;
  };
  const EncoderOptions encoder{.file = write_feature_extractor(scratch.path / "encoder.pt", 1),
                               .normalization = normalizations::imagenet};
  const std::pair<StudentOptions, std::string> students[] = {
      {{.width = 4}, "ResNet18 of width 4"},
      {{.width = 4, .see = 8}, "ResNet18 of width 4, sees 3x8x8"},
      {{.width = 5, .see = 10, .encoder = encoder}, "two layers of width 5 on an encoder that sees 3x10x10"}};
  for (const auto& [student, description] : students) {
    SCOPED_TRACE(description);
    DefendOptions options = quick_student(student);
    std::string notes;
    options.notify = [&](const Notice& notice) { notes += notice.text + '\n'; };
    const Defended defended = defend(small_victim(), noise(40, 16), options);
    expect_words(notes, {"expected to take"});
    EXPECT_EQ(notes.find("40 clean images are few") == std::string::npos, !student.encoder.file.empty())
        << notes;
    EXPECT_EQ(notes.find("transform"), std::string::npos) << notes;
    ASSERT_NE(defended.defense.student(), nullptr);
    EXPECT_EQ(defended.defense.pipeline(), nullptr);
    EXPECT_EQ(defended.recipe.supcon_weight, 0);
    EXPECT_EQ(defended.recipe.head_weight, 0);
    EXPECT_EQ(defended.report.agreement->n, 4);
    EXPECT_EQ(defended.report.title, "plain.pt (student)");

    const DefendedFiles files = defended.save(scratch.path / "defended.pt");
    for (const char* file : {"report.html", "metrics.json"}) {
      const std::string text = content(files.report / file);
      expect_words(text, {"student", description});
      for (const char* word : {"transform:", "transformed", "permutation", "the transform"})
        EXPECT_EQ(text.find(word), std::string::npos) << file << ": " << word;
    }
    const at::Tensor x = noise(3, 16).to(at::kFloat) / 255;
    const c10::NoGradGuard no_grad;
    const ExportedClassifier exported(files.serving);
    EXPECT_TRUE(at::allclose(exported.forward(x), defended.defense.forward(x), 1e-4, 1e-4));
    EXPECT_TRUE(at::allclose(exported.undefended(x), small_victim().backbone.forward(x), 1e-4, 1e-4));
    EXPECT_EQ(exported_info(exported.about()).defense, "student");
    EXPECT_EQ(exported.about()["student"], description);
    EXPECT_FALSE(exported.about().contains("transform") || exported.about().contains("permutation"));

    const SavedDefense again = load_saved_defense(plain, files.weights, {.encoder = student.encoder});
    EXPECT_TRUE(again.defense.forward(x).equal(defended.defense.forward(x)));
    EXPECT_EQ(again.defense.describe(), description);
    again.save(scratch.path / "again.pt2");
    const ExportedClassifier gated(scratch.path / "again.pt2", formats::Trust::checked, Answer::gated);
    EXPECT_TRUE(at::allclose(gated.forward(x), defended.gated().forward(x), 1e-4, 1e-4));
    expect_words(error_of([&] {
                   load_saved_defense(plain, files.weights,
                                      {.permutation = "label_shuffle.pth", .encoder = student.encoder});
                 }),
                 {"defended.safetensors", "a student", "--permutation"});
    expect_words(error_of([&] {
                   load_saved_defense(plain, files.weights,
                                      {.encoder = student.encoder.file.empty() ? encoder : EncoderOptions{}});
                 }),
                 {"defended.safetensors", "--encoder"});
  }
}

/// An extent that no memory holds, claimed by a tensor without values.
TEST(LoadSavedDefense, EmptyTensorsOfHugeExtents_AreRefused) {
  const ScratchFolder scratch;
  const EncoderOptions encoder{.file = write_feature_extractor(scratch.path / "encoder.pt", 1),
                               .normalization = normalizations::imagenet};
  for (const bool is_student : {true, false}) {
    DefendOptions options = quick_options();
    options.transform = {};
    if (is_student) {
      options.student = StudentOptions{.width = 4, .encoder = encoder};
    } else {
      options.transform.encoder = encoder;
    }
    const DefendedFiles files =
        defend(small_victim(), noise(40, 16), options).save(scratch.path / "defended.pt");
    auto stored = formats::read_safetensors(files.weights);
    const std::vector<std::string> names =
        is_student ? std::vector<std::string>{"student.hidden.weight"}
                   : std::vector<std::string>{"transform.start.weight", "transform.reduce.weight"};
    for (const std::string& name : names) {
      auto damaged = stored;
      damaged.tensors.at(name) = at::empty({1 << 30, 0});
      formats::write_safetensors(scratch.path / "damaged.safetensors", damaged);
      expect_words(error_of([&] {
                     load_saved_defense(plain, scratch.path / "damaged.safetensors", {.encoder = encoder});
                   }),
                   {"damaged.safetensors", name});
    }
    if (is_student) {
      stored.tensors.at("student.last.weight") = at::zeros({10, 5});
      formats::write_safetensors(scratch.path / "damaged.safetensors", stored);
      expect_words(error_of([&] {
                     load_saved_defense(plain, scratch.path / "damaged.safetensors", {.encoder = encoder});
                   }),
                   {"do not fit each other"});
    }
  }
}

TEST(Defend, StudentWithOptionsOfATransform_IsRefused) {
  DefendOptions options = quick_options();
  options.student = StudentOptions{};
  expect_words(error_of([&] { defend(small_victim(), noise(40, 16), options); }), {"student", "--levels"});
  options.transform = {};
  options.training.supcon_weight = 0.1;
  expect_words(error_of([&] { defend(small_victim(), noise(40, 16), options); }), {"--sup", "student"});
  options.training = {.head_weight = 1};
  expect_words(error_of([&] { defend(small_victim(), noise(40, 16), options); }), {"--head", "student"});
  options.training = {};
  options.student = StudentOptions{.width = -5};
  expect_words(error_of([&] { defend(small_victim(), noise(40, 16), options); }), {"width", "got -5"});
  const auto refusal = [&] { return error_of([&] { defend(small_victim(), noise(40, 16), options); }); };
  options.student = StudentOptions{.see = -1};
  expect_words(refusal(), {"--see", "got -1"});
  options.student = StudentOptions{.see = 65};
  expect_words(refusal(), {"--see", "got 65", "expected 64 or less"});
  options.student = std::nullopt;
  options.transform.see = 16384;
  expect_words(refusal(), {"--see", "got 16384", "expected 64 or less"});
  options.transform = {.draw = 16384};
  expect_words(refusal(), {"--draw", "got 16384"});
  options.transform = {.draw = -1};
  expect_words(refusal(), {"--draw", "got -1"});
}

// From the victim's initial weights, a student would learn more of it than its answers to clean images.
TEST(Defend, StudentOfTheVictimsArchitectureAndSeed_StartsFromOtherWeights) {
  const Task task{{3, 16, 16}, 5};
  const LoadedClassifier victim{
      .backbone = backbones::AnyBackbone(backbones::ResNet18<>{.task = task, .width = 4, .seed = 7})};
  const detail::PreparedDefense prepared =
      detail::prepare_defense(victim, {.student = StudentOptions{.width = 4}}, /*seed=*/7);
  const auto of_victim = victim.backbone.module->named_parameters(),
             of_student = prepared.defense.student()->classifier.module->named_parameters();
  ASSERT_EQ(of_victim.size(), of_student.size());
  EXPECT_FALSE(of_victim["conv1.weight"].equal(of_student["conv1.weight"]));
}

TEST(SizeStudent, LargeImages_AreSeenSmaller) {
  EXPECT_EQ(size_student({}, {3, 224, 160}).see, 64);
  EXPECT_EQ(size_student({}, {3, 96, 96}).see, 0);
  EXPECT_EQ(size_student({.see = 100}, {3, 224, 160}).see, 100);
  EXPECT_EQ(size_student({.encoder = {.file = "encoder.pt"}}, {3, 224, 160}).see, 0);
  const Recipe of_transform = defense_recipe({}, 2'000, {3, 32, 32}, 1, {});
  Recipe expected = of_transform;
  expected.supcon_weight = 0;
  EXPECT_EQ(student_recipe({}, 2'000, {3, 32, 32}, 1), expected);
}

TEST(SizeTransform, LargeImages_AreSeenAndDrawnSmallerWhereTheVictimTakesIt) {
  const LoadedClassifier pooling = load_classifier(plain, {.image = {3, 224, 160}});
  const TransformOptions sized = size_transform({}, pooling);
  EXPECT_EQ(std::pair(sized.see, sized.draw), std::pair(64, 96));
  EXPECT_EQ(make_transform(sized, {3, 224, 160}).output_shape, (ImageShape{3, 96, 69}));
  EXPECT_EQ(size_transform({.see = 80, .draw = 112}, pooling).see, 80);
  EXPECT_EQ(size_transform({.see = 80, .draw = 112}, pooling).draw, 112);
  const TransformOptions of_small = size_transform({}, small_victim());
  EXPECT_EQ(std::pair(of_small.see, of_small.draw), std::pair(0, 0));
  const LoadedClassifier fixed{
      .backbone = backbones::AnyBackbone(
          backbones::ViT<>{.task = {{3, 128, 128}, 5}, .patch = 16, .width = 16, .depth = 1, .heads = 2})};
  const TransformOptions of_fixed = size_transform({}, fixed);
  EXPECT_EQ(std::pair(of_fixed.see, of_fixed.draw), std::pair(64, 128));
  DefendOptions options = quick_options();
  options.transform.draw = 96;
  options.probe = false;
  expect_words(error_of([&] { defend(fixed, noise(8, 128), options); }),
               {"draws 3x96x96", "no size other than 3x128x128", "--draw 128"});
  // The budget of images seen goes by the pixels that the transform sees: 250,000 of 32×32, 62,500 of 64×64.
  if (!default_device().is_cuda()) {
    EXPECT_EQ(defense_recipe({}, 5'000, {3, 224, 224}, 1, sized).optimization.epochs, 13);
  }
  EXPECT_EQ(defense_recipe({}, 2'000, {3, 32, 32}, 1, {}).head_weight, 0);
  EXPECT_EQ(defense_recipe({.head_weight = 0.5}, 2'000, {3, 32, 32}, 1, {}).head_weight, 0.5);
}

TEST(DefenseRecipe, TemperatureWithoutDistillation_IsRefused) {
  EXPECT_EQ(defense_recipe({.temperature = 4}, 200, {3, 8, 8}, 1, {}).temperature, 4);
  const TrainingOptions paper{.recipe = RecipeChoice::paper, .temperature = 4};
  for (const std::string& message : {error_of([&] {
                                       defense_recipe(paper, 200, {3, 8, 8}, 1, {});
                                     }),
                                     error_of([&] {
                                       student_recipe(paper, 200, {3, 8, 8}, 1);
                                     })})
    expect_words(message, {"--temperature", "distillation", "--recipe"});
}

TEST(DefenseRecipe, Encoder_GivesItsOwnRecipe) {
  const TransformOptions encoded{.encoder = {.file = "encoder.pt"}};
  const Recipe few = defense_recipe({}, 200, {3, 224, 224}, 1, encoded);
  EXPECT_EQ(few.optimization.epochs, 100);
  EXPECT_EQ(few.temperature, recipes::encoded.temperature);
  EXPECT_EQ(few.augmentation, recipes::encoded.augmentation);
  EXPECT_EQ(defense_recipe({}, 2'000, {3, 224, 224}, 1, encoded).optimization.epochs, 12);
  EXPECT_EQ(defense_recipe({}, 20'000, {3, 224, 224}, 1, encoded).optimization.epochs, 6);
  expect_words(error_of([&] {
                 defense_recipe({.recipe = RecipeChoice::paper}, 9, {3, 8, 8}, 1, encoded);
               }),
               {"--recipe", "--encoder"});
  expect_words(error_of([&] {
                 defense_recipe({.flip = true}, 200, {3, 224, 224}, 1, encoded);
               }),
               {"--flip", "--encoder"});
  EXPECT_EQ(defense_recipe({.flip = false}, 200, {3, 224, 224}, 1, encoded), few);
  for (const TransformOptions& wrong :
       {TransformOptions{.levels = 2, .encoder = encoded.encoder},
        TransformOptions{.name = "EncoderDecoder", .encoder = encoded.encoder}}) {
    expect_words(error_of([&] { make_transform(wrong, {3, 16, 16}); }), {"does not apply with --encoder"});
  }
  expect_words(error_of([&] {
                 make_transform({.width = 6, .encoder = encoded.encoder}, {3, 16, 16});
               }),
               {"--width", "multiple of 4", "got 6"});
}

/// Frames of 100 films, and the film of each: film f is a smooth random image, with a little noise in
/// each of its 12 frames.
std::pair<at::Tensor, std::vector<std::int64_t>> films() {
  std::vector<std::int64_t> film;
  for (std::int64_t i = 0; i < 1200; ++i) film.push_back(i / 12);
  const at::Tensor images = nn::with_torch_seed(5, [] {
    const at::Tensor smooth = at::upsample_bilinear2d(at::rand({100, 3, 6, 6}), {16, 16}, true);
    const at::Tensor frames = smooth.repeat_interleave(12, 0);
    return ((frames + 0.04 * at::rand(frames.sizes())).clamp(0, 1) * 255).to(at::kByte);
  });
  return {images, film};
}

/// Share of the scores of new films that exceed the threshold that is calibrated on some frames, where a
/// defense knows the films that it was fitted on: it is three times surer of their frames.
double false_alarms_on_new_films(const std::vector<std::int64_t>& held, std::size_t calibration,
                                 const std::vector<std::int64_t>& film, double rate) {
  std::set<std::int64_t> known;
  const std::set<std::int64_t> out(held.begin(), held.end());
  for (std::size_t i = 0; i < film.size(); ++i) {
    if (!out.contains(static_cast<std::int64_t>(i))) known.insert(film[i]);
  }
  Random random(1);
  std::vector<double> scores, news;
  for (std::size_t i = 0; i < calibration; ++i) {
    const double unknown = uniform_unit(random);
    scores.push_back(known.contains(film[static_cast<std::size_t>(held[i])]) ? unknown / 3 : unknown);
  }
  for (int i = 0; i < 4000; ++i) news.push_back(uniform_unit(random));
  return metrics::share_above(news, metrics::threshold_for(scores, rate)).value();
}

TEST(HoldBack, NearDuplicates_AreHeldBackTogether) {
  const auto [images, film] = films();
  const detail::HeldBack held = detail::draw_held_back(images, 7);
  ASSERT_EQ(held.places.size(), 240u);
  EXPECT_EQ(held.calibration_groups, 10);
  // Ten whole films for each purpose.
  std::map<std::int64_t, std::int64_t> frames;
  for (const std::int64_t i : held.places) ++frames[film[static_cast<std::size_t>(i)]];
  EXPECT_EQ(frames.size(), 20u);
  for (const auto& [f, count] : frames) EXPECT_EQ(count, 12) << f;

  // Frames drawn one by one are of films that the defense knows: 10 % asked, and far more are raised.
  Random random(2);
  const std::vector<std::int64_t> singles = random_permutation(random, 1200);
  const std::vector<std::int64_t> drawn(singles.begin(), singles.begin() + 240);
  EXPECT_GT(false_alarms_on_new_films(drawn, 120, film, 0.1), 0.5);
  const double rate = false_alarms_on_new_films(held.places, 120, film, 0.1);
  const metrics::AlarmMetrics promised{.wanted_rate = 0.1, .calibration_groups = held.calibration_groups};
  EXPECT_GT(rate, promised.promised_rate().low);
  EXPECT_LT(rate, promised.promised_rate().high);
}

TEST(HoldBack, Share_IsATenthAndAtMostAThousandForEachPurpose) {
  for (const auto& [images, each] :
       {std::pair{4, 1}, {19, 1}, {40, 4}, {9'999, 999}, {10'010, 1'000}, {50'000, 1'000}})
    EXPECT_EQ(detail::held_back_each(images), each) << images;
  expect_words(error_of([] { detail::held_back_each(3); }), {"3 clean image(s)"});
}

TEST(HoldBack, DifferentImages_AreDrawnOneByOne) {
  const at::Tensor images = noise(300, 16);
  const detail::HeldBack held = detail::draw_held_back(images, 7);
  EXPECT_EQ(held.calibration_groups, 30);
  Random random(derived_seed(7, "held back"));
  auto order = random_permutation(random, 300);
  order.resize(60);
  EXPECT_EQ(held.places, order);
}

// Ten videos of 120 frames: an eighth of a part holds 15 frames of each.
TEST(HoldBack, GroupThatFillsMoreThanAnEighth_CountsOnce) {
  const at::Tensor images = nn::with_torch_seed(5, [] {
    const at::Tensor smooth = at::upsample_bilinear2d(at::rand({10, 3, 6, 6}), {16, 16}, true);
    const at::Tensor frames = smooth.repeat({120, 1, 1, 1});
    return ((frames + 0.04 * at::rand(frames.sizes())).clamp(0, 1) * 255).to(at::kByte);
  });
  const detail::HeldBack held = detail::draw_held_back(images, 7);
  ASSERT_EQ(held.places.size(), 240u);
  EXPECT_EQ(std::set<std::int64_t>(held.places.begin(), held.places.end()).size(), 240u);
  std::set<std::int64_t> videos;
  for (std::size_t i = 0; i < 120; ++i) videos.insert(held.places[i] % 10);
  EXPECT_EQ(held.calibration_groups, std::ssize(videos));
  EXPECT_EQ(held.repeated, 240) << "frames of each video are trained on";

  const auto [twelve, film] = films();
  EXPECT_EQ(detail::draw_held_back(twelve, 7).repeated, 0);
}

// A fifth of the images are of one scene: 20 of the 100 of a part, and the 12 that may come at once.
TEST(HoldBack, LargeGroupBesideOtherImages_KeepsItsShare) {
  const at::Tensor images = nn::with_torch_seed(5, [] {
    const at::Tensor smooth = at::upsample_bilinear2d(at::rand({801, 3, 6, 6}), {16, 16}, true);
    const at::Tensor all = at::cat({smooth, smooth.slice(0, 800).expand({199, -1, -1, -1})});
    return ((all + 0.02 * at::rand(all.sizes())).clamp(0, 1) * 255).to(at::kByte);
  });
  const detail::HeldBack held = detail::draw_held_back(images, 7);
  ASSERT_EQ(held.places.size(), 200u);
  const auto scene =
      std::count_if(held.places.begin(), held.places.begin() + 100, [](auto i) { return i >= 800; });
  EXPECT_GE(scene, 12);
  EXPECT_LE(scene, 45);
  EXPECT_EQ(held.calibration_groups, 100 - scene + 1);
  EXPECT_GT(held.repeated, 0);
}

TEST(HoldBack, OtherPictures_AreTrainedOnAndNeverHeldBack) {
  const at::Tensor images = noise(130, 16), before = images.clone();
  {
    const detail::DividedImages divided = detail::hold_back(images, 7, 100);
    EXPECT_EQ(divided.extra, 100);
    EXPECT_EQ(divided.each, 3);
    EXPECT_EQ(divided.fitted().size(0), 124);
    EXPECT_TRUE(divided.fitted().narrow(0, 0, 100).equal(before.narrow(0, 0, 100)));
    // The clean images are divided as they are alone.
    const at::Tensor clean = before.slice(0, 100).clone();
    const detail::DividedImages alone = detail::hold_back(clean, 7);
    EXPECT_TRUE(divided.calibration().equal(alone.calibration()));
    EXPECT_TRUE(divided.measured().equal(alone.measured()));
    EXPECT_TRUE(divided.fitted_clean().equal(alone.fitted()));
  }
  EXPECT_TRUE(images.equal(before));
}

TEST(HoldBack, OtherPicturesThatRepeatHeldBackImages_AreLeftOut) {
  // The same pictures twice: all of those that are held back are among the other ones.
  const at::Tensor clean = noise(300, 16);
  const at::Tensor images = at::cat({noise(20, 16, 3), clean, clean}), before = images.clone();
  {
    const detail::DividedImages divided = detail::hold_back(images, 7, 320);
    EXPECT_EQ(divided.each, 30);
    EXPECT_EQ(divided.repeats.taken().size(0), 60);
    EXPECT_EQ(divided.extra, 260);
    EXPECT_EQ(divided.fitted().size(0), 260 + 240);
    const auto is_among = [&](const at::Tensor& image) {
      return (divided.fitted() == image).flatten(1).all(1).any().item<bool>();
    };
    for (const at::Tensor& held : {divided.calibration(), divided.measured()})
      for (std::int64_t i = 0; i < held.size(0); ++i) EXPECT_FALSE(is_among(held[i])) << i;
    for (std::int64_t i = 0; i < 20; ++i) EXPECT_TRUE(is_among(before[i])) << i;
  }
  EXPECT_TRUE(images.equal(before));
}

TEST(HoldBack, FewCleanImages_EachCopyAmongOtherPicturesIsFound) {
  const at::Tensor clean = noise(12, 16);
  const at::Tensor images = at::cat({noise(60, 16, 3), clean, clean, clean, clean});
  const detail::HeldBack drawn = detail::draw_held_back(images, 7, 60 + 36);
  ASSERT_EQ(drawn.places.size(), 2u);
  std::vector<std::int64_t> expected;
  for (const std::int64_t copy : {60, 72, 84}) {
    for (const std::int64_t place : drawn.places) expected.push_back(place - 96 + copy);
  }
  std::ranges::sort(expected);
  EXPECT_EQ(drawn.repeats, expected);
}

/// Records the images that a training sees.
struct Seen {
  std::int64_t images = 0;
  void on_begin(const RunInfo& info) { images = info.images; }
};

TEST(Defend, OtherPictures_AreInTheReportAndInNoFigure) {
  DefendOptions options = quick_options();
  std::string notes;
  options.notify = [&](const Notice& notice) { notes += notice.text + "\n"; };
  options.extra = noise(60, 16, 3);
  const at::Tensor images = noise(40, 16), before = images.clone(), pictures = options.extra.clone();
  Seen seen;
  const Defended defended = defend(small_victim(), images, options, seen);
  EXPECT_TRUE(images.equal(before));
  EXPECT_TRUE(options.extra.equal(pictures));
  EXPECT_EQ(seen.images, 92);
  EXPECT_EQ(defended.fitted_images, 32);
  EXPECT_EQ(defended.extra_images, 60);
  EXPECT_EQ(defended.report.agreement->n, 4);
  EXPECT_EQ(defended.report.alarm->false_alarms.n, 4);
  const std::pair<std::string, std::string> fact{"other pictures", "60"};
  EXPECT_EQ(std::ranges::count(defended.report.facts, fact), 1);
  EXPECT_EQ(notes.find("--extra"), std::string::npos) << notes;  // they are there
  EXPECT_NE(notes.find("40 clean images are few"), std::string::npos) << notes;

  for (const at::Tensor& wrong : {noise(60, 8), noise(60, 16).to(at::kFloat), noise(60, 16)[0]}) {
    options.extra = wrong;
    expect_words(error_of([&] { defend(small_victim(), images, options); }), {"extra", "uint8 N×3×16×16"});
  }
}

/// A victim that records how much neighbouring pixels differ at most in what it is asked.
struct RecordingVictim {
  Task task = {{3, 16, 16}, 3};
  std::shared_ptr<torch::nn::Module> module = std::make_shared<torch::nn::SequentialImpl>();

  at::Tensor forward(const at::Tensor& x) const {
    const at::Tensor d = (x.detach().slice(3, 1) - x.detach().slice(3, 0, -1)).abs().max();
    // `freeze` compares answers to two random images.
    if (x.size(0) > 2) largest_difference = std::max(largest_difference, d.item<double>());
    return 8 * x.mean({2, 3});
  }

  static inline double largest_difference = 0;
};

TEST(Defend, OtherPictures_AreAskedAboutAtHalfOfTheirResolution) {
  const at::Tensor plain_colours = noise(40, 1).expand({40, 3, 16, 16}).contiguous();
  at::Tensor stripes = at::zeros({60, 3, 16, 16}, at::kByte);
  stripes.slice(3, 0, 8, 2).fill_(255);  // of the left half, whose mean differs from the right half
  const LoadedClassifier victim{.backbone = backbones::AnyBackbone(RecordingVictim{}), .name = "recording"};
  DefendOptions options = quick_options();
  options.probe = false;
  options.extra = stripes;
  EXPECT_EQ(RecordingVictim::largest_difference, 0);
  RecordingVictim{}.forward(data::to_float(stripes));
  EXPECT_EQ(std::exchange(RecordingVictim::largest_difference, 0), 1);
  RecordingVictim{}.forward(data::to_float(data::at_half_resolution(stripes)));
  EXPECT_LT(std::exchange(RecordingVictim::largest_difference, 0), 0.6);
  options.transform = {};
  options.student = StudentOptions{.width = 4};  // asks the victim about the images alone
  defend(victim, plain_colours, options);
  EXPECT_GT(RecordingVictim::largest_difference, 0);
  EXPECT_LT(RecordingVictim::largest_difference, 0.6);
}

/// Ends a training after its first step.
struct Interrupt {
  void on_step(const StepInfo&) { throw Error("interrupted"); }
};

TEST(Defend, ImagesAreAsBefore) {
  const at::Tensor images = noise(40, 16), before = images.clone();
  defend(small_victim(), images, quick_options());
  EXPECT_TRUE(images.equal(before));
  expect_words(error_of([&] { defend(small_victim(), images, quick_options(), Interrupt{}); }),
               {"interrupted"});
  EXPECT_TRUE(images.equal(before));

  {  // Images that are left out are put back after those that are held back.
    const std::vector<std::int64_t> blank = {0, 7, 39};
    const detail::TakenImages left_out(images, blank);
    EXPECT_TRUE(left_out.taken().equal(before.index_select(0, at::tensor(blank))));
    EXPECT_EQ(left_out.left().size(0), 37);
    const detail::DividedImages divided = detail::hold_back(left_out.left(), 7);
    EXPECT_EQ(divided.fitted().size(0), 31);
    EXPECT_FALSE(images.equal(before));
  }
  EXPECT_TRUE(images.equal(before));
}

TEST(Defend, SameSeed_GivesTheSameDefense) {
  const at::Tensor x = noise(3, 16).to(at::kFloat) / 255;
  c10::NoGradGuard no_grad;
  const auto logits = [&](std::uint64_t seed) {
    c10::AutoGradMode with_grad(true);
    const Defended defended = defend(small_victim(), noise(40, 16), quick_options(seed));
    c10::NoGradGuard none;
    return defended.defense.forward(x);
  };
  const at::Tensor first = logits(7);
  EXPECT_TRUE(first.equal(logits(7)));
  EXPECT_FALSE(first.equal(logits(8)));
}

// What is timed is discarded: with the epochs of the plan, the run gives the same weights.
TEST(Defend, Minutes_SizeTheEpochsThatReproduceTheRun) {
  std::vector<std::string> notes;
  DefendOptions timed = quick_options();
  timed.training.epochs.reset();
  timed.training.minutes = 3e-4;  // a few epochs: many steps on noise end as a collapse
  timed.notify = [&](const Notice& notice) { notes.push_back(notice.text); };
  const Defended by_time = defend(small_victim(), noise(40, 16), timed);
  const int epochs = by_time.recipe.optimization.epochs;
  EXPECT_GE(epochs, 1);
  const auto expected = std::ranges::find_if(
      notes, [](const std::string& text) { return text.starts_with("training is expected to take"); });
  ASSERT_NE(expected, notes.end());
  expect_words(*expected, {std::to_string(epochs) + " epoch", "memory", "GB"});

  DefendOptions counted = quick_options();
  counted.training.epochs = epochs;
  const Defended by_count = defend(small_victim(), noise(40, 16), counted);
  EXPECT_EQ(by_count.recipe, by_time.recipe);
  const at::Tensor x = noise(3, 16).to(at::kFloat) / 255;
  const c10::NoGradGuard no_grad;
  EXPECT_TRUE(by_count.defense.forward(x).equal(by_time.defense.forward(x)));
}

TEST(PlanTraining, Time_DecidesTheEpochs) {
  const PlanOptions tiny{.training = {.batch_size = 16, .minutes = 1e-6},
                         .transform = {.levels = 1, .width = 2}};
  std::vector<std::string> warnings;
  PlanOptions short_time = tiny;
  short_time.notify = [&](const Notice& notice) { warnings.push_back(notice.text); };
  const TrainingPlan one = plan_training(small_victim(), noise(40, 16), 33, short_time);
  EXPECT_EQ(one.epochs, 1);
  EXPECT_EQ(one.steps, 2) << "a single last image joins the batch before";
  EXPECT_GT(one.step_seconds, 0);
  ASSERT_EQ(warnings.size(), 1u);
  expect_words(warnings.front(), {"1e-06 minutes are too short", "33 images"});
  PlanOptions longer = tiny;
  longer.training.minutes = 1000;
  const TrainingPlan many = plan_training(small_victim(), noise(40, 16), 32, longer);
  EXPECT_EQ(many.epochs, 1000);
  EXPECT_TRUE(many.asks_at_each_step) << "as the recipe of more than 50 epochs does";
  // A limit takes fewer epochs than usual, and never more.
  warnings.clear();
  PlanOptions limited = short_time;
  limited.training.minutes.reset();
  limited.training.max_minutes = 1e-6;
  EXPECT_EQ(plan_training(small_victim(), noise(40, 16), 33, limited).epochs, 1);
  ASSERT_EQ(warnings.size(), 2u);
  expect_words(warnings.back(), {"instead of the usual 200", "33 images", "--epoch 200"});
  limited.training.max_minutes = 1000;
  EXPECT_EQ(plan_training(small_victim(), noise(40, 16), 32, limited).epochs, 200) << "the recipe's";
  EXPECT_EQ(warnings.size(), 2u);
  PlanOptions fixed = tiny;
  fixed.training.epochs = 3;
  EXPECT_EQ(plan_training(small_victim(), noise(40, 16), 32, fixed).epochs, 3);
}

TEST(TrainingPlan, Seconds_CountTheTeacherWhereItIsAsked) {
  const TrainingPlan plan{.epochs = 10, .steps = 100, .step_seconds = 0.2, .teacher_seconds = 0.1};
  EXPECT_NEAR(plan.seconds(), 10 * 100 * 0.2 + 100 * 0.1, 1e-9);
  EXPECT_NEAR(plan.seconds_of(10, true), 10 * 100 * 0.3, 1e-9);
  EXPECT_EQ(plan.describe(), "10 epochs of 21 s each, about 4 min");
}

TEST(Defend, TooFewImagesOrUnfitVictim_AreRefused) {
  expect_words(error_of([] { defend(small_victim(), noise(3, 16), quick_options()); }),
               {"3 clean image(s)", "5000"});
  const LoadedClassifier rounded =
      load_classifier("tests/fixtures/programs/rounded.pt", {.image = {3, 16, 16}});
  expect_words(error_of([&] { defend(rounded, noise(40, 16), quick_options()); }),
               {"rounded.pt", "gradient"});
}

TEST(Defend, FalseAlarmRateOutOfRange_IsRefused) {
  const LoadedClassifier victim = small_victim();
  for (const double rate : {std::numeric_limits<double>::quiet_NaN(), -0.1, 1.0}) {
    DefendOptions options = quick_options();
    options.false_alarm_rate = rate;
    expect_words(error_of([&] { defend(victim, noise(20, 16), options); }),
                 {"false_alarm_rate", "[0, 1)", "got"});
  }
}

TEST(FindMetrics, FolderThatCannotBeListed_IsRefused) {
  const ScratchFolder scratch;
  for (const char* name : {"a/metrics.json", "b/c/metrics.json", "b/other.json"}) scratch.write(name, "{}");
  const std::vector<fs::path> both = {scratch.path / "a/metrics.json", scratch.path / "b/c/metrics.json"};
  EXPECT_EQ(find_metrics(scratch.path), both);
  fs::permissions(scratch.path / "b/c", fs::perms::none);
  const std::string message = [&] {
    const testing::FilePermissionsHold hold;
    return error_of([&] { find_metrics(scratch.path); });
  }();
  fs::permissions(scratch.path / "b/c", fs::perms::owner_all);
  expect_words(message, {"cannot list", (scratch.path / "b/c").string(), "Permission denied"});
}

TEST(AttackSpec, WithOrWithoutDataSet_IsReadAsWritten) {
  const ScratchFolder scratch;
  const fs::path file = scratch.path / "attack.json";
  write_attack({.name = "BadNets", .target = 3, .dataset = "/sets/a"}, file);
  EXPECT_EQ(read_attack(file).dataset, "/sets/a");
  scratch.write("attack.json", R"({"attack": "BadNets", "target": 3, "seed": 7})");  // of earlier versions
  EXPECT_EQ(read_attack(file).dataset, "");
  EXPECT_EQ(read_attack(file).target, 3);
}

TEST(AttackSpec, FieldThatIsNoIntegerInRange_IsNamedWithItsValue) {
  const ScratchFolder scratch;
  const auto error = [&](const std::string& fields) {
    const fs::path file = scratch.write("attack.json", R"({"attack": "BadNets", )" + fields + "}");
    return error_of([&] { read_attack(file); });
  };
  for (const char* value : {"4294967299", "2147483648", "3.9", "true", "-1", "\"3\"", "1e300", "[3]"}) {
    const std::string v = value;
    const std::string ints =
        "must be a whole number from 0 to 2147483647, got " + (v == "1e300" ? "1e+300" : v);
    expect_words(error(R"("seed": 7, "target": )" + v), {"attack.json", "target " + ints});
    expect_words(error(R"("seed": 7, "target": 3, "source": )" + v), {"attack.json", "source " + ints});
  }
  for (const char* value : {"-1.5", "1e300", "18446744073709551616", "-1", "true", "null"}) {
    expect_words(error(R"("target": 3, "seed": )" + std::string(value)),
                 {"attack.json", "seed must be a whole number from 0 to 18446744073709551615, got "});
  }
  expect_words(error(R"("target": 3, "seed": 7, "rate": true)"),
               {"attack.json", "rate must be a number, got true"});
  expect_words(error(R"("target": 3)"), {"attack.json", "missing"});
  EXPECT_EQ(error(R"("target": 2147483647, "seed": 18446744073709551615, "source": 0, "rate": 1)"), "");
  EXPECT_EQ(read_attack(scratch.path / "attack.json").seed, 18446744073709551615u);
}

TEST(AttackSpec, FileLongerThanTheLimit_IsRefusedBeforeItIsRead) {
  const ScratchFolder scratch;
  const std::string json = R"({"attack": "BadNets", "target": 3, "seed": 7})";
  const fs::path file = scratch.write("attack.json", json + std::string((1 << 20) - json.size(), ' '));
  EXPECT_EQ(read_attack(file).target, 3);
  fs::resize_file(file, (1 << 20) + 1);
  expect_words(error_of([&] { read_attack(file); }), {"attack.json", "1048577 bytes", "1048576"});
}

TEST(ClassNames, FileLongerThanTheLimit_IsRefusedBeforeItIsRead) {
  const ScratchFolder scratch;
  const fs::path file = scratch.write("names.txt", "a\nb" + std::string((16 << 20) - 3, '\n'));
  EXPECT_EQ(read_class_names(file), (std::vector<std::string>{"a", "b"}));
  fs::resize_file(file, (16 << 20) + 1);
  expect_words(error_of([&] { read_class_names(file); }), {"names.txt", "16777217 bytes", "16777216"});
}

TEST(LoadClassifier, Pipe_IsRefusedWithoutWaiting) {
  const ScratchFolder scratch;
  const fs::path pipe = scratch.path / "model.pt";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  expect_words(error_of([&] { load_classifier(pipe); }), {pipe.string(), "it is a device or a pipe"});
  expect_words(error_of([&] { read_class_names(pipe); }), {pipe.string(), "it is a device or a pipe"});
}

TEST(MeasureDefense, LostClasses_AreThoseThatTheDefenseNeverAnswers) {
  const std::vector<std::int64_t> victim = {0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3};
  const std::vector<std::int64_t> defended = {0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0};
  EXPECT_EQ(detail::lost_classes(victim, defended, 3), std::vector<int>{3});
  EXPECT_EQ(detail::lost_classes(victim, defended, 2), (std::vector<int>{2, 3}));
  EXPECT_EQ(detail::lost_classes(victim, victim, 1), std::vector<int>{});
  EXPECT_EQ(detail::lost_classes({}, {}, 1), std::vector<int>{});
}

TEST(Defend, GatedAnswer_IsServedMeasuredAndKept) {
  const ScratchFolder scratch;
  DefendOptions options = quick_options();
  options.answer = Answer::gated;
  options.false_alarm_rate = 0.3;
  const Defended defended = defend(small_victim(), noise(40, 16), options);
  EXPECT_EQ(defended.report.answer, Answer::gated);
  EXPECT_EQ(defended.report.gated->threshold, defended.alarm.threshold);
  EXPECT_EQ(defended.report.gated->alarms, defended.report.alarm->false_alarms);
  EXPECT_GE(defended.report.gated->agreement.hits, 4 - defended.report.gated->alarms.hits);
  const DefendedFiles files = defended.save(scratch.path / "defended.pt");
  const at::Tensor x = noise(9, 16).to(at::kFloat) / 255;
  const c10::NoGradGuard no_grad;
  for (const fs::path& file : {files.serving, defended.save(scratch.path / "defended.pt2").serving}) {
    const ExportedClassifier exported(file);
    EXPECT_EQ(exported.answer(), Answer::gated);
    EXPECT_TRUE(at::allclose(exported.forward(x), defended.gated().forward(x), 1e-4, 1e-4)) << file;
    const ExportedClassifier other(file, formats::Trust::checked, Answer::defended);
    EXPECT_TRUE(at::allclose(other.forward(x), defended.defense.forward(x), 1e-4, 1e-4)) << file;
  }
  // The parts keep the answer, unless another one is requested.
  EXPECT_EQ(load_saved_defense(plain, files.weights).answer, Answer::gated);
  load_saved_defense(plain, files.weights, {.answer = Answer::defended}).save(scratch.path / "again.pt");
  EXPECT_EQ(ExportedClassifier(scratch.path / "again.pt").answer(), Answer::defended);
  load_saved_defense(plain, files.weights).save(scratch.path / "again.pt2");
  EXPECT_EQ(ExportedClassifier(scratch.path / "again.pt2").answer(), Answer::gated);
}

TEST(ExportClassifier, TrainingMode_IsRefused) {
  const ScratchFolder scratch;
  const LoadOptions options{.image = {3, 4, 4}};
  expect_words(error_of([&] {
                 export_classifier("tests/fixtures/programs/training_mode.pt", scratch.path / "a.pt",
                                   options);
               }),
               {"training_mode.pt", "batch or on chance", "model.eval()"});
  EXPECT_FALSE(fs::exists(scratch.path / "a.pt"));
  export_classifier("tests/fixtures/programs/buffers.pt", scratch.path / "a.pt", options);
  EXPECT_TRUE(fs::exists(scratch.path / "a.pt"));
}

TEST(DefendedFiles, NamesOfOtherOutputs_AreRefused) {
  for (const char* name : {"out.safetensors", "out.report", "folder/"}) {
    expect_words(error_of([&] { DefendedFiles::beside(name).check_writable(); }), {name, "--out"});
  }
}

TEST(DefendedFiles, FilesOfAnotherModelOrDefense_AreKept) {
  const ScratchFolder scratch;
  const auto check = [&](const char* name) {
    const DefendedFiles files = DefendedFiles::beside(scratch.path / name);
    files.check_writable();
    files.check_separate();
  };
  const fs::path weights = scratch.path / "a.safetensors";
  for (const std::map<std::string, std::string>& metadata :
       {std::map<std::string, std::string>{}, {{"refine", "victim"}}}) {  // a user's own, and an attack's
    formats::write_safetensors(weights, {{{"w", at::ones({2})}}, metadata});
    expect_words(error_of([&] { check("a.onnx"); }), {"a.safetensors", "--out"});
    files::write(scratch.path / "a.onnx", "x");
    expect_words(error_of([&] { check("a.onnx"); }), {"a.safetensors", "--out"});
    fs::remove(scratch.path / "a.onnx");
  }
  files::write(weights, "no safetensors");
  expect_words(error_of([&] { check("a.pt"); }), {"a.safetensors", "--out"});

  for (const char* kind : {"defense", "student"}) {
    formats::write_safetensors(weights, {{{"w", at::ones({2})}}, {{"refine", kind}}});
    check("a.pt");  // an interrupted run has left it
    files::write(scratch.path / "a.pt", "x");
    check("a.pt");  // the run is repeated
    check("b.onnx");
    for (const char* other : {"a.onnx", "a.pt2"})
      expect_words(error_of([&] { check(other); }), {other, "a.pt", "--out", "refine export"});
    // Also where the other one exists, as after refine export, if the report is of another one.
    files::write(scratch.path / "a.onnx", "x");
    check("a.onnx");
    report::write_report({.agreement = metrics::Proportion{1, 1}, .facts = {{"serving file", "a.pt"}}},
                         scratch.path / "a.report");
    expect_words(error_of([&] { check("a.onnx"); }), {"a.onnx", "a.pt", "--out"});
    check("a.pt");
    fs::remove(scratch.path / "a.pt");
    check("a.onnx");  // nothing is lost that served
    fs::remove(scratch.path / "a.onnx");
    fs::remove_all(scratch.path / "a.report");
  }
}

TEST(DefendedFiles, NamesWithDots_KeepTheirFilesApart) {
  EXPECT_EQ(DefendedFiles::beside("v1.2").weights, "v1.2.safetensors");
  EXPECT_EQ(DefendedFiles::beside("v1.3").report, "v1.3.report");
  EXPECT_EQ(DefendedFiles::beside("folder.d/v1.2.pt2").weights, "folder.d/v1.2.safetensors");
  EXPECT_EQ(DefendedFiles::beside("U.ONNX").weights, "U.safetensors");
  const ScratchFolder scratch;
  const auto write = [&](const char* name) {
    formats::write_safetensors(scratch.path / name, {{{"w", at::ones({2})}}, {{"refine", "defense"}}});
  };
  write("v1.2.safetensors"), files::write(scratch.path / "v1.2.pt", "x");
  expect_words(error_of([&] { DefendedFiles::beside(scratch.path / "v1.2").check_separate(); }), {"v1.2.pt"});
  fs::remove(scratch.path / "v1.2.pt");
  write("v1.safetensors"), files::write(scratch.path / "v1.pt", "x");
  DefendedFiles::beside(scratch.path / "v1.2").check_separate();
}

TEST(CheckOutputs, OutputThatIsAnInput_IsRefused) {
  const ScratchFolder scratch;
  const fs::path file = scratch.path / "a.pt";
  files::write(file, "x");
  fs::create_symlink("a.pt", scratch.path / "b.pt");
  expect_words(
      error_of([&] {
        files::check_outputs({.files = {{"--model", file}}, .outputs = {{"--out", scratch.path / "b.pt"}}});
      }),
      {"b.pt", "--model", "--out"});
  files::check_outputs({.files = {{"--model", file}}, .outputs = {{"--out", scratch.path / "c.pt"}}});
}

TEST(Defend, ReadmeExample_WritesADefendedFile) {
  const ScratchFolder scratch;
  write_images(scratch.path / "clean", 24, 16);
  defend_folder(plain, scratch.path / "clean", scratch.path / "out.pt", {.training = {.epochs = 2}});
  EXPECT_TRUE(fs::exists(scratch.path / "out.pt"));
}

TEST(DefendAModel, TinyModelAndFewImages_GiveAServingFileAndAReport) {
  const ScratchFolder scratch;
  write_images(scratch.path / "clean", 24, 16);
  const std::string program = fs::absolute("examples/defend_a_model").string();
  const auto run = [&](const std::string& arguments) {
    const int status =
        std::system(("'" + program + "' " + arguments + " >'" + (scratch.path / "out.txt").string() +
                     "' 2>'" + (scratch.path / "err.txt").string() + "'")
                        .c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  };
  ASSERT_EQ(run(std::string(plain) + " '" + (scratch.path / "clean").string() + "' '" +
                (scratch.path / "defended.pt").string() + "'"),
            0)
      << content(scratch.path / "err.txt");
  expect_words(content(scratch.path / "out.txt"), {"plain.pt", "agree"});
  EXPECT_TRUE(fs::exists(scratch.path / "defended.pt"));
  EXPECT_TRUE(fs::exists(scratch.path / "defended.report/report.html"));
  EXPECT_EQ(run("nowhere.pt"), 2);
  expect_words(content(scratch.path / "err.txt"), {"error: ", "usage"});
}

}  // namespace
}  // namespace refine
