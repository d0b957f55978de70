// Students: networks for them, their training on an encoder's features, and their files.

#include <gtest/gtest.h>
#include <torch/nn/module.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/avg_pool2d.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/where.h>
#include <c10/core/GradMode.h>

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include <refine/backbones/any_backbone.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/normalized.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/baselines/baselines.hpp>
#include <refine/evaluation/alarm.hpp>
#include <refine/export/export.hpp>
#include <refine/export/exported_classifier.hpp>
#include <refine/formats/onnx.hpp>
#include <refine/formats/safetensors.hpp>
#include <refine/nn/module.hpp>
#include <refine/nn/torch_random.hpp>
#include <refine/pipeline/gated.hpp>
#include <refine/programs/onnx.hpp>
#include <refine/remaps/remaps.hpp>
#include <refine/training/recipe.hpp>
#include <refine/transforms/unet.hpp>

#include "tests/support/error_of.hpp"
#include "tests/support/scratch_folder.hpp"

namespace refine::baselines {
namespace {

namespace fs = std::filesystem;
using refine::testing::error_of;
using refine::testing::expect_words;
using refine::testing::ScratchFolder;

constexpr Task student_task = {{3, 16, 16}, 4};

/// An encoder whose features are the mean of each channel, and the brightest pixel of the first.
struct Means {
  struct Module : torch::nn::Module {
    Module() { register_buffer("unit", at::ones({1})); }
  };
  ImageShape image = {3, 8, 8};
  int features = 4;
  std::shared_ptr<Module> module = std::make_shared<Module>();
  std::shared_ptr<int> asked = std::make_shared<int>(0);  ///< number of images

  at::Tensor forward(const at::Tensor& images) const {
    *asked += static_cast<int>(images.size(0));
    return at::cat({images.mean({2, 3}), images.select(1, 0).flatten(1).amax(1, true)}, 1) *
           module->buffers().front();
  }
};

at::Tensor student_images(std::int64_t n, std::uint64_t seed = 1) {
  return nn::with_torch_seed(seed, [&] { return at::rand({n, 3, 16, 16}); });
}

auto student_victim() {
  return freeze(
      backbones::Normalized{backbones::ResNet18<student_task>{.width = 4}, normalizations::imagenet});
}

/// Students of three kinds, each with a normalisation or an encoder that its file must hold.
auto plain_student(std::uint64_t seed = 3) {
  return backbones::AnyBackbone(backbones::Normalized{
      backbones::ResNet18<student_task>{.width = 4, .seed = seed}, normalizations::cifar10});
}
auto small_student(std::uint64_t seed = 3) {
  return backbones::AnyBackbone(ResizedClassifier<backbones::ResNet18<>>{
      .task = student_task, .inner = {.task = {{3, 8, 8}, 4}, .width = 4, .seed = seed}});
}
auto encoded_student(std::uint64_t seed = 3, int width = 6) {
  return backbones::AnyBackbone(
      EncodedClassifier<Means>{.task = student_task, .encoder = {}, .width = width, .seed = seed});
}

TEST(ResizedClassifier, Forward_ClassifiesTheShrunkImages) {
  const backbones::ResNet18<> inner{.task = {{3, 8, 8}, 4}, .width = 4};
  inner.module->eval();
  const ResizedClassifier<backbones::ResNet18<>> student{.task = student_task, .inner = inner};
  const c10::NoGradGuard no_grad;
  // Of images in blocks of 2×2 equal pixels, the filter against aliasing mixes neighbours; of images of one colour,
  // nothing.
  const at::Tensor flat = student_images(3).mean({2, 3}, true).expand({3, 3, 16, 16}).contiguous();
  EXPECT_TRUE(at::allclose(student.forward(flat), inner.forward(at::avg_pool2d(flat, 2)), 1e-4, 1e-5));
  EXPECT_EQ(student.forward(student_images(2)).sizes(), at::IntArrayRef({2, 4}));
}

TEST(EncodedClassifier, Standardize_GivesFeaturesMeanZeroAndDeviationOne) {
  const EncodedClassifier<Means> student{.task = student_task, .encoder = {}, .width = 6};
  const c10::NoGradGuard no_grad;
  const at::Tensor features = student.encode(student_images(5));
  student.standardize(features);
  const auto tensors = nn::state_dict(*student.module, "");
  const at::Tensor standard = (features - features.mean(0)) / features.std(0);
  const at::Tensor hidden =
      (standard.matmul(tensors.at("decoder.hidden.weight").t()) + tensors.at("decoder.hidden.bias")).relu();
  const at::Tensor expected =
      hidden.matmul(tensors.at("decoder.last.weight").t()) + tensors.at("decoder.last.bias");
  EXPECT_TRUE(at::allclose(student.forward(student_images(5)), expected, 1e-4, 1e-5));
  expect_words(error_of([&] { student.standardize(features.narrow(0, 0, 1)); }),
               {"two or more images", "N×4"});
}

/// A victim that names the brightest channel; the fourth class is for dark images.
struct Brightest {
  static constexpr bool frozen = true;
  Task task = student_task;
  std::shared_ptr<torch::nn::Module> module = std::make_shared<torch::nn::Module>("Brightest");

  at::Tensor forward(const at::Tensor& images) const {
    const at::Tensor means = images.mean({2, 3});
    return 20 * at::cat({means, at::full({means.size(0), 1}, 0.3)}, 1);
  }
};

TEST(Distill, EncodedClassifier_AsksEncoderOncePerImageAndAgreesWithTheVictim) {
  const at::Tensor images =
      (255 * student_images(96) * student_images(96, 2).narrow(2, 0, 1).narrow(3, 0, 1)).to(at::kByte);
  const EncodedClassifier<Means> fresh{.task = student_task, .encoder = {}, .width = 16};
  const auto start = fresh.module->decoder()->parameters().front().clone();
  Recipe recipe = recipes::encoded;
  recipe.temperature = 1;
  recipe.augmentation = {};
  recipe.optimization.epochs = 60;
  recipe.optimization.batch_size = 32;
  const auto student = distill(fresh, Brightest{}, images, recipe);
  EXPECT_EQ(*student.encoder.asked, 96) << "an epoch costs the head alone";
  EXPECT_FALSE(start.equal(student.module->decoder()->parameters().front()));
  EXPECT_TRUE(student.module->encoder()->buffers().front().equal(at::ones({1}))) << "the encoder is constant";
  EXPECT_GT(label_agreement(Substitute{Brightest{}, student}, images).value(), 0.9);

  recipe.augmentation.flip = true;
  expect_words(error_of([&] { distill(fresh, Brightest{}, images, recipe); }),
               {"features", "recipe.augmentation"});
}

TEST(Distill, StudentThatDoesNotFit_IsRefused) {
  const at::Tensor images = (255 * student_images(4)).to(at::kByte);
  const auto line = [&](const auto& student) {
    return error_of([&] { distill(student, Brightest{}, images, recipes::encoded); });
  };
  for (const int width : {0, -3, 1 << 30})
    expect_words(line(EncodedClassifier<Means>{.task = student_task, .encoder = {}, .width = width}),
                 {"width", std::to_string(width)});
  expect_words(line(EncodedClassifier<Means>{.task = {student_task.image, -1}, .encoder = {}}), {"classes"});
  expect_words(line(ResizedClassifier<backbones::ResNet18<>>{.task = student_task,
                                                             .inner = {.task = {{3, 8, 8}, 5}, .width = 4}}),
               {"5 classes", "give both the same"});
  expect_words(line(ResizedClassifier<backbones::ResNet18<>>{
                   .task = student_task, .inner = {.task = {{3, dynamic, dynamic}, 4}, .width = 4}}),
               {"must be known"});
}

double largest_difference(const at::Tensor& a, const at::Tensor& b) {
  EXPECT_EQ(a.sizes(), b.sizes());
  return (a - b).abs().max().item<double>();
}

class Students : public ::testing::TestWithParam<int> {
 protected:
  static backbones::AnyBackbone network(std::uint64_t seed = 3) {
    return GetParam() == 0   ? plain_student(seed)
           : GetParam() == 1 ? small_student(seed)
                             : encoded_student(seed);
  }
};

TEST_P(Students, EachFormat_GivesTheClassifiersAnswers) {
  const ScratchFolder folder;
  const auto victim = student_victim();
  const backbones::AnyBackbone classifier = network();
  classifier.module->eval();
  const Substitute defense{victim, classifier};
  static_assert(ServableDefense<decltype(defense)> && ServableDefense<Gated<decltype(defense)>>);
  const c10::NoGradGuard no_grad;
  const at::Tensor x = student_images(6);
  const at::Tensor defended = classifier.forward(x), undefended = victim.forward(x);
  // Half of the summed differences: the total variation distance, in another form than the library's.
  const at::Tensor scores = (defended.softmax(1) - undefended.softmax(1)).abs().sum(1) / 2;
  const auto sorted = std::get<0>(scores.sort());
  const double threshold = (sorted[2] + sorted[3]).item<double>() / 2;
  const at::Tensor gated = at::where((scores > threshold).unsqueeze(1), defended, undefended);
  for (const char* name : {"defended.pt", "defended.pt2"}) {
    export_defense(defense, folder.path / name, {{"note", "a test"}}, {.alarm_threshold = threshold});
    const ExportedClassifier served(folder.path / name);
    EXPECT_EQ(served.task(), student_task);
    EXPECT_EQ(served.about()["note"], "a test");
    EXPECT_FALSE(served.about().contains("permutation"));
    for (const std::int64_t n : {1, 2, 6}) {
      const at::Tensor some = x.narrow(0, 0, n);
      EXPECT_TRUE(at::allclose(served.forward(some), defended.narrow(0, 0, n), 1e-4, 1e-5)) << name << n;
      EXPECT_TRUE(at::allclose(served.undefended(some), undefended.narrow(0, 0, n), 1e-4, 1e-5)) << name << n;
      EXPECT_TRUE(at::allclose(served.alarm(some), scores.narrow(0, 0, n), 1e-3, 1e-5)) << name << n;
      EXPECT_TRUE(served.transformed(some).equal(some)) << name << n;
    }
    const ExportedClassifier other(folder.path / name, formats::Trust::checked, Answer::gated);
    EXPECT_TRUE(at::allclose(other.forward(x), gated, 1e-4, 1e-5)) << name;
    // As a `Gated`, the file serves the gated answer.
    export_defense(Gated{defense, threshold}, folder.path / name);
    EXPECT_TRUE(at::allclose(ExportedClassifier(folder.path / name).forward(x), gated, 1e-4, 1e-5)) << name;
  }
  for (const bool is_gated : {false, true}) {
    const fs::path file = folder.path / "defended.onnx";
    is_gated ? export_defense(Gated{defense, threshold}, file) : export_defense(defense, file);
    const backbones::detail::ExportedModule program(
        backbones::detail::translate_onnx(
            std::make_shared<const formats::OnnxModel>(formats::read_onnx(file)), "defended.onnx"),
        "defended.onnx");
    EXPECT_LT(largest_difference(program.with_output(0)->forward(x), is_gated ? gated : defended), 1e-5);
    EXPECT_LT(largest_difference(program.with_output(1)->forward(x), scores), 1e-5);
  }
}

TEST_P(Students, Saved_IsLoadedBitwiseBehindItsOwnVictimOnly) {
  const ScratchFolder folder;
  const fs::path file = folder.path / "student.safetensors";
  const auto victim = student_victim();
  const Substitute saved{victim, network()};
  saved.classifier.module->eval();
  save(saved, file, recipes::fast, {{"note", "a test"}});
  for (const auto& [name, tensor] : formats::read_safetensors(file).tensors)
    EXPECT_TRUE(name.starts_with("student.") && name.find("unit") == std::string::npos) << name;

  Substitute loaded{victim, network(/*seed=*/4)};
  loaded.classifier.module->eval();
  const c10::NoGradGuard no_grad;
  const at::Tensor x = student_images(3);
  EXPECT_FALSE(loaded.forward(x).equal(saved.forward(x)));
  const auto metadata = load(loaded, file);
  EXPECT_TRUE(loaded.forward(x).equal(saved.forward(x)));
  EXPECT_EQ(metadata.at("refine"), "student");
  EXPECT_EQ(metadata.at("note"), "a test");
  EXPECT_EQ(nlohmann::json::parse(metadata.at("recipe"))["optimization"]["epochs"], 12);

  Substitute other{freeze(backbones::ResNet18<student_task>{.width = 4, .seed = 9}), network()};
  expect_words(error_of([&] { load(other, file); }), {"student.safetensors", "another victim"});
  Substitute another{victim, GetParam() == 2 ? plain_student() : encoded_student()};
  expect_words(error_of([&] { load(another, file); }), {"student.safetensors", "another encoder"});
  Pipeline pipeline{transforms::UNet<student_task>{.levels = 1, .width = 4}, victim,
                    remaps::Derangement<student_task>{}};
  expect_words(error_of([&] { load(pipeline, file); }),
               {"student.safetensors", "a student, expected a transform"});
  save(pipeline, file, recipes::fast);
  expect_words(error_of([&] { load(loaded, file); }), {"student.safetensors", "as a student"});
}

INSTANTIATE_TEST_SUITE_P(PlainResizedEncoded, Students, ::testing::Values(0, 1, 2));

TEST(ExportDefense, GatedWithOptions_IsRefused) {
  const ScratchFolder folder;
  const Substitute defense{student_victim(), plain_student()};
  expect_words(error_of([&] {
                 export_torchscript(Gated{defense, 0.5}, folder.path / "a.pt", {}, {.alarm_threshold = 0.4});
               }),
               {"a.pt", "Gated", "ServingOptions"});
}

}  // namespace
}  // namespace refine::baselines
