#pragma once

#include <cstdint>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/core/task.hpp>

namespace refine::remaps {

/// Class j becomes class (j + by) mod classes.
template <Task kTask = dynamic_task>
struct Shift {
  static constexpr int static_classes = kTask.classes;

  int classes = kTask.classes;
  int by = 1;
  std::vector<std::int64_t> permutation = make(classes, by);

 private:
  static std::vector<std::int64_t> make(int classes, int by) {
    if (classes < 1) throw Error("refine: a Shift needs to know its classes; say .classes = 10");
    std::vector<std::int64_t> permutation;
    for (int j = 0; j < classes; ++j) permutation.push_back((j + by % classes + classes) % classes);
    return permutation;
  }
};

}  // namespace refine::remaps
