#pragma once

#include <ATen/core/Tensor.h>

#include <concepts>

#include <refine/core/agreement.hpp>
#include <refine/core/image_shape.hpp>

namespace refine::triggers {

/// What stamps an image. For `t` of type `T`:
///
///  1. `t.image` is its `ImageShape`: a constant, or a member where an extent is dynamic;
///  2. `t.apply(images)` takes float N×C×H×W in [0, 1] and returns the same shape and range, without
///     changing its argument; the same input gives the same output, so whatever is random in it is drawn when
///     it is made.
template <typename T>
concept TriggerPolicy = std::copyable<T> && requires(const T& t, const at::Tensor& images) {
  { t.image } -> std::convertible_to<ImageShape>;
  { t.apply(images) } -> std::same_as<at::Tensor>;
};

/// Why a trigger can't be put on these images; empty when it can.
constexpr Message misfit(const ImageShape& trigger, const ImageShape& images) {
  Message why;
  if (!compatible(trigger, images)) {
    why << "refine: the trigger is made for " << trigger << " images, the data has " << images
        << "; give the attack the task of the data";
  }
  return why;
}

}  // namespace refine::triggers
