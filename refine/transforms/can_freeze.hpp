#pragma once

#include <refine/nn/deep_copy.hpp>
#include <refine/transforms/transform_network.hpp>

namespace refine::transforms {

/// A transform that `freeze` has made constant.
template <typename T>
concept FrozenTransform = TransformNetwork<T> && requires {
  requires T::frozen;
};

/// Whether `freeze` can copy a transform: it is not frozen, and its module says how it is cloned
/// (`nn::CanClone`).
template <TransformNetwork T>
bool can_freeze(const T& transform) {
  if constexpr (FrozenTransform<T>) {
    return false;
  } else if constexpr (requires { transform.can_freeze(); }) {
    return transform.can_freeze();
  } else {
    return nn::CanClone<nn::ModuleOf<T>>;
  }
}

}  // namespace refine::transforms
