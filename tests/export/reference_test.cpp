// Checkpoints of the authors' code (https://github.com/WhitolfChen/REFINE), as PyTorch wrote them,
// load and give its predictions.

#include <gtest/gtest.h>

#include <ATen/ops/allclose.h>
#include <c10/core/GradMode.h>
#include <filesystem>

#include <refine/backbones/freeze.hpp>
#include <refine/backbones/normalized.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/export/exported_classifier.hpp>
#include <refine/export/torchscript.hpp>
#include <refine/formats/checkpoint.hpp>
#include <refine/nn/module.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/remaps/remaps.hpp>
#include <refine/transforms/unet.hpp>

#include "tests/support/scratch_folder.hpp"

namespace refine {
namespace {

namespace fs = std::filesystem;

TEST(AuthorsCheckpoint, Loaded_GivesTheAuthorsPredictions) {
  constexpr Task task = tasks::cifar10;
  const fs::path folder = "tests/fixtures";
  const auto expected = formats::read_weights(folder / "reference_expected.pth").tensors;

  backbones::ResNet18<task> network{.width = 2};
  nn::load_state_dict(*network.module, formats::read_weights(folder / "reference_ckpt_epoch_150.pth").tensors,
                      "victim");
  network.module->eval();
  const transforms::UNet<task> unet{.width = 2, .activation = transforms::OutputActivation::clamp};
  nn::load_state_dict(*unet.module, formats::read_weights(folder / "reference_unet_epoch150.pth").tensors,
                      "transform");
  const Pipeline defense{unet, freeze(backbones::Normalized{network, normalizations::cifar10}),
                         remaps::Derangement<task>{.permutation = formats::read_permutation(
                                                       folder / "reference_label_shuffle.pth")},
                         PixelDomain::reference};

  c10::NoGradGuard no_grad;
  const at::Tensor& images = expected.at("images");
  EXPECT_TRUE(at::allclose(defense.forward(images).softmax(1), expected.at("expected"), 1e-5, 1e-5));

  const testing::ScratchFolder scratch;
  export_torchscript(defense, scratch.path / "defended.pt");
  EXPECT_TRUE(at::allclose(ExportedClassifier(scratch.path / "defended.pt").forward(images).softmax(1),
                           expected.at("expected"), 1e-5, 1e-5));
}

}  // namespace
}  // namespace refine
