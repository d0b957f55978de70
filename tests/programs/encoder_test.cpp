// Feature extractors from files.

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/tensor.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>
#include <torch/csrc/jit/api/module.h>

#include <filesystem>
#include <string>
#include <vector>

#include <refine/core/file.hpp>
#include <refine/nn/torch_random.hpp>
#include <refine/programs/encoder.hpp>
#include <refine/programs/exported_program.hpp>
#include <refine/transforms/encoded.hpp>

#include "tests/support/error_of.hpp"
#include "tests/support/scratch_folder.hpp"

namespace refine {
namespace {

namespace fs = std::filesystem;
using testing::error_of;
using testing::expect_words;
using testing::ScratchFolder;
using transforms::ProgramEncoder;

static_assert(transforms::Encoder<ProgramEncoder>);

at::Tensor kernel() {
  return nn::with_torch_seed(1, [] { return at::rand({4, 3, 3, 3}) - 0.5; });
}

/// Writes a TorchScript program with a kernel 4×3×3×3.
fs::path write_program(const fs::path& file, const std::string& body) {
  torch::jit::Module m(c10::QualifiedName("__torch__.Encoder"));
  m.register_parameter("kernel", kernel(), false);
  m.define("def forward(self, x):\n    " + body + "\n");
  m.eval();
  m.save(file.string());
  return file;
}

at::Tensor eight_pixels(std::int64_t n) {
  return nn::with_torch_seed(2, [&] { return at::rand({n, 3, 8, 8}); });
}

double distance_of(const at::Tensor& a, const at::Tensor& b) {
  EXPECT_EQ(a.sizes(), b.sizes());
  return (a - b).abs().max().item<double>();
}

TEST(ProgramEncoder, MapsAndVectors_AreFeatures) {
  const ScratchFolder scratch;
  const at::Tensor x = eight_pixels(3), maps = at::conv2d(x, kernel());
  const ProgramEncoder of_maps{write_program(scratch.path / "maps.pt", "return torch.conv2d(x, self.kernel)"),
                               {.image = {3, 8, 8}}};
  EXPECT_EQ(of_maps.features, 4);
  EXPECT_EQ(of_maps.image, (ImageShape{3, 8, 8}));
  const c10::NoGradGuard no_grad;
  EXPECT_LT(distance_of(of_maps.forward(x), maps.mean({2, 3})), 1e-5);
  const ProgramEncoder of_vectors{
      write_program(scratch.path / "vectors.pt", "return torch.conv2d(x, self.kernel).flatten(1)"),
      {.likely_image = {3, 8, 8}}};
  EXPECT_EQ(of_vectors.features, 4 * 6 * 6);
  EXPECT_LT(distance_of(of_vectors.forward(x), maps.flatten(1)), 1e-5);
}

TEST(ProgramEncoder, Normalization_IsAppliedFirst) {
  const ScratchFolder scratch;
  const ProgramEncoder encoder{write_program(scratch.path / "maps.pt", "return torch.conv2d(x, self.kernel)"),
                               {.image = {3, 8, 8}, .normalization = normalizations::cifar10}};
  const auto channels = [](float a, float b, float c) { return at::tensor({a, b, c}).view({1, 3, 1, 1}); };
  const at::Tensor x = eight_pixels(2);
  const at::Tensor normalized =
      (x - channels(0.4914f, 0.4822f, 0.4465f)) / channels(0.2023f, 0.1994f, 0.2010f);
  const c10::NoGradGuard no_grad;
  EXPECT_LT(distance_of(encoder.forward(x), at::conv2d(normalized, kernel()).mean({2, 3})), 1e-4);

  const fs::path grey = write_program(scratch.path / "grey.pt",
                                      "return torch.conv2d(x.expand(x.size(0), 3, 8, 8), self.kernel)");
  const auto grey_error = [&](const Normalization& normalization) {
    return error_of([&] { ProgramEncoder(grey, {.image = {1, 8, 8}, .normalization = normalization}); });
  };
  EXPECT_EQ(grey_error(normalizations::fashion_mnist), "");
  expect_words(grey_error(normalizations::imagenet), {"ProgramEncoder", "has 3", "takes 1"});
  expect_words(grey_error({.deviation = {0, 0, 0}}), {"ProgramEncoder", "deviations", "got 0"});
}

TEST(ProgramEncoder, SeveralOutputs_OneIsChosenByNameOrBecauseItFits) {
  const ScratchFolder scratch;
  const fs::path two =
      write_program(scratch.path / "two.pt", "y = torch.conv2d(x, self.kernel)\n    return y, y.flatten(1)");
  expect_words(error_of([&] {
                 ProgramEncoder(two, {.image = {3, 8, 8}});
               }),
               {"two.pt", "2 tensors", "ProgramEncoderOptions::output"});
  EXPECT_EQ(ProgramEncoder(two, {.image = {3, 8, 8}, .output = "0"}).features, 4);
  const ProgramEncoder fits{
      write_program(scratch.path / "one.pt", "y = torch.conv2d(x, self.kernel)\n    return y.mean(), y"),
      {.image = {3, 8, 8}}};
  EXPECT_EQ(fits.features, 4);
  const fs::path single = write_program(scratch.path / "single.pt", "return torch.conv2d(x, self.kernel)");
  expect_words(error_of([&] {
                 ProgramEncoder(single, {.image = {3, 8, 8}, .output = "0"});
               }),
               {"single.pt", "one tensor", "output is '0'", "leave it out"});
}

TEST(ProgramEncoder, ExportedProgram_GivesItsOutput) {
  constexpr const char* file = "tests/fixtures/exported/mixed.pt2";
  const ProgramEncoder encoder{file};
  const backbones::ExportedProgram<> classifier{file};
  EXPECT_EQ(encoder.image, classifier.task.image);
  EXPECT_EQ(encoder.features, classifier.task.classes);
  const at::Tensor x = eight_pixels(5);
  const c10::NoGradGuard no_grad;
  EXPECT_LT(distance_of(encoder.forward(x), classifier.forward(x)), 1e-5);
  expect_words(error_of([&] {
                 ProgramEncoder(file, {.image = {3, 9, 9}});
               }),
               {"mixed.pt2", "3x9x9", "3x8x8", "--see"});
}

TEST(ProgramEncoder, FileThatGivesNoFeatures_IsRefused) {
  const ScratchFolder scratch;
  const auto message = [&](const std::string& body,
                           const transforms::ProgramEncoderOptions& options = {.image = {3, 8, 8}}) {
    return error_of([&] { ProgramEncoder(write_program(scratch.path / "e.pt", body), options); });
  };
  expect_words(message("return torch.conv2d(x, self.kernel)", {}), {"e.pt", "size of its images", "--see"});
  expect_words(message("return torch.conv2d(x, self.kernel).mean()"), {"e.pt", "a single number", "N×F"});
  expect_words(message("return torch.conv2d(x, self.kernel) - x.mean()"), {"e.pt", "batch", "eval()"});
  expect_words(message("return torch.dropout(torch.conv2d(x, self.kernel), 0.5, True)"), {"e.pt", "eval()"});
  expect_words(message("return torch.conv2d(x, self.kernel) / 0."), {"e.pt", "not finite"});
  expect_words(message("return torch.conv2d(x.view(-1, 3, 4, 4), self.kernel)"), {"e.pt", "N×F"});
  expect_words(error_of([&] { ProgramEncoder(scratch.path / "nowhere.pt"); }),
               {"nowhere.pt", "does not exist"});
  files::write(scratch.path / "text.pt", "text");
  expect_words(error_of([&] { ProgramEncoder(scratch.path / "text.pt"); }), {"text.pt", "not a program"});
  expect_words(error_of([&] { ProgramEncoder("tests/fixtures/exported/hostile_guard.pt2"); }),
               {"hostile_guard.pt2", "guards_code"});
}

}  // namespace
}  // namespace refine
