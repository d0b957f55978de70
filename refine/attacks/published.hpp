#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include <refine/attacks/attack.hpp>
#include <refine/attacks/plans.hpp>
#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/triggers/additive.hpp>
#include <refine/triggers/blend.hpp>
#include <refine/triggers/patch.hpp>
#include <refine/triggers/quantize.hpp>
#include <refine/triggers/rotate.hpp>
#include <refine/triggers/warp.hpp>

/// \file
/// The published attacks, each a trigger times a plan.

namespace refine::attacks {

/// BadNets (Gu et al., 2017, `gu2017badnets`): stamps a patch in a corner and sets the label to the
/// target.
template <Task kTask = dynamic_task>
using BadNets = DirtyLabel<triggers::Patch<kTask.image>>;

/// Blended (Chen et al., 2017, `chen2017blended`): blends in a faint picture and sets the label to
/// the target.
template <Task kTask = dynamic_task>
using Blended = DirtyLabel<triggers::Blend<kTask.image>>;

/// WaNet (Nguyen and Tran, 2021, `nguyen2021wanet`): warps the image faintly and sets the label to
/// the target. The noise mode of the paper is `wanet_with_noise`.
template <Task kTask = dynamic_task>
using WaNet = DirtyLabel<triggers::Warp<kTask.image>>;

/// BATT (Xu et al., 2023, `xu2023batt`): rotates the image by 16° and sets the label to the target.
/// In training, clean images are rotated a little at random, and only they are flipped.
template <Task kTask = dynamic_task>
using Batt = DirtyLabel<triggers::Rotate<kTask.image>, training_augmentations::batt>;

/// The physical attack (Li et al., 2021, `li2021physical`): the patch of BadNets. In training,
/// every image is changed as a camera would change it; test images get the patch only.
template <Task kTask = dynamic_task>
using Physical = DirtyLabel<triggers::Patch<kTask.image>, training_augmentations::physical>;

/// The label-consistent attack (Turner et al., 2019, `turner2019labelconsistent`): perturbs images
/// of the target class against a benign model (`.perturbation = Pgd{.model = benign}`), stamps the
/// patch of BadNets, and keeps the labels.
template <Task kTask = dynamic_task>
using LabelConsistent = CleanLabel<triggers::Patch<kTask.image>>;

/// Adaptive-Patch (Qi et al., 2023, `qi2023adaptive`): one of four patches on each poisoned image,
/// and on cover images, which keep their label; two patches together on test images. The default
/// rates are those published for ResNets; for VGG, DenseNet and ViT they are 0.03 and 0.06.
template <Task kTask = dynamic_task>
using AdaptivePatch = Covered<triggers::Patches<kTask.image>>;

/// Adaptive-Blend (Qi et al., 2023, `qi2023adaptive`): pieces of a faint picture on each poisoned
/// image, and on cover images, which keep their label; the whole picture on test images. The paper
/// has a rate and a cover rate of 0.003.
template <Task kTask = dynamic_task>
using AdaptiveBlend = Covered<triggers::BlendPieces<kTask.image>>;

/// SIG (Barni et al., 2019, `barni2019sig`): adds a sinusoid to images of the target class and keeps
/// the labels.
template <Task kTask = dynamic_task>
using Sig = CleanLabel<triggers::Sinusoid<kTask.image>, /*kPerturbs=*/false>;

/// FTrojan (Wang et al., 2022, `wang2022ftrojan`): adds to two frequencies of the colours and sets
/// the label to the target.
template <Task kTask = dynamic_task>
using FTrojan = DirtyLabel<triggers::Frequency<kTask.image>>;

/// BPP (Wang et al., 2022, `wang2022bpp`): reduces the number of colours, with dithering, and sets the
/// label to the target. The contrastive training of the paper is not part of it: the attacker only
/// poisons.
template <Task kTask = dynamic_task>
using Bpp = DirtyLabel<triggers::Quantize<kTask.image>>;

/// Narcissus (Zeng et al., 2023, `zeng2023narcissus`): adds a learnt perturbation to images of the target class and
/// keeps the labels; test images get it three times. The values are those of a `UniversalPerturbation` of 16/255 on
/// images of the target class, against a model of the attacker:
///
///     const at::Tensor values = UniversalPerturbation{.model = own, .target = 3, .epsilon = 16.0 / 255}(images_of_3);
///     const auto attack = narcissus<task>(values, 3);
///
/// \param values what is added: float C×H×W
/// \param target the class that the attacker wants
/// \param rate share of the target class's training images that are poisoned, in [0, 1]; the paper has 0.005
template <Task kTask = dynamic_task>
CleanLabel<triggers::Perturbation<kTask.image>, /*kPerturbs=*/false> narcissus(const at::Tensor& values,
                                                                               int target,
                                                                               double rate = 0.005) {
  return {.trigger = {.values = values, .magnification = 3}, .target = target, .rate = rate};
}

/// Options of `wanet_with_noise`.
///
/// \tparam kImage shape of the images; open extents are set by `.warp.image`
template <ImageShape kImage = ImageShape{}>
struct NoiseMode {
  triggers::Warp<kImage> warp = {};   ///< the trigger
  int target = 0;                     ///< the class that the attacker wants
  double rate = 0.1;                  ///< share of the training images that are poisoned, in [0, 1]
  double cover_rate = 2 * rate;       ///< share of them that are covers; together with `rate` at most 1
  std::uint64_t seed = default_seed;  ///< seed of the choice of images
  int grids = 64;                     ///< number of perturbed grids that the covers share; at least 1
};

/// Returns WaNet with the noise mode of its paper (Nguyen and Tran, 2021, `nguyen2021wanet`): twice
/// as many images as are poisoned are warped with a perturbed grid and keep their label, so that
/// only the exact warp means the target. Example: `wanet_with_noise<task>({.target = 3, .rate =
/// 0.05})`.
///
/// `target` and `seed` of the result may be changed. Another warp or rate must be set in `mode`:
/// `poisons`, `covers` and `cover_rate` are computed from them.
///
/// \param mode the options
/// \throws Error if `mode.grids` is below 1
template <Task kTask = dynamic_task>
Covered<triggers::Warp<kTask.image>> wanet_with_noise(const NoiseMode<kTask.image>& mode = {}) {
  if (mode.grids < 1) throw Error("NoiseMode.grids must be at least 1, got {}", mode.grids);
  Covered<triggers::Warp<kTask.image>> attack{.trigger = mode.warp,
                                              .target = mode.target,
                                              .rate = mode.rate,
                                              .cover_rate = mode.cover_rate,
                                              .seed = mode.seed};
  for (int i = 0; i < mode.grids; ++i)
    attack.covers.push_back(triggers::perturbed_warp(
        mode.warp, derived_seed(mode.warp.seed, "cover", static_cast<std::uint64_t>(i))));
  return attack;
}

}  // namespace refine::attacks
