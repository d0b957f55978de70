#pragma once

/// \namespace refine::remaps
/// Remaps: fixed permutations of the classes behind the victim, so that a backdoor's target is no longer what the
/// attacker asked for. The concept is `Remap`.
///
/// ```cpp
/// refine::remaps::Derangement<refine::tasks::cifar10> remap{.seed = 7};
/// const at::Tensor renamed = refine::remaps::apply(remap, logits);
/// ```

#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>

#include <concepts>
#include <cstdint>
#include <numeric>
#include <type_traits>
#include <utility>
#include <vector>

#include <refine/core/check.hpp>
#include <refine/core/detail/erased.hpp>
#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
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

/// Renames the classes of the victim's logits: `apply(r, y)[:, permutation[j]] = y[:, j]`.
/// \param remap a permutation
/// \param logits N×classes
/// \return N×classes
template <Remap R>
at::Tensor apply(const R& remap, const at::Tensor& logits) {
  return logits.index_select(1, at::tensor(inverse(remap.permutation)).to(logits.device()));
}

/// Reverts `apply`: `undo(r, apply(r, y)) == y`.
/// \param remap a permutation
/// \param logits N×classes
/// \return N×classes
template <Remap R>
at::Tensor undo(const R& remap, const at::Tensor& logits) {
  require_agreement(not_a_bijection(remap.permutation));
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

/// Leaves the classes as they are: for ablations and for preprocessing defenses. It is not REFINE.
/// \tparam kTask fixes the number of classes at compile time, or leaves it to `classes`
template <Task kTask = dynamic_task>
struct None {
  static constexpr int static_classes = kTask.classes;  ///< known at compile time, or `dynamic`

  int classes = kTask.classes;                            ///< at least 1
  std::vector<std::int64_t> permutation = make(classes);  ///< 0 … classes−1

 private:
  static std::vector<std::int64_t> make(int classes) {
    if (classes < 1) throw Error("remap: classes must be positive, got {}; set .classes = 10", classes);
    std::vector<std::int64_t> permutation(static_cast<std::size_t>(classes));
    std::iota(permutation.begin(), permutation.end(), std::int64_t{0});
    return permutation;
  }
};

/// Renames class j to (j + by) mod classes.
/// \tparam kTask fixes the number of classes at compile time, or leaves it to `classes`
template <Task kTask = dynamic_task>
struct Shift {
  static constexpr int static_classes = kTask.classes;  ///< known at compile time, or `dynamic`

  int classes = kTask.classes;                                ///< at least 1
  int by = 1;                                                 ///< any, also negative
  std::vector<std::int64_t> permutation = make(classes, by);  ///< the new name of each class

 private:
  static std::vector<std::int64_t> make(int classes, int by) {
    if (classes < 1) throw Error("Shift: classes must be positive, got {}; set .classes = 10", classes);
    std::vector<std::int64_t> permutation;
    for (int j = 0; j < classes; ++j) permutation.push_back((j + by % classes + classes) % classes);
    return permutation;
  }
};

/// Draws a permutation of 0 … classes−1 without a fixed point, uniformly from all of them.
/// \param classes at least 2
/// \param seed the same seed gives the same permutation
/// \throws Error if there are fewer than two classes
inline std::vector<std::int64_t> random_derangement(int classes, std::uint64_t seed) {
  if (classes < 2) {
    throw Error("derangement: classes must be at least 2, got {}; a derangement renames every class",
                classes);
  }
  Random random(derived_seed(seed, "derangement"));
  for (;;) {  // succeeds after e tries on average
    std::vector<std::int64_t> permutation = random_permutation(random, classes);
    bool has_fixed_point = false;
    for (int j = 0; j < classes; ++j) has_fixed_point |= permutation[static_cast<std::size_t>(j)] == j;
    if (!has_fixed_point) return permutation;
  }
}

/// Renames the classes by a random permutation without a fixed point, as published (Chen et al., 2025,
/// `chen2025refine`).
/// \tparam kTask fixes the number of classes at compile time, or leaves it to `classes`
template <Task kTask = dynamic_task>
struct Derangement {
  static constexpr int static_classes = kTask.classes;  ///< known at compile time, or `dynamic`

  int classes = kTask.classes;                                                ///< at least 2
  std::uint64_t seed = default_seed;                                          ///< of the draw
  std::vector<std::int64_t> permutation = random_derangement(classes, seed);  ///< the new name of each class
};

}  // namespace refine::remaps
