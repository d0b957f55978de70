#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <concepts>

#include <refine/core/agreement.hpp>
#include <refine/core/image_shape.hpp>

namespace refine::transforms {

/// A network that rewrites images. For `t` of type `T`:
///
///  1. `t.image` is its `ImageShape`: a constant, or a member where an extent is dynamic;
///  2. `t.forward(images)` takes float N×C×H×W and returns the same shape, in [0, 1];
///  3. `t.module` is a `std::shared_ptr` to the `torch::nn::Module` that holds what is trained (nothing,
///     for a transform without parameters);
///  4. `T` is copyable; copies share the module. One that holds its module in more places than `module` says
///  by a
///     member `with_module(module)` how it is made around another.
///
/// Where `t.replayable` is true, training may record its work and replay it (`nn::is_replayable`).
template <typename T>
concept TransformNetwork = std::copyable<T> && requires(const T& t, const at::Tensor& images) {
  { t.image } -> std::convertible_to<ImageShape>;
  { t.forward(images) } -> std::same_as<at::Tensor>;
  { *t.module } -> std::convertible_to<torch::nn::Module&>;
};

}  // namespace refine::transforms
