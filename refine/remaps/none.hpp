#pragma once

#include <refine/remaps/shift.hpp>

namespace refine::remaps {

/// The null policy: every class keeps its name. An ablation, no defense.
template <Task kTask = dynamic_task>
struct None {
  static constexpr int static_classes = kTask.classes;

  int classes = kTask.classes;
  std::vector<std::int64_t> permutation = Shift<kTask>{.classes = classes, .by = 0}.permutation;
};

}  // namespace refine::remaps
