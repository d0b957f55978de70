#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <concepts>
#include <memory>
#include <string_view>
#include <type_traits>
#include <utility>

#include <refine/core/check.hpp>
#include <refine/core/error.hpp>
#include <refine/core/task.hpp>
#include <refine/nn/module.hpp>

namespace refine::transforms {

namespace detail {

template <typename T>
concept OutputShapeFits = !REFINE_DECLARES(T, output_shape, output_shape) || requires(const T& t) {
  ImageShape(t.output_shape);
};

template <typename T>
concept DrawFits = !REFINE_DECLARES(T, draw, draw(std::declval<const at::Tensor&>())) ||
                   requires(const T& t, const at::Tensor& input) {
  t.draw(input);
};

template <typename T>
concept TrainedModuleFits = !REFINE_DECLARES(T, trained_module, trained_module()) || requires(const T& t) {
  t.trained_module();
};

template <typename T>
concept EncoderModuleFits = !REFINE_DECLARES(T, encoder_module, encoder_module()) || requires(const T& t) {
  t.encoder_module();
};

template <typename T>
concept CanFreezeFits = !REFINE_DECLARES(T, can_freeze, can_freeze()) || requires(const T& t) {
  t.can_freeze();
};

template <typename T>
concept OptionalMembersFit = refine::detail::PolicyMembersFit<T> && refine::detail::CheckFits<T> &&
    OutputShapeFits<T> && DrawFits<T> && TrainedModuleFits<T> && EncoderModuleFits<T> && CanFreezeFits<T>;

}  // namespace detail

/// A network that rewrites images. For `t` of type `T`:
///
///  1. `t.image` is its `ImageShape`: a constant, or a member if an extent is dynamic;
///  2. `t.forward(images)` takes float N×C×H×W and returns N×C×H×W in [0, 1], of the same shape
///     unless it has an `output_shape`;
///  3. `t.module` is a `std::shared_ptr` to the `torch::nn::Module` that holds its tensors: never null, but a
///     `torch::nn::Module` without tensors if there are none;
///  4. `T` is copyable; copies share the module.
///
/// Optional members, which can be used on a constant object; a type in which one of them is declared
/// otherwise is not a `Transform`:
///
///  - `t.with_module(module)`: the same transform around another module. Required if `T` holds its
///    module in other members than `module`;
///  - `t.describe()`: what its weights do not show, in one line. It is saved with a defense and
///    compared when that is loaded;
///  - `t.cuda_graph_safe`: if true, training may record its work as a CUDA graph and replay it
///    (`nn::is_replayable`);
///  - `t.output_shape`: the `ImageShape` of the images that it returns, if that is not `t.image`.
///    The victim must take images of that shape;
///  - `t.draw(images)`: a `Drawn`, the images that `forward` returns and the features at its
///    bottleneck, on which `fit` can train a head (`Recipe::head_weight`);
///  - `t.check()`: throws `Error` if its members do not fit each other. `Pipeline` and `AnyTransform`
///    call it;
///  - `t.trained_module()`: a `std::shared_ptr` to the part of `t.module` that is trained and saved,
///    if that is not all of it.
template <typename T>
concept Transform = std::copyable<T> && detail::OptionalMembersFit<T> &&
    requires(const T& t, const at::Tensor& images) {
  { t.image } -> std::convertible_to<ImageShape>;
  { t.forward(images) } -> std::same_as<at::Tensor>;
  { *t.module } -> std::convertible_to<torch::nn::Module&>;
};

/// What a transform returns with its bottleneck.
struct Drawn {
  at::Tensor images;           ///< float N×C×H×W in [0, 1]
  at::Tensor bottleneck = {};  ///< float N×K, from which the images were drawn; undefined if there is none
};

/// A transform whose first part is constant. `fit` computes the features of each image once, so that
/// an epoch costs the second part and the victim only. For `t` of type `T`, in addition to
/// `Transform`:
///
///  1. `t.encode(images)` takes float N×C×H×W in [0, 1] and returns float N×F features;
///  2. `t.draw(features)` takes features, not images; `t.forward(x)` equals
///     `t.draw(t.encode(x)).images`;
///  3. `t.standardize(features)` adapts the second part to the features of the training images.
///     `fit` calls it once, before it trains;
///  4. `t.encoder_module()` is a `std::shared_ptr` to the part of `t.module` that is constant;
///  5. `t.trained_module()` is a `std::shared_ptr` to the rest.
template <typename T>
concept EncodingTransform = Transform<T> && requires(const T& t, const at::Tensor& x) {
  { t.encode(x) } -> std::same_as<at::Tensor>;
  { t.draw(x) } -> std::same_as<Drawn>;
  t.standardize(x);
  { t.encoder_module() } -> std::convertible_to<std::shared_ptr<torch::nn::Module>>;
  { t.trained_module() } -> std::convertible_to<std::shared_ptr<torch::nn::Module>>;
};

/// Checks that the members of a transform fit each other.
/// \throws Error if they do not
template <Transform T>
void check_members(const T& transform) {
  if (!transform.module)
    throw Error(
        "transform.module must not be null; make a torch::nn::Module, without tensors if there are none");
  if constexpr (requires { transform.check(); }) transform.check();
}

/// Returns the constant part of a transform; null if it has none.
template <Transform T>
std::shared_ptr<torch::nn::Module> encoder_module_of(const T& transform) {
  if constexpr (requires { transform.encoder_module(); }) {
    return transform.encoder_module();
  } else {
    return nullptr;
  }
}

/// Returns the part of a transform that is trained and saved.
template <Transform T>
std::shared_ptr<torch::nn::Module> trained_module_of(const T& transform) {
  if constexpr (requires { transform.trained_module(); }) {
    return transform.trained_module();
  } else {
    return transform.module;
  }
}

/// Returns what a transform draws, with its bottleneck if it has one.
/// \param input images or, of a transform with an encoder, features
template <Transform T>
Drawn draw(const T& transform, const at::Tensor& input) {
  if constexpr (requires { transform.draw(input); }) {
    return transform.draw(input);
  } else {
    return {transform.forward(input)};
  }
}

/// Returns the shape of the images that a transform returns.
template <Transform T>
ImageShape output_shape_of(const T& transform) {
  if constexpr (requires { ImageShape(transform.output_shape); }) {
    return transform.output_shape;
  } else {
    return transform.image;
  }
}

/// Throws unless a transform takes and returns images of a shape, and has no encoder.
/// \param function that trains it, for the message
template <Transform T>
void require_image_to_image(std::string_view function, const T& transform, const ImageShape& image) {
  check_members(transform);
  if (encoder_module_of(transform))
    throw Error("{}: the transform has an encoder; use one without, such as a UNet", function);
  if (!compatible(transform.image, image) || !compatible(output_shape_of(transform), image)) {
    Message why;
    require_agreement(why << function << ": the transform must take and return images of " << image
                          << ", got " << transform.image << " and " << output_shape_of(transform));
  }
}

namespace detail {

template <typename T>
concept DrawsOtherShape = requires(const T& t) {
  ImageShape(t.output_shape);
};

template <typename T>
concept FixesOutputShape = requires {
  requires !std::is_member_object_pointer_v<decltype(&T::output_shape)>;
};

}  // namespace detail

/// Returns what the type of a transform fixes of the images that it returns.
template <typename T>
consteval ImageShape static_output_shape_of() {
  if constexpr (detail::FixesOutputShape<T>) {
    return T::output_shape;
  } else if constexpr (detail::DrawsOtherShape<T>) {
    return {};
  } else {
    return static_image_of<T>();
  }
}

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
