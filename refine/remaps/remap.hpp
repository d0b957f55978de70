#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>
#include <fmt/ranges.h>

#include <concepts>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

#include <refine/core/check.hpp>
#include <refine/core/detail/erased.hpp>
#include <refine/core/error.hpp>
#include <refine/core/task.hpp>

namespace refine::remaps {

/// A fixed permutation of the classes. For `r` of type `R`:
///
///  1. `r.classes` is the number of classes, a constant or a member;
///  2. `r.permutation` is a `std::vector<std::int64_t>` that contains every class once: the victim's class `j` is
///     class `permutation[j]` behind the remap. It can be assigned to, as when a saved defense is loaded;
///  3. `R` is copyable.
template <typename R>
concept Remap = std::copyable<R> && requires(const R& r, R& assignable) {
  { r.classes } -> std::convertible_to<int>;
  { r.permutation } -> std::convertible_to<const std::vector<std::int64_t>&>;
  assignable.permutation = std::vector<std::int64_t>{};
};

/// Checks that a vector is a permutation.
/// \return the reason if it does not contain each of 0 … n−1 once; empty otherwise
inline Message not_a_bijection(const std::vector<std::int64_t>& permutation) {
  std::vector<bool> seen(permutation.size(), false);
  Message why;
  for (std::int64_t name : permutation) {
    if (name < 0 || name >= static_cast<std::int64_t>(seen.size())) {
      return why << "remap: class " << name << " is out of range; a permutation contains each of 0 to "
                 << static_cast<int>(seen.size()) - 1 << " once";
    }
    if (seen[static_cast<std::size_t>(name)]) {
      return why << "remap: class " << name << " occurs twice; a permutation contains each of 0 to "
                 << static_cast<int>(seen.size()) - 1 << " once";
    }
    seen[static_cast<std::size_t>(name)] = true;
  }
  return why;
}

/// Returns the inverse permutation: `inverse(p)[p[j]] == j`.
/// \throws Error if the vector is not a permutation
inline std::vector<std::int64_t> inverse(const std::vector<std::int64_t>& permutation) {
  require_agreement(not_a_bijection(permutation));
  std::vector<std::int64_t> result(permutation.size());
  for (std::size_t j = 0; j < permutation.size(); ++j) {
    result[static_cast<std::size_t>(permutation[j])] = static_cast<std::int64_t>(j);
  }
  return result;
}

namespace detail {

inline void require_classes(const std::vector<std::int64_t>& permutation, const at::Tensor& logits) {
  if (logits.dim() == 2 && logits.size(1) == static_cast<std::int64_t>(permutation.size())) return;
  throw Error("remap: the logits must be N×{}, got {}", permutation.size(), fmt::join(logits.sizes(), "×"));
}

}  // namespace detail

/// Renames the classes of the victim's logits: `apply(r, y)[:, permutation[j]] = y[:, j]`.
/// \param remap a permutation
/// \param logits N×classes
/// \return N×classes
/// \throws Error if the remap is not a permutation, or one of another number of classes
template <Remap R>
at::Tensor apply(const R& remap, const at::Tensor& logits) {
  const std::vector<std::int64_t> order = inverse(remap.permutation);
  detail::require_classes(order, logits);
  return logits.index_select(1, at::tensor(order).to(logits.device()));
}

/// Reverts `apply`: `undo(r, apply(r, y)) == y`.
/// \param remap a permutation
/// \param logits N×classes
/// \return N×classes
/// \throws Error if the remap is not a permutation, or one of another number of classes
template <Remap R>
at::Tensor undo(const R& remap, const at::Tensor& logits) {
  require_agreement(not_a_bijection(remap.permutation));
  detail::require_classes(remap.permutation, logits);
  return logits.index_select(1, at::tensor(remap.permutation).to(logits.device()));
}

/// A remap of any type. A remap is its permutation, so this holds nothing else.
struct AnyRemap {
  /// \param order the new name of each class
  /// \throws Error if it is not a permutation
  explicit AnyRemap(std::vector<std::int64_t> order)
      : classes(static_cast<int>(order.size())), permutation(std::move(order)) {
    require_agreement(not_a_bijection(permutation));
  }

  /// Converts any remap.
  template <typename R>
  requires(refine::detail::OtherThan<R, AnyRemap>&& Remap<R>) AnyRemap(const R& remap)
      : classes(remap.classes), permutation(remap.permutation) {}

  int classes;                            ///< the number of classes
  std::vector<std::int64_t> permutation;  ///< the new name of each class
};

}  // namespace refine::remaps
