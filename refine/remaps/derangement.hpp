#pragma once

#include <cstdint>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/core/seed.hpp>
#include <refine/core/task.hpp>

namespace refine::remaps {

/// A permutation of 0 … classes-1 that moves every one of them, drawn evenly from all that do.
/// \throws Error for fewer than two classes, which nothing can move.
inline std::vector<std::int64_t> random_derangement(int classes, std::uint64_t seed) {
  if (classes < 2) {
    throw Error("refine: a derangement moves every class, which {} class(es) can't be; it needs 2 at least",
                classes);
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
