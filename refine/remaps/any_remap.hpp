#pragma once

#include <concepts>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

#include <refine/remaps/remapping_strategy.hpp>

namespace refine::remaps {

/// Any remapping, by a type that is known only when the program runs: a remap is its permutation, so this one
/// holds no more.
struct AnyRemap {
  /// \throws Error when it is no permutation
  explicit AnyRemap(std::vector<std::int64_t> order)
      : classes(static_cast<int>(order.size())), permutation(std::move(order)) {
    require_agreement(not_a_bijection(permutation));
  }

  template <typename R>
  requires(!std::same_as<std::remove_cvref_t<R>, AnyRemap> && RemappingStrategy<R>) AnyRemap(const R& remap)
      : classes(remap.classes), permutation(remap.permutation) {}

  int classes;
  std::vector<std::int64_t> permutation;
};

}  // namespace refine::remaps
