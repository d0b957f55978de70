#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <concepts>
#include <memory>

#include <refine/core/check.hpp>
#include <refine/core/task.hpp>
#include <refine/nn/clone.hpp>

namespace refine::transforms {

/// How the last layer's output becomes an image in [0, 1].
enum class OutputActivation {
  sigmoid,  ///< has a gradient everywhere
  clamp,    ///< as published; no gradient where it cuts off
};

/// `x`, of any range and shape, in [0, 1].
inline at::Tensor apply_activation(const at::Tensor& x, OutputActivation squash) {
  return squash == OutputActivation::sigmoid ? x.sigmoid() : x.clamp(0, 1);
}

/// Its name, as transforms describe themselves.
inline const char* name_of(OutputActivation squash) {
  return squash == OutputActivation::sigmoid ? "sigmoid" : "clamp";
}

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
/// Where `t.cuda_graph_safe` is true, training may record its work and replay it (`nn::is_replayable`).
template <typename T>
concept Transform = std::copyable<T> && requires(const T& t, const at::Tensor& images) {
  { t.image } -> std::convertible_to<ImageShape>;
  { t.forward(images) } -> std::same_as<at::Tensor>;
  { *t.module } -> std::convertible_to<torch::nn::Module&>;
};

/// The null policy: images stay as they are. An ablation, no defense.
template <ImageShape kImage = ImageShape{}>
struct None {
  static constexpr ImageShape static_image = kImage;

  ImageShape image = kImage;
  std::shared_ptr<torch::nn::Module> module = std::make_shared<torch::nn::Module>("None");

  at::Tensor forward(const at::Tensor& images) const { return images; }
};

/// A transform that `freeze` has made constant.
template <typename T>
concept FrozenTransform = Transform<T> && requires {
  requires T::frozen;
};

/// Whether `freeze` can copy a transform: it is not frozen, and its module says how it is cloned
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

}  // namespace refine::transforms
