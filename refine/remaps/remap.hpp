#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>

#include <concepts>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

#include <refine/core/check.hpp>
#include <refine/core/error.hpp>

namespace refine::remaps {

/// A fixed renaming of the classes. For `r` of type `R`:
///
///  1. `r.classes` is the number of classes: a constant, or a member;
///  2. `r.permutation` is a `std::vector<std::int64_t>` with every class once: what the victim calls `j` is
///     called `permutation[j]` behind the remap. It can be assigned to, as when a saved defense is loaded;
///  3. `R` is copyable.
template <typename R>
concept Remap = std::copyable<R> && requires(const R& r, R& assignable) {
  { r.classes } -> std::convertible_to<int>;
  { r.permutation } -> std::convertible_to<const std::vector<std::int64_t>&>;
  assignable.permutation = std::vector<std::int64_t>{};
};

/// Empty when `permutation` names each of 0 … n-1 once.
inline Message not_a_bijection(const std::vector<std::int64_t>& permutation) {
  std::vector<bool> seen(permutation.size(), false);
  Message why;
  for (std::int64_t name : permutation) {
    if (name < 0 || name >= static_cast<std::int64_t>(seen.size())) {
      return why << "the remap names class " << name << " of " << seen.size()
                 << "; a permutation names each of 0 to " << static_cast<int>(seen.size()) - 1 << " once";
    }
    if (seen[static_cast<std::size_t>(name)]) {
      return why << "the remap names class " << name << " twice; a permutation names each of 0 to "
                 << static_cast<int>(seen.size()) - 1 << " once";
    }
    seen[static_cast<std::size_t>(name)] = true;
  }
  return why;
}

/// `inverse(p)[p[j]] == j`. \throws Error when `p` is no permutation
inline std::vector<std::int64_t> inverse(const std::vector<std::int64_t>& permutation) {
  require_agreement(not_a_bijection(permutation));
  std::vector<std::int64_t> result(permutation.size());
  for (std::size_t j = 0; j < permutation.size(); ++j) {
    result[static_cast<std::size_t>(permutation[j])] = static_cast<std::int64_t>(j);
  }
  return result;
}

/// Logits N×classes in the victim's names → the same logits under their new names:
/// `apply(r, y)[:, permutation[j]] = y[:, j]`.
template <Remap R>
at::Tensor apply(const R& remap, const at::Tensor& logits) {
  return logits.index_select(1, at::tensor(inverse(remap.permutation)).to(logits.device()));
}

/// The way back: `undo(r, apply(r, y)) == y`.
template <Remap R>
at::Tensor undo(const R& remap, const at::Tensor& logits) {
  require_agreement(not_a_bijection(remap.permutation));
  return logits.index_select(1, at::tensor(remap.permutation).to(logits.device()));
}

/// Any remapping, by a type that is known only when the program runs: a remap is its permutation, so this one
/// holds no more.
struct AnyRemap {
  /// \throws Error when it is no permutation
  explicit AnyRemap(std::vector<std::int64_t> order)
      : classes(static_cast<int>(order.size())), permutation(std::move(order)) {
    require_agreement(not_a_bijection(permutation));
  }

  template <typename R>
  requires(!std::same_as<std::remove_cvref_t<R>, AnyRemap> && Remap<R>) AnyRemap(const R& remap)
      : classes(remap.classes), permutation(remap.permutation) {}

  int classes;
  std::vector<std::int64_t> permutation;
};

}  // namespace refine::remaps
