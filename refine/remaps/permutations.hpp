#pragma once

#include <cstdint>
#include <numeric>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>

namespace refine::remaps {

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
