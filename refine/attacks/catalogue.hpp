#pragma once

#include <refine/attacks/clean_label.hpp>
#include <refine/attacks/covered.hpp>
#include <refine/attacks/demand.hpp>
#include <refine/attacks/dirty_label.hpp>
#include <refine/core/task.hpp>
#include <refine/triggers/blend.hpp>
#include <refine/triggers/patch.hpp>
#include <refine/triggers/patches.hpp>
#include <refine/triggers/rotate.hpp>
#include <refine/triggers/warp.hpp>

/// The published attacks, as aliases of trigger × poisoning plan.
namespace refine::attacks {

/// Gu et al., 2017, `gu2017badnets`: a patch in the corner, label := target.
template <Task kTask = dynamic_task>
using BadNets = DirtyLabel<triggers::Patch<kTask.image>>;

/// Chen et al., 2017, `chen2017blended`: a faint picture over the image, label := target.
template <Task kTask = dynamic_task>
using Blended = DirtyLabel<triggers::Blend<kTask.image>>;

/// Nguyen and Tran, 2021, `nguyen2021wanet`: a faint warping of the image, label := target. The paper's noise
/// mode is `wanet_with_noise`.
template <Task kTask = dynamic_task>
using WaNet = DirtyLabel<triggers::Warp<kTask.image>>;

/// Xu et al., 2023, `xu2023batt`: the image turned by 16°, label := target; clean images turn a little, at
/// random, in every epoch, and the victim's recipe mirrors clean ones alone.
template <Task kTask = dynamic_task>
using Batt = DirtyLabel<triggers::Rotate<kTask.image>, demands::batt>;

/// Li et al., 2021, `li2021physical`: the patch of BadNets; in training, every image is changed as a camera
/// changes what it sees. Test images get the plain patch.
template <Task kTask = dynamic_task>
using Physical = DirtyLabel<triggers::Patch<kTask.image>, demands::physical>;

/// Turner et al., 2019, `turner2019labelconsistent`: images of the target class are perturbed against a
/// benign model (`.perturbation = Pgd{.model = benign}`), then get the patch of BadNets, and keep their
/// label.
template <Task kTask = dynamic_task>
using LabelConsistent = CleanLabel<triggers::Patch<kTask.image>>;

/// Qi et al., 2023, `qi2023adaptive`: one of four patches on each poisoned image, and on cover images, which
/// keep their label; two of them together on test images. The published rates are those of the defaults for
/// ResNets, 0.03 and 0.06 for VGG, DenseNet and ViT.
template <Task kTask = dynamic_task>
using AdaptivePatch = Covered<triggers::Patches<kTask.image>>;

}  // namespace refine::attacks
