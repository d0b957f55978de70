#pragma once

#include <cstdint>

#include <refine/attacks/covered.hpp>
#include <refine/core/error.hpp>
#include <refine/core/seed.hpp>
#include <refine/core/task.hpp>
#include <refine/triggers/disturbed.hpp>
#include <refine/triggers/warp.hpp>

namespace refine::attacks {

/// WaNet with the paper's noise mode (Nguyen and Tran, 2021, `nguyen2021wanet`): as many images again, twice,
/// are warped with a disturbed grid and keep their label, so that only the exact warp means the target. A
/// value whose fields may be set: `auto attack = wanet_with_noise<task>(); attack.target = 3;`
/// \param grids how many disturbed grids the cover images share; 1 or more
template <Task kTask = dynamic_task>
Covered<triggers::Warp<kTask.image>> wanet_with_noise(const triggers::Warp<kTask.image>& warp = {},
                                                      int grids = 64) {
  if (grids < 1) throw Error("refine: {} disturbed grids were asked for; say 1 or more [attack]", grids);
  Covered<triggers::Warp<kTask.image>> attack{.trigger = warp, .rate = 0.1, .cover_rate = 0.2};
  for (int i = 0; i < grids; ++i)
    attack.covers.push_back(
        triggers::disturbed(warp, derived_seed(warp.seed, "cover", static_cast<std::uint64_t>(i))));
  return attack;
}

}  // namespace refine::attacks
