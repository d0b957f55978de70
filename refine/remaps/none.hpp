#pragma once

#include <cstdint>
#include <numeric>
#include <vector>

#include <refine/core/error.hpp>
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
    if (classes < 1) throw Error("refine: a remap needs to know its classes; say .classes = 10");
    std::vector<std::int64_t> permutation(static_cast<std::size_t>(classes));
    std::iota(permutation.begin(), permutation.end(), std::int64_t{0});
    return permutation;
  }
};

}  // namespace refine::remaps
