#include <dlfcn.h>
#include <gtest/gtest.h>
#include <torch/csrc/jit/serialization/import.h>
#include <torch/cuda.h>

#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include <refine/backbones/any_backbone.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/normalized.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/export/export_defense.hpp>
#include <refine/export/exported_classifier.hpp>
#include <refine/export/pt2.hpp>
#include <refine/export/torchscript.hpp>
#include <refine/nn/conv.hpp>
#include <refine/nn/torch_random.hpp>
#include <refine/pipeline/gated.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/programs/torchscript.hpp>
#include <refine/remaps/remaps.hpp>
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
  return nn::with_torch_seed(1, [&] { return at::rand({n, 3, 32, 32}); });
}

/// Makes the pipeline convolve with LibTorch, as exported files do, to compare the last bit.
struct ScopedLibTorchConvolutions {
  ScopedLibTorchConvolutions() { nn::allow_winograd(false); }
  ~ScopedLibTorchConvolutions() { nn::allow_winograd(true); }
};

class TorchScript : public ::testing::TestWithParam<PixelDomain> {};

TEST_P(TorchScript, AnyBatchSize_MatchesThePipeline) {
  const ScratchFolder folder;
  const auto defense = defended(GetParam());
  export_torchscript(defense, folder.path / "defended.pt", {{"note", "a test"}});

  torch::jit::ExtraFilesMap extra{{"refine.json", ""}};
  torch::jit::Module loaded = torch::jit::load((folder.path / "defended.pt").string(), at::kCPU, extra);
  c10::NoGradGuard no_grad;
  const auto serving = freeze(defense);  // the form that is written
  for (std::int64_t n : {1, 2, 7}) {
    const at::Tensor x = images(n);
    EXPECT_TRUE(at::allclose(loaded.forward({x}).toTensor(), serving.forward(x), 1e-4, 1e-4)) << n;
    EXPECT_TRUE(at::allclose(loaded.forward({x}).toTensor(), defense.forward(x), 1e-4, 1e-4)) << n;
    const ScopedLibTorchConvolutions same_arithmetic;
    EXPECT_TRUE(at::equal(loaded.forward({x}).toTensor(), serving.forward(x))) << n;
    EXPECT_TRUE(at::equal(loaded.get_method("transform")({x}).toTensor(), serving.transformed(x))) << n;
    EXPECT_TRUE(at::equal(loaded.get_method("undefended")({x}).toTensor(), serving.undefended(x))) << n;
    EXPECT_TRUE(at::equal(loaded.get_method("alarm")({x}).toTensor(), serving.alarm(x))) << n;
  }
  const auto about = nlohmann::json::parse(extra.at("refine.json"));
  EXPECT_EQ(about["permutation"], defense.remap().permutation);
  EXPECT_EQ(about["image"], nlohmann::json({3, 32, 32}));
  EXPECT_EQ(about["classes"], 10);
  EXPECT_EQ(about["note"], "a test");
}

INSTANTIATE_TEST_SUITE_P(Domains, TorchScript, ::testing::Values(PixelDomain::image, PixelDomain::reference));

TEST(ExportTorchScript, Code_HasNoTensorConstants) {
  const ScratchFolder folder;
  export_torchscript(defended(), folder.path / "defended.pt");
  // A constant would stay behind when the module is moved to another device.
  torch::jit::Module loaded = torch::jit::load((folder.path / "defended.pt").string());
  for (const auto& method : loaded.get_methods()) {
    for (const auto* node : method.graph()->nodes()) {
      if (node->kind() != c10::prim::Constant || !node->output()->type()->isSubtypeOf(c10::TensorType::get()))
        continue;
      ADD_FAILURE() << method.name() << " holds a tensor constant";
    }
  }
  EXPECT_EQ(loaded.get_methods().size(), 4u);
}

TEST(ExportTorchScript, ForeignVictim_KeepsItsControlFlow) {
  torch::jit::Module foreign = nn::with_torch_seed(3, [] {
    torch::jit::Module m("foreign");
    m.register_parameter("kernel", at::randn({5, 3, 3, 3}), false);
    m.define(R"(def forward(self, x):
    y = torch.mean(torch.conv2d(x, self.kernel), [2, 3])
    if x.size(0) > 2:
        y = y * 2
    return y
)");
    m.eval();
    return m;
  });
  constexpr ImageShape shape{3, 12, 20};
  const AnyPipeline defense{
      transforms::UNet<>{.image = shape, .levels = 2, .width = 4},
      freeze(backbones::AnyBackbone(backbones::Normalized{
          backbones::Scripted<>(foreign, "foreign", {.task = {shape, 5}}), normalizations::imagenet})),
      remaps::Derangement<>{.classes = 5}};
  const ScratchFolder folder;
  export_torchscript(defense, folder.path / "defended.pt", {{"note", "a test"}});
  const ExportedClassifier served(folder.path / "defended.pt");
  EXPECT_EQ(served.task(), (Task{shape, 5}));
  EXPECT_EQ(served.about()["note"], "a test");
  c10::NoGradGuard no_grad;
  const auto serving = freeze(defense);  // the form that is written
  for (std::int64_t n : {1, 2, 3, 6}) {
    const at::Tensor x = nn::with_torch_seed(1, [&] { return at::rand({n, 3, 12, 20}); });
    const ScopedLibTorchConvolutions same_arithmetic;
    EXPECT_TRUE(at::equal(served.forward(x), serving.forward(x))) << n;
    EXPECT_TRUE(at::equal(served.transformed(x), serving.transformed(x))) << n;
    EXPECT_TRUE(at::equal(served.undefended(x), defense.undefended(x))) << n;
    EXPECT_TRUE(at::equal(served.alarm(x), serving.alarm(x))) << n;
  }
}

TEST(ExportTorchScript, AlarmThreshold_AddsBothAnswers) {
  const ScratchFolder folder;
  const auto defense = defended();
  const at::Tensor x = images(8);
  c10::NoGradGuard no_grad;
  const ScopedLibTorchConvolutions same_arithmetic;
  const auto serving = freeze(defense);
  // Between the scores, so that both cases occur.
  const double threshold = serving.alarm(x).median().item<double>();
  const at::Tensor is_silent = serving.alarm(x).le(threshold);
  ASSERT_TRUE(is_silent.any().item<bool>() && !is_silent.all().item<bool>());
  const at::Tensor expected = serving.forward(x);
  for (std::int64_t i = 0; i < 8; ++i) {
    if (is_silent[i].item<bool>()) expected[i].copy_(serving.undefended(x)[i]);
  }
  const fs::path both = folder.path / "both.pt", gated = folder.path / "gated.pt";
  export_torchscript(defense, both, {}, {.alarm_threshold = threshold});
  export_torchscript(Gated{defense, threshold}, gated);
  for (const fs::path& file : {both, gated}) {
    torch::jit::Module loaded = torch::jit::load(file.string());
    EXPECT_TRUE(at::equal(loaded.get_method("gated")({x}).toTensor(), expected));
    EXPECT_TRUE(at::equal(loaded.get_method("defended")({x}).toTensor(), serving.forward(x)));
    EXPECT_TRUE(at::equal(loaded.forward({x}).toTensor(), file == gated ? expected : serving.forward(x)));
  }
  EXPECT_EQ(ExportedClassifier(both).answer(), Answer::defended);
  EXPECT_EQ(ExportedClassifier(gated).answer(), Answer::gated);
  EXPECT_EQ(ExportedClassifier(gated).about()["answer"], "gated");
  const ExportedClassifier chosen(gated, formats::Trust::checked, Answer::defended);
  EXPECT_TRUE(at::equal(chosen.forward(x), serving.forward(x)));
  EXPECT_TRUE(at::equal(Gated(chosen, threshold).forward(x), expected));

  export_torchscript(defense, folder.path / "one.pt");
  testing::expect_words(
      error_of([&] { ExportedClassifier(folder.path / "one.pt", formats::Trust::checked, Answer::gated); }),
      {"one.pt", "gated", "--answer"});
  testing::expect_words(
      error_of([&] { export_torchscript(defense, folder.path / "a.pt", {}, {.answer = Answer::gated}); }),
      {"a.pt", "threshold"});
  testing::expect_words(
      error_of([&] { export_torchscript(defense, folder.path / "a.pt", {}, {.alarm_threshold = 2}); }),
      {"a.pt", "[0, 1]", "got 2"});
}

// A program that serves the file compares the score with the threshold, and NaN is above none.
TEST(ExportDefense, LogitsThatAreNotFinite_RaiseTheAlarm) {
  const ScratchFolder folder;
  const auto defense = defended();
  c10::NoGradGuard no_grad;
  at::Tensor x = images(2);
  x[1].fill_(std::nan(""));
  for (const char* name : {"a.pt", "a.pt2"}) {
    export_defense(defense, folder.path / name, {}, {.alarm_threshold = 1});
    const at::Tensor scores = ExportedClassifier(folder.path / name).alarm(x);
    EXPECT_LE(scores[0].item<double>(), 1) << name;
    EXPECT_GT(scores[1].item<double>(), 1) << name;
  }
}

TEST(ExportedClassifier, OtherTorchScriptFile_IsRefused) {
  const ScratchFolder folder;
  torch::jit::Module m("m");
  m.define("def forward(self, x):\n    return x\n");
  m.save((folder.path / "m.pt").string());
  testing::expect_words(error_of([&] { ExportedClassifier(folder.path / "m.pt"); }), {"m.pt", "refine.json"});
  m.save((folder.path / "n.pt").string(), {{"refine.json", R"({"image": [3, 0, 4], "classes": 5})"}});
  testing::expect_words(error_of([&] { ExportedClassifier(folder.path / "n.pt"); }),
                        {"n.pt", "image and classes"});
  m.save((folder.path / "o.pt").string(), {{"refine.json", R"({"image": [3, 4, 4], "classes": 5})"}});
  testing::expect_words(error_of([&] { ExportedClassifier(folder.path / "o.pt"); }), {"o.pt", "'transform'"});
  const std::string deep = std::string(200'000, '[') + std::string(200'000, ']');
  m.save((folder.path / "p.pt").string(),
         {{"refine.json", R"({"image": [3, 4, 4], "classes": 5, "more": )" + deep + "}"}});
  testing::expect_words(error_of([&] { ExportedClassifier(folder.path / "p.pt"); }),
                        {"p.pt", "image and classes"});
}

TEST(ExportTorchScript, Pipeline_StaysUnchanged) {
  const ScratchFolder folder;
  const auto defense = defended();
  const at::Tensor x = images(2), before = defense.forward(x);
  export_torchscript(defense, folder.path / "defended.pt");
  EXPECT_TRUE(at::equal(before, defense.forward(x)));
}

/// A transform whose module throws when it is moved.
struct Pinned {
  struct Module : torch::nn::Module {
    Module() { register_parameter("scale", at::full({1}, 0.5)); }
    void to(at::Device, bool = false) override { throw Error("the network was moved"); }
  };
  ImageShape image = task.image;
  std::shared_ptr<Module> module = std::make_shared<Module>();
  at::Tensor forward(const at::Tensor& images) const { return images * module->parameters().front(); }
};

TEST(ExportTorchScript, NetworksOnTheCpu_AreOnlyRead) {
  const ScratchFolder folder;
  const auto victim = freeze(backbones::ResNet18<task>{.width = 4});
  const Pipeline defense{Pinned{}, victim, remaps::Derangement<task>{}};
  const at::Tensor scale = defense.transform().module->parameters().front();
  const void* const memory = scale.const_data_ptr();
  export_torchscript(defense, folder.path / "defended.pt");
  EXPECT_EQ(scale.const_data_ptr(), memory);
  EXPECT_TRUE(scale.requires_grad()) << "training can go on";
  torch::jit::Module loaded = torch::jit::load((folder.path / "defended.pt").string());
  EXPECT_FALSE(loaded.forward({images(2)}).toTensor().requires_grad())
      << "the file's tensors need no gradient";
  export_torchscript(victim, folder.path / "classifier.pt");
}

TEST(ExportTorchScript, NetworksOnAGpu_StayThere) {
  if (!torch::cuda::is_available()) GTEST_SKIP() << "no CUDA device";
  const ScratchFolder folder;
  auto defense = defended();
  const at::Device device(at::kCUDA, 0);
  defense.to(device);
  const void* const memory = defense.backbone().module->parameters().front().const_data_ptr();
  export_torchscript(defense, folder.path / "defended.pt");
  EXPECT_EQ(defense.device(), device);
  EXPECT_EQ(defense.backbone().module->parameters().front().const_data_ptr(), memory);
  ExportedClassifier served(folder.path / "defended.pt");
  const ExportedClassifier copy = served;
  served.to(device);
  EXPECT_EQ(copy.device(), device);
}

TEST(ExportTorchScript, DynamicShapeOrBadPath_IsRefused) {
  const ScratchFolder folder;
  const auto victim = freeze(backbones::ResNet18<>{.task = {{3, dynamic, dynamic}, 10}, .width = 4});
  const Pipeline open{transforms::UNet<>{.image = {3, dynamic, dynamic}, .levels = 2, .width = 4}, victim,
                      remaps::Derangement<>{.classes = 10}};
  testing::expect_words(error_of([&] { export_torchscript(open, folder.path / "a.pt"); }),
                        {"a.pt", "image shape", "3x?x?"});
  const auto file = folder.write("file", "");
  testing::expect_words(error_of([&] { export_torchscript(defended(), file / "a.pt"); }),
                        {"a.pt", "Not a directory"});
}

/// Returns the Python whose PyTorch this test is linked with; empty if LibTorch did not come from
/// one.
std::string python() {
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&c10::GradMode::is_enabled), &info) == 0) return {};
  const fs::path site = fs::weakly_canonical(info.dli_fname).parent_path().parent_path().parent_path();
  const fs::path program = site.parent_path().parent_path().parent_path() / "bin" / "python3";
  return fs::exists(program) && fs::exists(site / "torch" / "__init__.py") ? program.string() : std::string();
}

TEST(ExportDefense, Python_GivesTheSameLogits) {
  const std::string interpreter = python();
  if (interpreter.empty()) GTEST_SKIP() << "this LibTorch did not come with a Python";
  const ScratchFolder folder;
  const auto defense = defended();
  export_torchscript(defense, folder.path / "defended.pt");
  export_pt2(defense, folder.path / "defended.pt2");
  const at::Tensor x = images(5);
  c10::NoGradGuard no_grad;
  const auto sorted = std::get<0>(defense.alarm(x).sort());
  const Gated gated{defense, (sorted[2] + sorted[3]).item<double>() / 2};
  export_pt2(gated, folder.path / "gated.pt2");
  // Both sides can read raw floats without a library.
  const auto raw = [](const at::Tensor& t) {
    const at::Tensor flat = t.contiguous();
    return std::string(static_cast<const char*>(flat.const_data_ptr()), flat.nbytes());
  };
  folder.write("images.raw", raw(x));
  folder.write("logits.raw", raw(defense.forward(x)));
  folder.write("alarm.raw", raw(defense.alarm(x)));
  folder.write("gated.raw", raw(gated.forward(x)));
  folder.write("check.py", R"(
import sys, torch
def raw(name, *shape):
    return torch.frombuffer(bytearray(open(name, "rb").read()), dtype=torch.float32).view(*shape)
from torch.export.pt2_archive._package import load_pt2
images, logits = raw("images.raw", 5, 3, 32, 32), raw("logits.raw", 5, 10)
gated = raw("gated.raw", 5, 10)
both = load_pt2("gated.pt2").exported_programs
both_details = both["details"].module()(images)
programs = load_pt2("defended.pt2").exported_programs
details = programs["details"].module()(images)
differences = [
    torch.jit.load("defended.pt")(images) - logits,
    programs["model"].module()(images) - logits,
    details["logits"] - logits,
    details["alarm"] - raw("alarm.raw", 5),
    both["model"].module()(images) - gated,
    both_details["gated"] - gated,
    both_details["logits"] - logits,
]
print("differences", [difference.abs().max().item() for difference in differences])
sys.exit(0 if all(difference.abs().max() < 1e-5 for difference in differences) else 1)
)");
  const std::string command =
      "cd '" + folder.path.string() + "' && '" + interpreter + "' check.py >out.txt 2>&1";
  EXPECT_EQ(std::system(command.c_str()), 0) << testing::content(folder.path / "out.txt");
}

}  // namespace
}  // namespace refine
