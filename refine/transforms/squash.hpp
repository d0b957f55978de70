#pragma once

#include <ATen/core/Tensor.h>

namespace refine::transforms {

/// How the last layer's output becomes an image in [0, 1].
enum class Squash {
  sigmoid,  ///< has a gradient everywhere
  clamp,    ///< as published; no gradient where it cuts off
};

/// `x`, of any range and shape, in [0, 1].
inline at::Tensor squashed(const at::Tensor& x, Squash squash) {
  return squash == Squash::sigmoid ? x.sigmoid() : x.clamp(0, 1);
}

/// Its name, as transforms describe themselves.
inline const char* name_of(Squash squash) {
  return squash == Squash::sigmoid ? "sigmoid" : "clamp";
}

}  // namespace refine::transforms
