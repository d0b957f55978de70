// TorchScript files as users export them (tests/fixtures/make_program_files.py): each gives the
// logits that PyTorch gives in float32, and passes gradients to its images.

#include <gtest/gtest.h>
#include <torch/csrc/jit/api/module.h>

#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/tensor.h>
#include <c10/core/GradMode.h>

#include <cstring>
#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include <refine/backbones/freeze.hpp>
#include <refine/export/torchscript.hpp>
#include <refine/formats/torchscript_check.hpp>
#include <refine/programs/torchscript.hpp>

#include "tests/support/error_of.hpp"
#include "tests/support/scratch_folder.hpp"

namespace refine {
namespace {

using testing::error_of;
using testing::expect_words;
using testing::ScratchFolder;

std::string path_of(const std::string& name) {
  return "tests/fixtures/programs/" + name + ".pt";
}

constexpr Task task{{3, 4, 4}, 5};

struct Program {
  torch::jit::Module module;
  at::Tensor images, logits;  ///< images, and the logits that PyTorch gives for them
};

Program program(const std::string& name) {
  const auto file = formats::load_torchscript(path_of(name));
  const auto floats = [&](const char* extra, std::vector<std::int64_t> shape) {
    std::string bytes = file.listing.extra.at(extra);
    return at::from_blob(bytes.data(), shape, at::kFloat).clone();
  };
  return {file.module, floats("images", {3, 3, 4, 4}), floats("logits", {3, 5})};
}

backbones::Scripted<> victim_of(const std::string& name, const std::string& output = "") {
  return backbones::Scripted<>{path_of(name), {.task = task, .output = output}};
}

at::Tensor gradient(const backbones::Scripted<>& victim, const at::Tensor& images) {
  const at::Tensor x = images.clone().requires_grad_();
  victim.forward(x).square().sum().backward();
  return x.grad();
}

struct Case {
  const char* name;
  double tolerance = 1e-4;
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name;
}

class Programs : public ::testing::TestWithParam<Case> {};

TEST_P(Programs, Scripted_AnyExport_GivesPyTorchsLogitsInFloat32) {
  const auto [name, tolerance] = GetParam();
  const Program file = program(name);
  const backbones::Scripted<> victim = victim_of(name);
  for (int i = 0; i < 2; ++i) {
    const at::Tensor output = victim.forward(file.images);
    EXPECT_EQ(output.scalar_type(), at::kFloat);
    EXPECT_LT((output - file.logits).abs().max().item<double>(), tolerance);
  }
  const at::Tensor slope = gradient(victim, file.images);
  ASSERT_TRUE(slope.defined());
  EXPECT_GT(slope.abs().max().item<double>(), 1e-3);

  // A file that is exported from it gives the same logits.
  ScratchFolder folder;
  export_torchscript(freeze(victim), folder.path / "again.pt");
  torch::jit::Module exported = formats::load_torchscript(folder.path / "again.pt").module;
  EXPECT_TRUE(
      at::allclose(exported.forward({file.images}).toTensor(), victim.forward(file.images), 1e-4, 1e-5));
}

// The tolerance is that of rounding if weights were folded in half precision when the file was
// frozen, or are cast by autocast.
INSTANTIATE_TEST_SUITE_P(
    All, Programs,
    ::testing::Values(Case{"no_grad"}, Case{"no_grad_nested"}, Case{"detached"}, Case{"detached_traced"},
                      Case{"helper"}, Case{"helper_changing"}, Case{"context"}, Case{"plain"},
                      Case{"half_cast"}, Case{"half_cast_frozen", 5e-3}, Case{"half_traced"},
                      Case{"half_frozen", 5e-3}, Case{"half_method"}, Case{"bfloat16_cast"},
                      Case{"bfloat16_cast_frozen", 3e-2}, Case{"bfloat16_traced"},
                      Case{"bfloat16_frozen", 3e-2}, Case{"double_cast"}, Case{"double_cast_frozen"},
                      Case{"double_traced"}, Case{"double_frozen"}, Case{"autocast", 2e-2},
                      Case{"autocast_frozen", 3e-2}, Case{"autocast_traced", 2e-2}, Case{"buffers"},
                      Case{"buffers_frozen"}, Case{"buffers_half"}, Case{"on_cuda"}, Case{"pair"},
                      Case{"named"}, Case{"deep"}, Case{"maybe"}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(Scripted, NoGradOrDetach_HasTheGradientOfThePlainNetwork) {
  const at::Tensor images = program("plain").images;
  const at::Tensor expected = gradient(victim_of("plain"), images);
  for (const char* name : {"no_grad", "no_grad_nested", "detached", "detached_traced", "pair"}) {
    EXPECT_TRUE(at::allclose(gradient(victim_of(name), images), expected, 1e-4, 1e-6)) << name;
  }
}

TEST(Scripted, ModuleInterface_IsInlined) {
  const at::Tensor images = program("plain").images;
  const backbones::Scripted<> victim{path_of("interface"), {.task = task, .trust = formats::Trust::blind}};
  EXPECT_TRUE(at::allclose(victim.forward(images), program("plain").logits, 1e-4, 1e-5));
}

TEST(Scripted, SeveralOutputs_TakesTheFittingOneOrThrows) {
  const auto classes = [](const std::string& name, const backbones::ScriptedOptions& options) {
    return backbones::Scripted<>(path_of(name), options).task.classes;
  };
  const ImageShape image = task.image;
  // Selected by the number of classes, which may be a guess.
  EXPECT_EQ(classes("pair", {.task = {image, 5}}), 5);
  EXPECT_EQ(classes("pair", {.task = {image, 4}}), 4);
  EXPECT_EQ(classes("pair", {.task = {image, dynamic}, .likely_classes = 5}), 5);
  EXPECT_EQ(classes("dictionary", {.task = {image, dynamic}, .likely_classes = 5}), 5);
  // Selected by position, key or field.
  EXPECT_EQ(classes("pair", {.task = {image, dynamic}, .output = "1"}), 5);
  EXPECT_EQ(classes("dictionary", {.task = {image, dynamic}, .output = "logits"}), 5);
  EXPECT_EQ(classes("dictionary", {.task = {image, dynamic}, .output = "aux"}), 3);
  EXPECT_EQ(classes("named", {.task = {image, dynamic}, .output = "logits"}), 5);
  EXPECT_EQ(classes("deep", {.task = {image, dynamic}, .output = "1.1.out"}), 5);
  // Only one output is images×classes.
  EXPECT_EQ(classes("named", {.task = {image, dynamic}}), 5);

  const auto line = [&](const std::string& name, const backbones::ScriptedOptions& options) {
    return error_of([&] { classes(name, options); });
  };
  expect_words(line("pair", {.task = {image, dynamic}}),
               {"pair.pt", "several", "0 (2×4)", "1 (2×5)", "--output 1"});
  expect_words(line("pair", {.task = {image, dynamic}, .likely_classes = 7}), {"several", "--output"});
  expect_words(line("dictionary", {.task = {image, dynamic}}), {"0 'features' (2×4)", "1 'logits' (2×5)"});
  expect_words(line("exits", {.task = {image, 5}}), {"several", "0 (2×5)", "1 (2×5)"});
  expect_words(line("pair", {.task = {image, dynamic}, .output = "logits"}),
               {"no output 'logits'", "1 (2×5)"});
  expect_words(line("deep", {.task = {image, dynamic}, .output = "0"}), {"deep.pt", "2×3×4×4"});

  const Program exits = program("exits");
  EXPECT_TRUE(at::allclose(victim_of("exits", "1").forward(exits.images), exits.logits, 1e-4, 1e-5));
  EXPECT_TRUE(at::allclose(victim_of("exits", "0").forward(exits.images), exits.logits / 2, 1e-4, 1e-5));
}

TEST(Scripted, CallersModule_IsUnchanged) {
  for (const char* name : {"half_cast", "training_mode", "buffers"}) {
    torch::jit::Module m = formats::load_torchscript(path_of(name)).module;
    m.train();
    std::vector<at::Tensor> tensors, values;
    for (const at::Tensor& tensor : m.parameters()) tensors.push_back(tensor);
    for (const at::Tensor& tensor : m.buffers()) tensors.push_back(tensor);
    for (const at::Tensor& tensor : tensors) values.push_back(tensor.clone());
    const backbones::Scripted<> victim(m, name, {.task = task});
    victim.forward(program(name).images);
    EXPECT_TRUE(m.is_training()) << name;
    std::size_t i = 0;
    const auto check = [&](const at::Tensor& tensor) {
      EXPECT_EQ(tensor.scalar_type(), values.at(i).scalar_type()) << name;
      EXPECT_TRUE(at::equal(tensor, values.at(i))) << name;
      EXPECT_TRUE(tensor.is_same(tensors.at(i))) << name;
      ++i;
    };
    for (const at::Tensor& tensor : m.parameters()) check(tensor);
    for (const at::Tensor& tensor : m.buffers()) check(tensor);
    EXPECT_EQ(i, values.size());
  }
}

TEST(Scripted, CallersModuleChangedLater_DoesNotChangeTheVictim) {
  const Program file = program("plain");
  const backbones::Scripted<> victim(file.module, "m", {.task = task});
  {
    c10::NoGradGuard no_grad;
    for (at::Tensor parameter : file.module.parameters()) parameter.zero_();
  }
  EXPECT_TRUE(at::allclose(victim.forward(file.images), file.logits, 1e-4, 1e-5));
}

TEST(Scripted, IntegerAndBoolBuffers_KeepTheirTypes) {
  std::set<at::ScalarType> types;
  for (const at::Tensor& buffer : victim_of("buffers").module->buffers()) types.insert(buffer.scalar_type());
  EXPECT_EQ(types, (std::set<at::ScalarType>{at::kFloat, at::kLong, at::kBool}));
}

}  // namespace
}  // namespace refine
