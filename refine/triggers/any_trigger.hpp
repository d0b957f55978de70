#pragma once

#include <ATen/core/Tensor.h>

#include <concepts>
#include <functional>
#include <utility>

#include <refine/core/image_shape.hpp>
#include <refine/triggers/trigger_policy.hpp>

namespace refine::triggers {

/// Any trigger, its type forgotten: for a list of different ones, or a choice made at run time. A trigger
/// itself; copies share nothing that can change.
class AnyTrigger {
 public:
  /// From any other trigger, without being asked: `std::vector<AnyTrigger>{Patch<>{…}, Blend<>{…}}`.
  template <typename T>
  requires(!std::same_as<T, AnyTrigger> && TriggerPolicy<T>) AnyTrigger(T trigger)
      : image(trigger.image),
        apply_([held = std::move(trigger)](const at::Tensor& images) { return held.apply(images); }) {}

  ImageShape image;  ///< the held trigger's

  /// Float N×C×H×W in [0, 1] → the same with the held trigger. \throws what the held trigger throws
  at::Tensor apply(const at::Tensor& images) const { return apply_(images); }

 private:
  std::function<at::Tensor(const at::Tensor&)> apply_;
};

static_assert(TriggerPolicy<AnyTrigger>);

}  // namespace refine::triggers
