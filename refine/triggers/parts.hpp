#pragma once

#include <type_traits>
#include <utility>
#include <vector>

#include <refine/triggers/trigger_policy.hpp>

namespace refine::triggers {

/// A trigger that is learnt in parts: `t.parts()` is a vector of triggers, one of which each training image
/// gets, while `t.apply` shows what test images get.
template <typename T>
concept TriggerInParts = TriggerPolicy<T> && requires(const T& t) {
  requires TriggerPolicy<typename std::remove_cvref_t<decltype(t.parts())>::value_type>;
};

/// `trigger.parts()`, or the trigger itself where it has none.
template <TriggerPolicy T>
auto parts_of(const T& trigger) {
  if constexpr (TriggerInParts<T>) {
    return trigger.parts();
  } else {
    return std::vector<T>{trigger};
  }
}

/// What `T` is learnt in.
template <TriggerPolicy T>
using Part = typename decltype(parts_of(std::declval<const T&>()))::value_type;

}  // namespace refine::triggers
