// Defenses whose transform sees and draws images of other sizes: saved, loaded, exported.

#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/rand.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>
#include <torch/csrc/jit/api/module.h>

#include <filesystem>
#include <string>
#include <vector>

#include <refine/backbones/any_backbone.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/export/export.hpp>
#include <refine/export/exported_classifier.hpp>
#include <refine/nn/torch_random.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/programs/encoder.hpp>
#include <refine/remaps/remaps.hpp>
#include <refine/transforms/encoded.hpp>
#include <refine/transforms/resized.hpp>
#include <refine/transforms/unet.hpp>

#include "tests/support/error_of.hpp"
#include "tests/support/scratch_folder.hpp"

namespace refine {
namespace {

namespace fs = std::filesystem;
using refine::testing::error_of;
using refine::testing::expect_words;
using refine::testing::ScratchFolder;

constexpr Task large_task{ImageShape{3, 40, 40}, 5};

/// Writes a TorchScript program that returns maps N×4×h×w.
/// \param activation its last operator
fs::path write_encoder(const fs::path& file, std::uint64_t seed, const std::string& activation = "relu") {
  torch::jit::Module program = nn::with_torch_seed(seed, [&] {
    torch::jit::Module m(c10::QualifiedName("__torch__.Encoder"));
    m.register_parameter("kernel", at::rand({4, 3, 3, 3}) - 0.5, false);
    m.define("def forward(self, x):\n    return torch." + activation + "(torch.conv2d(x, self.kernel))\n");
    m.eval();
    return m;
  });
  program.save(file.string());
  return file;
}

AnyPipeline encoded_pipeline(const fs::path& encoder_file, std::uint64_t seed = 1, int width = 8) {
  const transforms::ProgramEncoder encoder{encoder_file,
                                           {.image = {3, 24, 24}, .normalization = normalizations::imagenet}};
  return {transforms::Encoded<transforms::ProgramEncoder>{.image = large_task.image,
                                                          .encoder = encoder,
                                                          .decoder = {.features = encoder.features,
                                                                      .image = {3, 20, 20},
                                                                      .bottleneck = 3,
                                                                      .width = width,
                                                                      .seed = seed}},
          freeze(backbones::AnyBackbone(backbones::ResNet18<large_task>{.width = 4})),
          remaps::Derangement<>{.classes = 5, .seed = seed}};
}

AnyPipeline resized_pipeline(std::uint64_t seed = 1) {
  return {transforms::Resized<transforms::UNet<>>{
              .image = large_task.image,
              .inner = {.image = {3, 16, 16}, .levels = 2, .width = 4, .seed = seed},
              .output_shape = {3, 24, 24}},
          freeze(backbones::AnyBackbone(backbones::ResNet18<large_task>{.width = 4})),
          remaps::Derangement<>{.classes = 5, .seed = seed}};
}

at::Tensor large_images(std::int64_t n) {
  return nn::with_torch_seed(1, [&] { return at::rand({n, 3, 40, 40}); });
}

TEST(ExportTorchScript, TransformOfOtherSizes_GivesThePipelinesLogits) {
  const ScratchFolder scratch;
  const AnyPipeline defenses[] = {encoded_pipeline(write_encoder(scratch.path / "encoder.pt", 1)),
                                  resized_pipeline()};
  const std::int64_t drawn[] = {20, 24};
  const c10::NoGradGuard no_grad;
  for (int i = 0; i < 2; ++i) {
    export_torchscript(defenses[i], scratch.path / "defended.pt");
    const ExportedClassifier exported(scratch.path / "defended.pt");
    EXPECT_EQ(exported.task(), large_task);
    for (const std::int64_t n : {1, 5}) {
      const at::Tensor x = large_images(n);
      EXPECT_EQ(exported.transformed(x).sizes(), (std::vector<std::int64_t>{n, 3, drawn[i], drawn[i]}));
      EXPECT_TRUE(at::allclose(exported.transformed(x), defenses[i].transformed(x), 1e-4, 1e-5));
      EXPECT_TRUE(at::allclose(exported.forward(x), defenses[i].forward(x), 1e-4, 1e-4));
      EXPECT_TRUE(at::allclose(exported.undefended(x), defenses[i].undefended(x), 1e-4, 1e-4));
      EXPECT_TRUE(at::allclose(exported.alarm(x), defenses[i].alarm(x), 1e-3, 1e-4));
    }
  }
}

TEST(SaveDefense, Encoded_HoldsTheDecoderAndIsLoadedBehindItsOwnEncoder) {
  const ScratchFolder scratch;
  const fs::path file = scratch.path / "defense.safetensors";
  const fs::path own = write_encoder(scratch.path / "encoder.pt", 1);
  const AnyPipeline saved = encoded_pipeline(own);
  save(saved, file, recipes::encoded);
  AnyPipeline loaded = encoded_pipeline(own, /*seed=*/2);
  const at::Tensor x = large_images(2);
  const c10::NoGradGuard no_grad;
  EXPECT_FALSE(at::equal(loaded.forward(x), saved.forward(x)));
  load(loaded, file);
  EXPECT_TRUE(at::equal(loaded.forward(x), saved.forward(x)));
  for (const auto& [name, tensor] : formats::read_safetensors(file).tensors)
    EXPECT_EQ(name.find("program"), std::string::npos) << name;

  for (const fs::path& another : {write_encoder(scratch.path / "other.pt", 2),
                                  write_encoder(scratch.path / "same_weights.pt", 1, "tanh")}) {
    AnyPipeline other = encoded_pipeline(another);
    expect_words(error_of([&] { load(other, file); }), {"defense.safetensors", "another encoder"});
  }
  // The graph that other versions have written is not comparable; the weights are.
  auto content = formats::read_safetensors(file);
  std::string& encoder = content.metadata.at("encoder");
  encoder.replace(encoder.find("LibTorch ") + 9, 1, "1");
  const fs::path older = scratch.path / "older.safetensors";
  formats::write_safetensors(older, content);
  AnyPipeline same_weights = encoded_pipeline(scratch.path / "same_weights.pt"),
              another = encoded_pipeline(scratch.path / "other.pt");
  load(same_weights, older);
  expect_words(error_of([&] { load(another, older); }), {"another encoder"});
  AnyPipeline wider = encoded_pipeline(own, 1, /*width=*/12);
  expect_words(error_of([&] { load(wider, file); }), {"transform differs", "width 8", "width 12"});
  AnyPipeline resized = resized_pipeline();
  expect_words(error_of([&] { load(resized, file); }), {"transform differs"});
}

}  // namespace
}  // namespace refine
