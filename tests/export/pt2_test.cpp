// Defended classifiers as .pt2: what the file computes, and which bytes of the victim it keeps. That
// PyTorch's own loader reads it is checked by torchscript_test.cpp, and in full by tools/pt2_check.py.

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <torch/csrc/jit/api/module.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <refine/backbones/any_backbone.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/normalized.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/backbones/zoo.hpp>
#include <refine/export/export_defense.hpp>
#include <refine/export/exported_classifier.hpp>
#include <refine/export/pt2.hpp>
#include <refine/formats/exported_program.hpp>
#include <refine/nn/torch_random.hpp>
#include <refine/pipeline/gated.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/programs/detail/program_checks.hpp>
#include <refine/programs/encoder.hpp>
#include <refine/programs/exported_program.hpp>
#include <refine/programs/torchscript.hpp>
#include <refine/remaps/remaps.hpp>
#include <refine/transforms/encoded.hpp>
#include <refine/transforms/unet.hpp>

#include "tests/export/narrow_network.hpp"
#include "tests/support/error_of.hpp"
#include "tests/support/scratch_folder.hpp"

namespace refine {
namespace {

using testing::defended;
using testing::error_of;
using testing::expect_words;
using testing::narrow_network;
using testing::ScratchFolder;

constexpr Task cifar = tasks::cifar10;

double difference(const at::Tensor& a, const at::Tensor& b) {
  EXPECT_EQ(a.sizes(), b.sizes());
  return (a - b).abs().max().item<double>();
}

at::Tensor random_images(std::int64_t n, const ImageShape& shape) {
  return nn::with_torch_seed(1, [&] { return at::rand({n, shape.channels, shape.height, shape.width}); });
}

/// Expects that a file computes what a pipeline does, for several numbers of images.
void expect_same(const ExportedClassifier& served, const auto& defense, const ImageShape& shape) {
  const c10::NoGradGuard no_grad;
  for (const std::int64_t n : {1, 2, 7}) {
    const at::Tensor x = random_images(n, shape);
    EXPECT_LT(difference(served.forward(x), defense.forward(x)), 1e-5) << n;
    EXPECT_LT(difference(served.transformed(x), defense.transformed(x)), 1e-5) << n;
    EXPECT_LT(difference(served.undefended(x), defense.undefended(x)), 1e-5) << n;
    EXPECT_LT(difference(served.alarm(x), defense.alarm(x)), 1e-5) << n;
  }
}

std::string pt2_victim(const std::string& name) {
  return "tests/fixtures/exported/" + name + ".pt2";
}

class Pt2Networks : public ::testing::TestWithParam<std::string_view> {};

TEST_P(Pt2Networks, WrittenAndRead_MatchThePipeline) {
  const AnyPipeline defense = defended(narrow_network(GetParam()));
  const ScratchFolder folder;
  export_defense(defense, folder.path / "defended.pt2");
  expect_same(ExportedClassifier(folder.path / "defended.pt2"), defense, defense.task().image);
}

INSTANTIATE_TEST_SUITE_P(Zoo, Pt2Networks, ::testing::ValuesIn(backbones::network_names()),
                         [](const auto& info) { return std::string(info.param); });

auto defended_resnet(PixelDomain domain = PixelDomain::image) {
  const auto victim = backbones::Normalized{backbones::ResNet18<cifar>{.width = 4}, normalizations::cifar10};
  return Pipeline{transforms::UNet<cifar>{.levels = 2, .width = 4}, freeze(victim),
                  remaps::Derangement<cifar>{}, domain};
}

TEST(ExportPt2, UNetInBothDomains_HasTheDescription) {
  for (const PixelDomain domain : {PixelDomain::image, PixelDomain::reference}) {
    const auto defense = defended_resnet(domain);
    const ScratchFolder folder;
    export_pt2(defense, folder.path / "defended.pt2", {{"note", "a test"}});
    const ExportedClassifier served(folder.path / "defended.pt2");
    expect_same(served, defense, cifar.image);
    EXPECT_EQ(served.task(), cifar);
    EXPECT_EQ(served.about()["note"], "a test");
    EXPECT_EQ(served.about()["permutation"], defense.remap().permutation);
    EXPECT_EQ(served.about()["refine"], "defended");
  }
}

TEST(ExportPt2, AlarmThreshold_AddsBothAnswers) {
  const ScratchFolder folder;
  const auto defense = defended_resnet();
  const c10::NoGradGuard no_grad;
  const at::Tensor x = random_images(8, cifar.image), scores = defense.alarm(x);
  const auto sorted = std::get<0>(scores.sort());
  const double threshold = (sorted[3] + sorted[4]).item<double>() / 2;  // half of them raise the alarm
  const at::Tensor expected = defense.forward(x);
  for (std::int64_t i = 0; i < 8; ++i) {
    if (scores[i].item<double>() <= threshold) expected[i].copy_(defense.undefended(x)[i]);
  }
  const std::filesystem::path both = folder.path / "both.pt2", gated = folder.path / "gated.pt2",
                              one = folder.path / "one.pt2";
  export_defense(defense, both, {}, {.alarm_threshold = threshold});
  export_defense(Gated{defense, threshold}, gated);
  export_defense(defense, one);
  for (const auto& file : {both, gated}) {
    const bool is_gated = file == gated;
    const ExportedClassifier served(file);
    EXPECT_EQ(served.answer(), is_gated ? Answer::gated : Answer::defended);
    EXPECT_EQ(served.about()["answer"], is_gated ? "gated" : "defended");
    EXPECT_LT(difference(served.forward(x), is_gated ? expected : defense.forward(x)), 1e-5);
    EXPECT_LT(difference(backbones::ExportedProgram<>(file).forward(x), served.forward(x)), 1e-5) << "model";
    const ExportedClassifier other(file, formats::Trust::checked,
                                   is_gated ? Answer::defended : Answer::gated);
    EXPECT_LT(difference(other.forward(x), is_gated ? defense.forward(x) : expected), 1e-5);
    const auto details = formats::read_exported_program(file, formats::Trust::checked, "details");
    ASSERT_EQ(details.outputs.size(), 5u);
    EXPECT_EQ(details.outputs[0].name, "logits");
    EXPECT_EQ(details.outputs[4].name, "gated");
  }
  // A score at the threshold is decided by rounding, which is no reason to refuse the file.
  const double at_score = defense.alarm(backbones::detail::ramp(3, cifar.image))[1].item<double>();
  export_defense(Gated{defense, at_score}, folder.path / "edge.pt2");

  EXPECT_EQ(ExportedClassifier(one).answer(), Answer::defended);
  expect_words(error_of([&] { ExportedClassifier(one, formats::Trust::checked, Answer::gated); }),
               {"one.pt2", "gated", "--answer"});
  expect_words(
      error_of([&] { export_defense(defense, folder.path / "a.pt2", {}, {.answer = Answer::gated}); }),
      {"a.pt2", "threshold"});
  expect_words(error_of([&] { export_defense(defense, folder.path / "a.pt2", {}, {.alarm_threshold = 2}); }),
               {"a.pt2", "[0, 1]", "got 2"});
  EXPECT_FALSE(std::filesystem::exists(folder.path / "a.pt2"));
}

// The program "model" alone takes the place of the victim's file.
TEST(ExportPt2, File_IsAVictimAndHasNoCode) {
  const auto defense = defended_resnet();
  const ScratchFolder folder;
  export_pt2(defense, folder.path / "defended.pt2");
  const auto listing =
      formats::inspect_exported_program(formats::read_archive(folder.path / "defended.pt2"), "defended.pt2");
  EXPECT_TRUE(listing.objections.empty());
  EXPECT_TRUE(listing.operators.contains("aten::conv2d.default"));
  EXPECT_FALSE(listing.operators.contains("aten::_convolution.default"));
  const backbones::ExportedProgram<> again(folder.path / "defended.pt2");
  EXPECT_EQ(again.task, cifar);
  const c10::NoGradGuard no_grad;
  const at::Tensor x = random_images(4, cifar.image);
  EXPECT_LT(difference(again.forward(x), defense.forward(x)), 1e-5);
}

TEST(ExportPt2, ClassifierAlone_KeepsItsLogits) {
  const auto victim = freeze(backbones::ResNet18<cifar>{.width = 4});
  const ScratchFolder folder;
  export_pt2(victim, folder.path / "victim.pt2");
  const backbones::ExportedProgram<> again(folder.path / "victim.pt2");
  const c10::NoGradGuard no_grad;
  const at::Tensor x = random_images(3, cifar.image);
  EXPECT_LT(difference(again.forward(x), victim.forward(x)), 1e-5);
  expect_words(error_of([&] { ExportedClassifier(folder.path / "victim.pt2"); }),
               {"victim.pt2", "'details'", "'logits'"});
}

class Pt2Victims : public ::testing::TestWithParam<const char*> {};

TEST_P(Pt2Victims, Defended_MatchesThePipeline) {
  const std::string name = GetParam();
  const backbones::AnyBackbone victim{backbones::Normalized{
      backbones::ExportedProgram<>(pt2_victim(name), {.output = name == "several" ? "logits" : ""}),
      Normalization{{0.5, 0.5, 0.5}, {0.5, 0.5, 0.5}}}};
  const AnyPipeline defense = defended(victim);
  const ScratchFolder folder;
  export_defense(defense, folder.path / "defended.pt2");
  expect_same(ExportedClassifier(folder.path / "defended.pt2"), defense, victim.task.image);
}

INSTANTIATE_TEST_SUITE_P(All, Pt2Victims,
                         ::testing::Values("mixed", "decomposed", "in_place", "several", "half", "no_grad",
                                           "probabilities", "resizable", "linear"),
                         [](const auto& info) { return std::string(info.param); });

TEST(ExportPt2, VictimsGraph_IsKept) {
  const formats::ExportedProgram original = formats::read_exported_program(pt2_victim("mixed"));
  const backbones::AnyBackbone victim{backbones::ExportedProgram<>(pt2_victim("mixed"))};
  const ScratchFolder folder;
  export_defense(defended(victim), folder.path / "defended.pt2");
  const formats::ExportedProgram written = formats::read_exported_program(folder.path / "defended.pt2");
  std::vector<std::pair<std::string, std::size_t>> expected, found;  // operator, arguments
  for (const auto& node : original.nodes) expected.emplace_back(node.target, node.inputs.size());
  for (const auto& node : written.nodes) {
    if (node.name.starts_with("victim_")) found.emplace_back(node.target, node.inputs.size());
  }
  EXPECT_EQ(found, expected);
  EXPECT_TRUE(std::ranges::any_of(
      expected, [](const auto& call) { return call.first == "aten::batch_norm.default"; }));  // not folded
  std::size_t tensors = 0;
  for (const auto& [name, stored] : original.tensors) {
    const auto kept = written.tensors.find("victim." + name);
    if (kept == written.tensors.end()) continue;  // the graph does not use it
    ++tensors;
    EXPECT_EQ(written.bytes.at(kept->second.entry), original.bytes.at(stored.entry)) << name;
    EXPECT_EQ(kept->second.sizes, stored.sizes) << name;
    EXPECT_EQ(kept->second.is_parameter, stored.is_parameter) << name;
  }
  EXPECT_GT(tensors, 20u);
}

// Both are the same network, so that their tensors have the same names.
TEST(ExportPt2, EncoderAndVictimOfTheSameNames_KeepTheirWeights) {
  const ScratchFolder folder;
  const auto encoder_file = folder.path / "encoder.pt2", victim_file = folder.path / "victim.pt2";
  export_pt2(freeze(backbones::ResNet18<cifar>{.width = 4, .seed = 1}), encoder_file);
  export_pt2(freeze(backbones::ResNet18<cifar>{.width = 4, .seed = 2}), victim_file);
  const transforms::ProgramEncoder encoder(encoder_file, {.image = cifar.image});
  const AnyPipeline defense{
      transforms::Encoded<transforms::ProgramEncoder>{
          .image = cifar.image,
          .encoder = encoder,
          .decoder = {.features = encoder.features, .image = {3, 32, 32}, .bottleneck = 3, .width = 8}},
      freeze(backbones::AnyBackbone{backbones::ExportedProgram<>(victim_file)}),
      remaps::Derangement<>{.classes = 10}};
  const auto file = folder.path / "defended.pt2";
  export_defense(defense, file);
  expect_same(ExportedClassifier(file), defense, cifar.image);
  const formats::ExportedProgram written =
      formats::read_exported_program(file, formats::Trust::checked, "details");
  const auto expect_tensors = [&](const std::filesystem::path& source, const std::string& prefix) {
    const formats::ExportedProgram original = formats::read_exported_program(source);
    EXPECT_GT(original.tensors.size(), 20u);
    for (const auto& [name, stored] : original.tensors) {
      EXPECT_EQ(written.bytes.at(written.tensors.at(prefix + name).entry), original.bytes.at(stored.entry))
          << prefix << name;
    }
  };
  expect_tensors(victim_file, "victim.");
  expect_tensors(encoder_file, "encoder.");
}

// Both programs compute with the same tensors, and the file has them once.
TEST(ExportPt2, Programs_ShareTheirTensors) {
  const ScratchFolder folder;
  export_pt2(defended_resnet(), folder.path / "defended.pt2");
  const auto archive = formats::read_archive(folder.path / "defended.pt2");
  std::set<std::string> contents;
  std::size_t weights = 0;
  for (const auto& [entry, bytes] : archive.entries) {
    if (!entry.starts_with("data/weights/weight_")) continue;
    ++weights;
    contents.insert(bytes);
  }
  const auto model = formats::read_exported_program(folder.path / "defended.pt2");
  const auto details =
      formats::read_exported_program(folder.path / "defended.pt2", formats::Trust::checked, "details");
  EXPECT_EQ(model.tensors.size(), weights);
  EXPECT_EQ(details.tensors.size(), weights);
  for (const auto& [name, tensor] : model.tensors) {
    EXPECT_EQ(details.tensors.at(name).entry, tensor.entry) << name;
  }
  ASSERT_EQ(details.outputs.size(), 4u);
  EXPECT_EQ(details.outputs[1].name, "alarm");
}

torch::jit::Module script(const std::string& code) {
  return nn::with_torch_seed(3, [&] {
    torch::jit::Module m("foreign");
    m.register_parameter("kernel", at::randn({5, 3, 3, 3}), false);
    m.define(code);
    m.eval();
    return m;
  });
}

TEST(ExportPt2, TorchScriptVictim_IsWrittenUnlessItHasControlFlow) {
  constexpr ImageShape shape{3, 12, 20};
  const auto defense_of = [&](const std::string& code) {
    return defended(
        backbones::AnyBackbone{backbones::Scripted<>(script(code), "foreign", {.task = {shape, 5}})});
  };
  const ScratchFolder folder;
  const AnyPipeline plain = defense_of(R"(def forward(self, x):
    y = torch.conv2d(x, self.kernel)
    return torch.mean(y.view([x.size(0), 5, -1]), [2])
)");
  export_defense(plain, folder.path / "plain.pt2");
  expect_same(ExportedClassifier(folder.path / "plain.pt2"), plain, shape);
  const std::string why = error_of([&] {
    export_defense(defense_of(R"(def forward(self, x):
    y = torch.mean(torch.conv2d(x, self.kernel), [2, 3])
    if x.size(0) > 2:
        y = y * 2
    return y
)"),
                   folder.path / "branch.pt2");
  });
  expect_words(why, {"branch.pt2", "control flow", "prim::If", "write TorchScript", "torch.export"});
  EXPECT_FALSE(std::filesystem::exists(folder.path / "branch.pt2"));
}

TEST(ExportPt2, VictimForOneBatchSize_IsRefused) {
  const backbones::AnyBackbone victim{backbones::ExportedProgram<>(pt2_victim("fixed"))};
  const ScratchFolder folder;
  expect_words(error_of([&] { export_defense(defended(victim), folder.path / "defended.pt2"); }),
               {"fixed.pt2", "batches of", "dynamic_shapes"});
  expect_words(error_of([&] { check_pt2_export(freeze(victim), "defended.pt2"); }), {"batches of"});
  export_defense(defended(victim), folder.path / "defended.pt");  // TorchScript has a loop
}

/// A transform that the trace does not describe.
struct Odd {
  enum class Kind { depends_on_count, depends_on_content };

  ImageShape image = cifar.image;
  Kind kind = Kind::depends_on_count;
  std::shared_ptr<torch::nn::Module> module = std::make_shared<torch::nn::Module>("Odd");

  at::Tensor forward(const at::Tensor& images) const {
    if (kind == Kind::depends_on_count) return images.size(0) > 2 ? images * 0.5 : images * 0.9;
    return images + at::nonzero(images > 0.7).sum() * 0;
  }
};

TEST(ExportPt2, NetworkThatTheTraceDoesNotDescribe_IsRefused) {
  const auto victim = freeze(backbones::ResNet18<cifar>{.width = 4});
  const ScratchFolder folder;
  const Pipeline by_count{Odd{}, victim, remaps::Derangement<cifar>{}};
  expect_words(error_of([&] { export_pt2(by_count, folder.path / "a.pt2"); }), {"a.pt2", "every batch"});
  const Pipeline by_content{Odd{.kind = Odd::Kind::depends_on_content}, victim, remaps::Derangement<cifar>{}};
  expect_words(error_of([&] { export_pt2(by_content, folder.path / "b.pt2"); }),
               {"b.pt2", "depends on what the images show"});
  EXPECT_TRUE(std::filesystem::is_empty(folder.path));
}

TEST(ExportPt2, DynamicShapeOrBadPath_IsRefused) {
  const ScratchFolder folder;
  const auto victim = freeze(backbones::ResNet18<>{.task = {{3, dynamic, dynamic}, 10}, .width = 4});
  const Pipeline open{transforms::UNet<>{.image = {3, dynamic, dynamic}, .levels = 2, .width = 4}, victim,
                      remaps::Derangement<>{.classes = 10}};
  expect_words(error_of([&] { export_pt2(open, folder.path / "a.pt2"); }), {"a.pt2", "image shape", "3x?x?"});
  const auto file = folder.write("file", "");
  expect_words(error_of([&] { export_pt2(defended_resnet(), file / "a.pt2"); }),
               {"a.pt2", "Not a directory"});
}

TEST(ExportPt2, FullDisk_LeavesTheOldFile) {
  const ScratchFolder folder;
  const auto defense = defended_resnet();
  const auto file = folder.write("defended.pt2", "old");
  rlimit old{};
  ::getrlimit(RLIMIT_FSIZE, &old);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit limit{20'000, old.rlim_max};
  ::setrlimit(RLIMIT_FSIZE, &limit);
  const std::string why = error_of([&] { export_pt2(defense, file); });
  ::setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, handler);
  expect_words(why, {"defended.pt2"});
  EXPECT_EQ(testing::content(file), "old");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path), {}), 1);
}

TEST(ExportedClassifier, OtherPt2File_IsRefused) {
  expect_words(error_of([&] { ExportedClassifier(pt2_victim("linear")); }), {"linear.pt2", "refine.json"});
}

}  // namespace
}  // namespace refine
