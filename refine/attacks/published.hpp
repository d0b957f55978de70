#pragma once

#include <cstdint>

#include <refine/attacks/covered.hpp>
#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/triggers/warp.hpp>

namespace refine::attacks {

/// What `wanet_with_noise` makes its attack from.
template <ImageShape kImage = ImageShape{}>
struct NoiseMode {
  triggers::Warp<kImage> warp = {};
  int target = 0;
  double rate = 0.1;                  ///< share of the training images that are poisoned, in [0, 1]
  double cover_rate = 2 * rate;       ///< share of them that are covers; at most 1 with the other
  std::uint64_t seed = default_seed;  ///< of the choice of images
  int grids = 64;                     ///< how many disturbed grids the covers share; 1 or more
};

/// WaNet with the paper's noise mode (Nguyen and Tran, 2021, `nguyen2021wanet`): as many images again, twice,
/// are warped with a disturbed grid and keep their label, so that only the exact warp means the target:
/// `wanet_with_noise<task>({.target = 3, .rate = 0.05})`. Of what it returns, `target` and `seed` may be set
/// afterwards. `poisons` and `covers` are made of the warp and `cover_rate` of the rate: give another
/// `.trigger` or `.rate` here. \throws Error when there is no grid
template <Task kTask = dynamic_task>
Covered<triggers::Warp<kTask.image>> wanet_with_noise(const NoiseMode<kTask.image>& mode = {}) {
  if (mode.grids < 1) throw Error("{} disturbed grids were asked for; say 1 or more", mode.grids);
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
