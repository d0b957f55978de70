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
#include <refine/core/error.hpp>
#include <refine/core/task.hpp>
#include <refine/data/dataset.hpp>
#include <refine/triggers/detail/shape_text.hpp>

namespace refine::triggers {

/// A change to an image that a backdoored classifier reacts to. For `t` of type `T`:
///
///  1. `t.image` is its `ImageShape`: a constant, or a member if an extent is dynamic;
///  2. `t.apply(images)` takes float N×C×H×W in [0, 1] and returns floating-point numbers of the same
///     shape and range. It does not change its argument, and the same input gives the same output:
///     random parts are drawn when the trigger is made. `stamp` clamps values that leave [0, 1] by up to
///     0.5, such as those of a pattern that was added, and refuses others.
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

namespace detail {

/// Checks the type and the sizes of what `apply` returns: others would be broadcast or rounded to 0 and 255.
/// \param expected sizes of the images
inline void check_applied(const at::Tensor& applied, at::IntArrayRef expected) {
  if (!applied.defined() || !at::isFloatingType(applied.scalar_type())) {
    throw Error("trigger: apply must return floating-point images, got {}; convert bytes with data::to_float",
                applied.defined() ? at::toString(applied.scalar_type()) : "an undefined tensor");
  }
  if (applied.sizes() != expected) {
    throw Error("trigger: apply must return images of the shape that it takes (got {}, expected {})",
                shape_text(applied), shape_text(expected));
  }
}

/// Checks that pixels are finite and in [0, 1]. A pattern that was added without clamping may exceed it by up to a half;
/// pixels of 0 to 255 or normalised ones exceed it by more.
inline void check_range(const at::Tensor& applied) {
  if (applied.numel() == 0) return;
  constexpr double tolerance = 0.5;
  const auto low = applied.min().item<double>(), high = applied.max().item<double>();  // NaN if any is
  if (!(low >= -tolerance && high <= 1 + tolerance)) {
    throw Error(
        "trigger: apply must return finite values in [0, 1] (got {:.4g} to {:.4g}); scale or clamp them", low,
        high);
  }
}

}  // namespace detail

/// Stamps a trigger on images and rounds to bytes, which is what a file would hold. Training and
/// evaluation both use this function, so that both see the same images.
///
/// \param trigger what to stamp
/// \param images uint8 N×C×H×W
/// \return uint8 N×C×H×W
/// \throws Error if the trigger is made for images of another shape, refuses them, or returns another shape or
///   a tensor that is not floating-point; or, for the first two images, values that are not finite or more than 0.5
///   outside of [0, 1]
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
    const at::Tensor applied = trigger.apply(data::to_float(part, part.device()));
    detail::check_applied(applied, part.sizes());
    if (begin == 0) detail::check_range(applied.narrow(0, 0, std::min<std::int64_t>(count, 2)));
    stamped.narrow(0, begin, count).copy_(data::to_bytes(applied));
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
    static_assert(
        !requires(T & t) { t.parts(); }, "a trigger's parts() must be const and return a vector of triggers");
    return std::vector<T>{trigger};
  }
}

/// The type of the parts of `T`; `T` itself if it has none.
template <Trigger T>
using Part = typename decltype(parts_of(std::declval<const T&>()))::value_type;

}  // namespace refine::triggers
