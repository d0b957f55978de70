#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

#include <refine/core/check.hpp>
#include <refine/core/detail/erased.hpp>
#include <refine/core/task.hpp>
#include <refine/data/dataset.hpp>

namespace refine::triggers {

/// A change to an image that a backdoored classifier reacts to. For `t` of type `T`:
///
///  1. `t.image` is its `ImageShape`: a constant, or a member if an extent is dynamic;
///  2. `t.apply(images)` takes float N×C×H×W in [0, 1] and returns the same shape and range. It
///     does not change its argument, and the same input gives the same output: random parts are
///     drawn when the trigger is made.
template <typename T>
concept Trigger = std::copyable<T> && requires(const T& t, const at::Tensor& images) {
  { t.image } -> std::convertible_to<ImageShape>;
  { t.apply(images) } -> std::same_as<at::Tensor>;
};

/// Returns why a trigger cannot be applied to images of this shape; empty if it can.
///
/// \param trigger shape that the trigger is made for
/// \param images shape of the images
constexpr Message check_shape(const ImageShape& trigger, const ImageShape& images) {
  Message why;
  if (!compatible(trigger, images)) {
    why << "trigger: wrong image shape (got " << images << ", expected " << trigger
        << "); give the attack the task of the data";
  }
  return why;
}

/// Stamps a trigger on images and rounds to bytes, which is what a file would hold. Training and
/// evaluation both use this function, so that both see the same images.
///
/// \param trigger what to stamp
/// \param images uint8 N×C×H×W
/// \return uint8 N×C×H×W
/// \throws Error if the trigger is made for images of another shape, or refuses them
template <Trigger T>
at::Tensor stamp(const T& trigger, const at::Tensor& images) {
  require_agreement(check_shape(trigger.image, data::image_shape_of(images)));
  at::Tensor stamped = at::empty(images.sizes(), images.options());
  constexpr std::int64_t pixels_per_chunk = 1 << 20;  // bounds the memory of the float images
  const std::int64_t n = images.size(0), area = std::max<std::int64_t>(images.size(2) * images.size(3), 1),
                     chunk = std::max<std::int64_t>(pixels_per_chunk / area, 1);
  for (std::int64_t begin = 0; begin < n; begin += chunk) {
    const std::int64_t count = std::min(chunk, n - begin);
    const at::Tensor part = images.narrow(0, begin, count);
    stamped.narrow(0, begin, count).copy_(data::to_bytes(trigger.apply(data::to_float(part, part.device()))));
  }
  return stamped;
}

/// The trigger that does nothing: images stay unchanged.
///
/// \tparam kImage shape of the images; open extents are set by `.image`
template <ImageShape kImage = ImageShape{}>
struct None {
  static constexpr ImageShape static_image = kImage;  ///< what is known of the shape at compile time

  ImageShape image = kImage;  ///< shape of the images; an open extent fits any

  /// Returns the images unchanged.
  at::Tensor apply(const at::Tensor& images) const { return images; }
};

/// Holds any trigger: for a list of different ones, or a choice at run time. It models `Trigger`
/// itself. Copies share no mutable state.
class AnyTrigger {
 public:
  /// Holds `trigger`. Implicit, so that `std::vector<AnyTrigger>{Patch<>{…}, Blend<>{…}}` works.
  ///
  /// \tparam T type of the trigger
  /// \param trigger any other trigger
  template <typename T>
  requires(refine::detail::OtherThan<T, AnyTrigger>&& Trigger<T>) AnyTrigger(T trigger)
      : image(trigger.image),
        held_(refine::detail::Erased<Interface>::template with<Model<T>>(std::move(trigger))) {}

  ImageShape image;  ///< shape of the images, as the held trigger has it

  /// Applies the held trigger, and throws what it throws.
  ///
  /// \param images float N×C×H×W in [0, 1]
  at::Tensor apply(const at::Tensor& images) const { return held_->apply(images); }

 private:
  struct Interface {
    virtual ~Interface() = default;
    virtual at::Tensor apply(const at::Tensor& images) const = 0;
  };

  template <Trigger T>
  struct Model final : Interface {
    explicit Model(T t) : trigger(std::move(t)) {}

    at::Tensor apply(const at::Tensor& images) const override { return trigger.apply(images); }

    T trigger;
  };

  refine::detail::Erased<Interface> held_;
};

static_assert(Trigger<AnyTrigger>);

/// A trigger that the victim learns in parts. `t.parts()` is a vector of triggers, of which each
/// training image gets one; `t.apply` is what test images get.
template <typename T>
concept TriggerInParts = Trigger<T> && requires(const T& t) {
  requires Trigger<typename std::remove_cvref_t<decltype(t.parts())>::value_type>;
};

/// Returns `trigger.parts()`, or a vector of the trigger alone if it has no parts.
template <Trigger T>
auto parts_of(const T& trigger) {
  if constexpr (TriggerInParts<T>) {
    return trigger.parts();
  } else {
    return std::vector<T>{trigger};
  }
}

/// The type of the parts of `T`; `T` itself if it has none.
template <Trigger T>
using Part = typename decltype(parts_of(std::declval<const T&>()))::value_type;

}  // namespace refine::triggers
