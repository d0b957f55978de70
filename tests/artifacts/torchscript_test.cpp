#include <dlfcn.h>
#include <gtest/gtest.h>
#include <torch/csrc/jit/serialization/import.h>

#include <ATen/ops/equal.h>
#include <ATen/ops/rand.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include <refine/artifacts/export_torchscript.hpp>
#include <refine/artifacts/safetensors.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/normalized.hpp>
#include <refine/backbones/resnet18.hpp>
#include <refine/nn/seeded.hpp>
#include <refine/remaps/derangement.hpp>
#include <refine/transforms/unet.hpp>

#include "tests/support/error_of.hpp"
#include "tests/support/scratch_folder.hpp"

namespace refine {
namespace {

namespace fs = std::filesystem;
using testing::error_of;
using testing::ScratchFolder;

constexpr Task task = tasks::cifar10;

auto defended(PixelDomain domain = PixelDomain::image) {
  const auto victim = backbones::Normalized{backbones::ResNet18<task>{.width = 4}, normalizations::cifar10};
  return Pipeline{transforms::UNet<task>{.levels = 2, .width = 4}, freeze(victim),
                  remaps::Derangement<task>{}, domain};
}

at::Tensor images(std::int64_t n) {
  return nn::seeded(1, [&] { return at::rand({n, 3, 32, 32}); });
}

class TorchScript : public ::testing::TestWithParam<PixelDomain> {};

TEST_P(TorchScript, AnswersAsThePipelineDoesForAnyBatchSize) {
  const ScratchFolder folder;
  const auto defense = defended(GetParam());
  export_torchscript(defense, folder.path / "defended.pt", {{"note", "a test"}});

  torch::jit::ExtraFilesMap extra{{"refine.json", ""}};
  torch::jit::Module loaded = torch::jit::load((folder.path / "defended.pt").string(), at::kCPU, extra);
  c10::NoGradGuard no_grad;
  for (std::int64_t n : {1, 2, 7}) {
    const at::Tensor x = images(n);
    EXPECT_TRUE(at::equal(loaded.forward({x}).toTensor(), defense.forward(x))) << n;
    EXPECT_TRUE(at::equal(loaded.get_method("transform")({x}).toTensor(), defense.transformed(x))) << n;
  }
  const auto about = nlohmann::json::parse(extra.at("refine.json"));
  EXPECT_EQ(about["permutation"], defense.remap().permutation);
  EXPECT_EQ(about["image"], nlohmann::json({3, 32, 32}));
  EXPECT_EQ(about["classes"], 10);
  EXPECT_EQ(about["note"], "a test");
}

INSTANTIATE_TEST_SUITE_P(Domains, TorchScript, ::testing::Values(PixelDomain::image, PixelDomain::reference));

TEST(TorchScriptFile, HasNoTensorInItsCodeThatWouldStayBehindOnAnotherDevice) {
  const ScratchFolder folder;
  export_torchscript(defended(), folder.path / "defended.pt");
  torch::jit::Module loaded = torch::jit::load((folder.path / "defended.pt").string());
  for (const auto& method : loaded.get_methods()) {
    for (const auto* node : method.graph()->nodes()) {
      if (node->kind() != c10::prim::Constant || !node->output()->type()->isSubtypeOf(c10::TensorType::get()))
        continue;
      ADD_FAILURE() << method.name() << " holds a tensor constant";
    }
  }
  EXPECT_EQ(loaded.get_methods().size(), 2u);
}

TEST(TorchScriptFile, LeavesThePipelineAsItWas) {
  const ScratchFolder folder;
  const auto defense = defended();
  const at::Tensor x = images(2), before = defense.forward(x);
  export_torchscript(defense, folder.path / "defended.pt");
  EXPECT_TRUE(at::equal(before, defense.forward(x)));
}

TEST(TorchScriptFile, NeedsAnImageShapeAndAPlace) {
  const ScratchFolder folder;
  const auto victim = freeze(backbones::ResNet18<>{.task = {{3, dynamic, dynamic}, 10}, .width = 4});
  const Pipeline open{transforms::UNet<>{.image = {3, dynamic, dynamic}, .levels = 2, .width = 4}, victim,
                      remaps::Derangement<>{.classes = 10}};
  testing::expect_words(error_of([&] { export_torchscript(open, folder.path / "a.pt"); }),
                        {"a.pt", "image shape"});
  const auto file = folder.write("file", "");
  testing::expect_words(error_of([&] { export_torchscript(defended(), file / "a.pt"); }),
                        {"a.pt", "Not a directory"});
}

/// The Python that has the PyTorch we are linked with; empty when LibTorch did not come from one.
std::string python() {
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&c10::GradMode::is_enabled), &info) == 0) return {};
  const fs::path site = fs::weakly_canonical(info.dli_fname).parent_path().parent_path().parent_path();
  const fs::path program = site.parent_path().parent_path().parent_path() / "bin" / "python3";
  return fs::exists(program) && fs::exists(site / "torch" / "__init__.py") ? program.string() : std::string();
}

TEST(TorchScriptFile, GivesTheSameAnswersInPython) {
  const std::string interpreter = python();
  if (interpreter.empty()) GTEST_SKIP() << "this LibTorch did not come with a Python";
  const ScratchFolder folder;
  const auto defense = defended();
  export_torchscript(defense, folder.path / "defended.pt");
  const at::Tensor x = images(5);
  c10::NoGradGuard no_grad;
  // Raw floats are what both sides can read without a library.
  const auto raw = [](const at::Tensor& t) {
    const at::Tensor flat = t.contiguous();
    return std::string(static_cast<const char*>(flat.const_data_ptr()), flat.nbytes());
  };
  folder.write("images.raw", raw(x));
  folder.write("logits.raw", raw(defense.forward(x)));
  folder.write("check.py", R"(
import sys, torch
def raw(name, *shape):
    return torch.frombuffer(bytearray(open(name, "rb").read()), dtype=torch.float32).view(*shape)
model = torch.jit.load("defended.pt")
difference = (model(raw("images.raw", 5, 3, 32, 32)) - raw("logits.raw", 5, 10)).abs().max().item()
print("difference", difference)
sys.exit(0 if difference < 1e-5 else 1)
)");
  const std::string command =
      "cd '" + folder.path.string() + "' && '" + interpreter + "' check.py >out.txt 2>&1";
  EXPECT_EQ(std::system(command.c_str()), 0) << testing::content(folder.path / "out.txt");
}

}  // namespace
}  // namespace refine
