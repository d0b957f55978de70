#pragma once

#include <refine/attacks/dirty_label.hpp>
#include <refine/core/task.hpp>
#include <refine/triggers/blend.hpp>
#include <refine/triggers/patch.hpp>

/// The published attacks, as aliases of trigger × poisoning plan.
namespace refine::attacks {

/// Gu et al., 2017, `gu2017badnets`: a patch in the corner, label := target.
template <Task kTask = dynamic_task>
using BadNets = DirtyLabel<triggers::Patch<kTask.image>>;

/// Chen et al., 2017, `chen2017blended`: a faint picture over the image, label := target.
template <Task kTask = dynamic_task>
using Blended = DirtyLabel<triggers::Blend<kTask.image>>;

}  // namespace refine::attacks
