#pragma once

#include <ATen/core/Tensor.h>

#include <concepts>
#include <string>

#include <refine/core/check.hpp>
#include <refine/core/task.hpp>
#include <refine/nn/fold.hpp>
#include <refine/nn/module.hpp>
#include <refine/transforms/transform.hpp>

namespace refine {

namespace transforms {

/// The constant form of a transform, made by `freeze`.
template <Transform T>
class Frozen {
 public:
  static constexpr ImageShape static_image = static_image_of<T>();  ///< the shape that the type of `T` fixes
  static constexpr bool frozen = true;                              ///< marks a `FrozenTransform`

  /// Copies a transform and prepares the copy for inference.
  /// \param source is left unchanged
  /// \throws c10::Error if its module cannot be cloned
  /// \throws Error as `nn::deep_copy`
  // Takes exactly a `T`: with a conversion, checking whether `AnyTransform` holds a
  // `Frozen<AnyTransform>` would depend on itself.
  template <std::same_as<T> Source>
  explicit Frozen(const Source& source)
      : inner_(nn::deep_copy(source)),
        image(inner_.image),
        output_shape(output_shape_of(inner_)),
        module(inner_.module) {
    nn::prepare_for_inference(*module);
  }

 private:
  T inner_;  // declared before the members that are initialised from it

 public:
  ImageShape image;            ///< the source's image shape
  ImageShape output_shape;     ///< the shape of the images that it returns
  decltype(T::module) module;  ///< the copy, without BatchNorms that could be folded

  /// Returns images in [0, 1], of `output_shape`.
  /// \param images float N×C×H×W
  at::Tensor forward(const at::Tensor& images) const { return inner_.forward(images); }

  /// Returns the constant part of the module; null if the source has no encoder.
  std::shared_ptr<torch::nn::Module> encoder_module() const { return encoder_module_of(inner_); }

  /// Returns the part of the module that was trained.
  std::shared_ptr<torch::nn::Module> trained_module() const { return trained_module_of(inner_); }

  /// Returns the source's description.
  std::string describe() const requires requires(const T& t) { t.describe(); }
  { return inner_.describe(); }
};

}  // namespace transforms

/// Returns the fast, constant form of a trained transform, for inference: a copy in evaluation
/// mode, in channels-last layout, with BatchNorm folded into the convolutions. Its output differs
/// from the original's by rounding only. If the image shape is known, original and copy are asked about
/// two images.
/// \param transform is left unchanged, and can be trained further
/// \throws c10::Error if its module cannot be cloned
/// \throws Error if its module is null, or the copy's outputs differ: a layer is not registered
template <transforms::Transform T>
transforms::Frozen<T> freeze(const T& transform) {
  return transforms::Frozen<T>(transform);
}

/// Returns a transform that is already frozen, unchanged. The result shares its module.
/// \param transform a frozen transform
template <transforms::FrozenTransform T>
T freeze(const T& transform) {
  return transform;
}

}  // namespace refine
