#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <concepts>
#include <memory>

#include <refine/core/check.hpp>
#include <refine/core/task.hpp>
#include <refine/nn/module.hpp>

namespace refine::transforms {

/// A network that rewrites images. For `t` of type `T`:
///
///  1. `t.image` is its `ImageShape`: a constant, or a member if an extent is dynamic;
///  2. `t.forward(images)` takes float N×C×H×W and returns the same shape, in [0, 1];
///  3. `t.module` is a `std::shared_ptr` to the `torch::nn::Module` that holds what is trained. It
///     may be empty;
///  4. `T` is copyable; copies share the module.
///
/// Optional members:
///
///  - `t.with_module(module)`: the same transform around another module. Required if `T` holds its
///    module in other members than `module`;
///  - `t.describe()`: what its weights do not show, in one line. It is saved with a defense and
///    compared when that is loaded;
///  - `t.cuda_graph_safe`: if true, training may record its work as a CUDA graph and replay it
///    (`nn::is_replayable`).
template <typename T>
concept Transform = std::copyable<T> && requires(const T& t, const at::Tensor& images) {
  { t.image } -> std::convertible_to<ImageShape>;
  { t.forward(images) } -> std::same_as<at::Tensor>;
  { *t.module } -> std::convertible_to<torch::nn::Module&>;
};

/// A transform that `freeze` has made constant.
template <typename T>
concept FrozenTransform = Transform<T> && requires {
  requires T::frozen;
};

/// True if `freeze` can copy a transform: it is not frozen, and its module can be cloned
/// (`nn::CanClone`).
template <Transform T>
bool can_freeze(const T& transform) {
  if constexpr (FrozenTransform<T>) {
    return false;
  } else if constexpr (requires { transform.can_freeze(); }) {
    return transform.can_freeze();
  } else {
    return nn::CanClone<nn::ModuleOf<T>>;
  }
}

/// Maps the output of the last layer into [0, 1].
enum class OutputActivation {
  sigmoid,  ///< has a gradient everywhere
  clamp,    ///< as in the authors' code; no gradient outside of [0, 1]
};

/// Returns a tensor of any shape and range, mapped into [0, 1].
inline at::Tensor apply_activation(const at::Tensor& x, OutputActivation activation) {
  return activation == OutputActivation::sigmoid ? x.sigmoid() : x.clamp(0, 1);
}

/// Returns `sigmoid` or `clamp`, as `describe()` has it.
inline const char* name_of(OutputActivation activation) {
  return activation == OutputActivation::sigmoid ? "sigmoid" : "clamp";
}

/// Leaves images unchanged. For ablations; it defends against nothing.
template <ImageShape kImage = ImageShape{}>
struct None {
  static constexpr ImageShape static_image = kImage;  ///< the shape that the type fixes

  ImageShape image = kImage;  ///< the shape of one image
  /// Empty.
  std::shared_ptr<torch::nn::Module> module = std::make_shared<torch::nn::Module>("None");

  /// Returns the images.
  at::Tensor forward(const at::Tensor& images) const { return images; }
};

}  // namespace refine::transforms
