#pragma once

#include <cstdint>
#include <numeric>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>

namespace refine::remaps {

/// The null policy: every class keeps its name. An ablation, no defense.
template <Task kTask = dynamic_task>
struct None {
  static constexpr int static_classes = kTask.classes;

  int classes = kTask.classes;
  std::vector<std::int64_t> permutation = make(classes);

 private:
  static std::vector<std::int64_t> make(int classes) {
    if (classes < 1) throw Error("a remap needs to know its classes; say .classes = 10");
    std::vector<std::int64_t> permutation(static_cast<std::size_t>(classes));
    std::iota(permutation.begin(), permutation.end(), std::int64_t{0});
    return permutation;
  }
};

/// Class j becomes class (j + by) mod classes.
template <Task kTask = dynamic_task>
struct Shift {
  static constexpr int static_classes = kTask.classes;

  int classes = kTask.classes;
  int by = 1;
  std::vector<std::int64_t> permutation = make(classes, by);

 private:
  static std::vector<std::int64_t> make(int classes, int by) {
    if (classes < 1) throw Error("a Shift needs to know its classes; say .classes = 10");
    std::vector<std::int64_t> permutation;
    for (int j = 0; j < classes; ++j) permutation.push_back((j + by % classes + classes) % classes);
    return permutation;
  }
};

/// A permutation of 0 … classes-1 that moves every one of them, drawn evenly from all that do.
/// \throws Error for fewer than two classes, which nothing can move.
inline std::vector<std::int64_t> random_derangement(int classes, std::uint64_t seed) {
  if (classes < 2) {
    throw Error("a derangement moves every class, which {} class(es) can't be; it needs 2 at least", classes);
  }
  Random random(derived_seed(seed, "derangement"));
  for (;;) {  // e tries on average
    std::vector<std::int64_t> permutation = random_permutation(random, classes);
    bool moves_all = true;
    for (int j = 0; j < classes; ++j) moves_all = moves_all && permutation[static_cast<std::size_t>(j)] != j;
    if (moves_all) return permutation;
  }
}

/// The published remap: a random permutation without a fixed point (Chen et al., 2025, `chen2025refine`).
template <Task kTask = dynamic_task>
struct Derangement {
  static constexpr int static_classes = kTask.classes;

  int classes = kTask.classes;
  std::uint64_t seed = default_seed;
  std::vector<std::int64_t> permutation = random_derangement(classes, seed);
};

}  // namespace refine::remaps
