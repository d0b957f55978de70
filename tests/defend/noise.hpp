#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/randint.h>

#include <cstdint>

#include <refine/nn/torch_random.hpp>

namespace refine {

/// Returns images of random pixels, the same in each call: uint8 n×3×side×side.
inline at::Tensor noise(std::int64_t n, std::int64_t side = 4, std::uint64_t seed = 1) {
  return nn::with_torch_seed(seed, [&] { return at::randint(256, {n, 3, side, side}, at::kByte); });
}

}  // namespace refine
