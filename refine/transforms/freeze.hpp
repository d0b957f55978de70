#pragma once

#include <ATen/core/Tensor.h>

#include <concepts>
#include <string>

#include <refine/core/check.hpp>
#include <refine/core/task.hpp>
#include <refine/nn/clone.hpp>
#include <refine/nn/fold.hpp>
#include <refine/transforms/transform.hpp>

namespace refine {

namespace transforms {

/// The constant form of a transform, as `freeze` makes it.
template <Transform T>
class Frozen {
 public:
  static constexpr ImageShape static_image = static_image_of<T>();
  static constexpr bool frozen = true;

  /// From a `T` alone: `AnyTransform` takes whatever is a transform, and asking whether this is one would ask
  /// whether it can be made from an `AnyTransform` of itself.
  template <std::same_as<T> Source>
  explicit Frozen(const Source& source)
      : inner_(nn::deep_copy(source)), image(inner_.image), module(inner_.module) {
    nn::prepare_for_inference(*module);
  }

 private:
  T inner_;  // before the two below, which look into it

 public:
  ImageShape image;
  decltype(T::module) module;

  at::Tensor forward(const at::Tensor& images) const { return inner_.forward(images); }

  std::string describe() const requires requires(const T& t) { t.describe(); }
  { return inner_.describe(); }
};

}  // namespace transforms

/// The fast, constant form of a trained transform, for serving: a copy in evaluation mode, BatchNorm folded
/// into the convolutions, channels-last. What it returns differs from the original's by rounding only. The
/// original stays as it is, and can be trained on. \throws c10::Error when the module can't be
/// cloned
template <transforms::Transform T>
transforms::Frozen<T> freeze(const T& transform) {
  return transforms::Frozen<T>(transform);
}

template <transforms::FrozenTransform T>
T freeze(const T& transform) {
  return transform;
}

}  // namespace refine
