#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <functional>
#include <type_traits>
#include <utility>
#include <vector>

#include <refine/core/check.hpp>
#include <refine/core/task.hpp>
#include <refine/data/dataset.hpp>
#include <refine/data/detail/pixels.hpp>

namespace refine::triggers {

/// What stamps an image. For `t` of type `T`:
///
///  1. `t.image` is its `ImageShape`: a constant, or a member where an extent is dynamic;
///  2. `t.apply(images)` takes float N×C×H×W in [0, 1] and returns the same shape and range, without
///     changing its argument; the same input gives the same output, so whatever is random in it is drawn when
///     it is made.
template <typename T>
concept Trigger = std::copyable<T> && requires(const T& t, const at::Tensor& images) {
  { t.image } -> std::convertible_to<ImageShape>;
  { t.apply(images) } -> std::same_as<at::Tensor>;
};

/// Why a trigger can't be put on these images; empty when it can.
constexpr Message check_shape(const ImageShape& trigger, const ImageShape& images) {
  Message why;
  if (!compatible(trigger, images)) {
    why << "the trigger is made for " << trigger << " images, the data has " << images
        << "; give the attack the task of the data";
  }
  return why;
}

/// Any trigger, its type forgotten: for a list of different ones, or a choice made at run time. A trigger
/// itself; copies share nothing that can change.
class AnyTrigger {
 public:
  /// From any other trigger, without being asked: `std::vector<AnyTrigger>{Patch<>{…}, Blend<>{…}}`.
  template <typename T>
  requires(!std::same_as<T, AnyTrigger> && Trigger<T>) AnyTrigger(T trigger)
      : image(trigger.image),
        apply_([held = std::move(trigger)](const at::Tensor& images) { return held.apply(images); }) {}

  ImageShape image;  ///< the held trigger's

  /// Float N×C×H×W in [0, 1] → the same with the held trigger. \throws what the held trigger throws
  at::Tensor apply(const at::Tensor& images) const { return apply_(images); }

 private:
  std::function<at::Tensor(const at::Tensor&)> apply_;
};

static_assert(Trigger<AnyTrigger>);

/// The null policy: images stay as they are.
template <ImageShape kImage = ImageShape{}>
struct None {
  static constexpr ImageShape static_image = kImage;

  ImageShape image = kImage;

  at::Tensor apply(const at::Tensor& images) const { return images; }
};

/// A trigger that is learnt in parts: `t.parts()` is a vector of triggers, one of which each training image
/// gets, while `t.apply` shows what test images get.
template <typename T>
concept TriggerInParts = Trigger<T> && requires(const T& t) {
  requires Trigger<typename std::remove_cvref_t<decltype(t.parts())>::value_type>;
};

/// `trigger.parts()`, or the trigger itself where it has none.
template <Trigger T>
auto parts_of(const T& trigger) {
  if constexpr (TriggerInParts<T>) {
    return trigger.parts();
  } else {
    return std::vector<T>{trigger};
  }
}

/// What `T` is learnt in.
template <Trigger T>
using Part = typename decltype(parts_of(std::declval<const T&>()))::value_type;

/// uint8 N×C×H×W → uint8 N×C×H×W, each image with the trigger on it, rounded to the bytes that a file would
/// hold. Training and evaluation both stamp through here, so both see the same images.
template <Trigger T>
at::Tensor stamp(const T& trigger, const at::Tensor& images) {
  require_agreement(check_shape(trigger.image, data::image_of(images)));
  at::Tensor stamped = at::empty(images.sizes(), images.options());
  constexpr std::int64_t pixels = 1 << 20;  // bounds the memory that float images take
  const std::int64_t n = images.size(0), area = std::max<std::int64_t>(images.size(2) * images.size(3), 1),
                     stretch = std::max<std::int64_t>(pixels / area, 1);
  for (std::int64_t begin = 0; begin < n; begin += stretch) {
    const std::int64_t count = std::min(stretch, n - begin);
    const at::Tensor part = images.narrow(0, begin, count);
    stamped.narrow(0, begin, count).copy_(data::to_bytes(trigger.apply(data::to_float(part, part.device()))));
  }
  return stamped;
}

}  // namespace refine::triggers
