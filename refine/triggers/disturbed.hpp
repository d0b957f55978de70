#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>

#include <cstdint>
#include <vector>

#include <refine/core/seed.hpp>
#include <refine/triggers/patterns.hpp>
#include <refine/triggers/warp.hpp>

namespace refine::triggers {

/// The warp with every pixel's source moved besides, by up to one pixel's half either way across and down
/// (uniform(−1, 1)/W and /H in grid coordinates, clamped to the image): the noise mode of WaNet (Nguyen and
/// Tran, 2021, `nguyen2021wanet`), as one of its draws. The same seed, the same draw.
template <ImageShape kImage>
Warp<kImage> disturbed(Warp<kImage> warp, std::uint64_t seed) {
  const auto height = static_cast<int>(warp.grid.size(1)), width = static_cast<int>(warp.grid.size(2));
  const at::Tensor size = at::tensor(std::vector<float>{float(width), float(height)});
  const at::Tensor moves =
      (patterns::noise({2, height, width}, derived_seed(seed, "disturbed warp")) * 2 - 1).permute({1, 2, 0}) /
      size;
  warp.grid = (warp.grid + moves.unsqueeze(0)).clamp(-1, 1).contiguous();
  return warp;
}

}  // namespace refine::triggers
