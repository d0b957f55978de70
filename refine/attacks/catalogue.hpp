#pragma once

#include <refine/attacks/dirty_label.hpp>
#include <refine/core/task.hpp>
#include <refine/triggers/blend.hpp>
#include <refine/triggers/patch.hpp>
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

/// Nguyen and Tran, 2021, `nguyen2021wanet`: a faint warping of the image, label := target. Without the
/// paper's noise mode (images warped otherwise that keep their label).
template <Task kTask = dynamic_task>
using WaNet = DirtyLabel<triggers::Warp<kTask.image>>;

/// Xu et al., 2023, `xu2023batt`: the image turned by 16°, label := target. Without the small random turns
/// that the paper gives to clean training images.
template <Task kTask = dynamic_task>
using Batt = DirtyLabel<triggers::Rotate<kTask.image>>;

}  // namespace refine::attacks
