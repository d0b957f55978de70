// Compares triggered images with those that the data sets of the authors' code pass to a victim.

#include <gtest/gtest.h>

#include <ATen/ops/cat.h>

#include <cstdint>
#include <string>
#include <vector>

#include <refine/attacks/pgd.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/core/task.hpp>
#include <refine/data/dataset.hpp>
#include <refine/triggers/blend.hpp>
#include <refine/triggers/detail/reference_rotate.hpp>
#include <refine/triggers/patch.hpp>
#include <refine/triggers/trigger.hpp>
#include <refine/triggers/warp.hpp>

#include "tests/parity/reference_values.hpp"

namespace refine {
namespace {

using testing::expect_parity;
using testing::reference;

constexpr ImageShape image = {3, 32, 32};

/// Compares triggered images, in [0, 1], after normalization.
void expect_triggered(const std::string& attack, const at::Tensor& images) {
  expect_parity(attack, testing::normalized(images), reference("trigger." + attack));
}

/// Stamps a patch on bytes, as the authors' code does.
at::Tensor stamp_bytes(const triggers::Patch<image>& patch) {
  return data::to_float(triggers::stamp(patch, testing::reference_bytes()));
}

/// Returns an overlay with the mask of the authors' code: where any channel is above 0.
triggers::Overlay<image> overlay(int i, double opacity) {
  const at::Tensor picture = reference("patches.pictures")[i];
  return {.picture = picture, .mask = picture.gt(0).any(0).to(at::kFloat), .opacity = opacity};
}

TEST(TriggerParity, Patch_MatchesReference) {
  const triggers::Patch<image> patch{.pattern = reference("patch.pattern")};
  for (const char* attack : {"BadNets", "Physical", "LabelConsistent"})
    expect_triggered(attack, stamp_bytes(patch));
}

TEST(TriggerParity, Blend_MatchesReference) {
  const triggers::Blend<image> blend{.pattern = reference("blend.pattern")};
  expect_triggered("Blended", blend.apply(testing::reference_images()));
}

TEST(TriggerParity, Warp_MatchesReference) {
  const at::Tensor grid = reference("warp.grid");
  expect_parity("WaNet's grid", triggers::warping_grid(reference("warp.control"), image, 0.5), grid);
  expect_triggered("WaNet", triggers::Warp<image>{.grid = grid}.apply(testing::reference_images()));
}

TEST(TriggerParity, Rotation_MatchesReference) {
  expect_triggered("BATT", triggers::ReferenceRotate<image>{}.apply(testing::reference_images()));
}

TEST(TriggerParity, PatchesInTraining_MatchReference) {
  const std::vector<double> opacities = {0.5, 0.5, 0.2, 0.3};
  const at::Tensor which = reference("patches.which"), images = testing::reference_images();
  std::vector<at::Tensor> each;
  for (std::int64_t n = 0; n < images.size(0); ++n) {
    const int i = which[n].item<int>();
    each.push_back(overlay(i, opacities.at(static_cast<std::size_t>(i))).apply(images.slice(0, n, n + 1)));
  }
  expect_triggered("AdaptivePatch.trained", at::cat(each));
}

TEST(TriggerParity, PatchesTogether_MatchReference) {
  // Where two overlap, the first one of the authors' code is on top.
  const triggers::Patches<image> patches{.overlays = {overlay(1, 0.5), overlay(0, 0.5)}};
  expect_triggered("AdaptivePatch", patches.apply(testing::reference_images()));
}

TEST(TriggerParity, Pgd_MatchesReference) {
  const backbones::ResNet18<tasks::cifar10> benign{.width = 4};
  testing::fill(*benign.module, 0.3);
  const attacks::Pgd pgd{.model = benign, .steps = 10};
  const at::Tensor ours = pgd(testing::reference_bytes(), reference("pgd.labels"));
  // The authors' code truncates, so that 103.99999 becomes 103; this library rounds. A gradient of
  // almost zero may have another sign.
  const at::Tensor levels = data::to_bytes(reference("pgd")), same = ours.eq(levels);
  EXPECT_GE(same.to(at::kDouble).mean().item<double>(), 0.999);
  RecordProperty("difference of PGD", std::to_string(ours.ne(levels).sum().item<std::int64_t>()));
}

}  // namespace
}  // namespace refine
