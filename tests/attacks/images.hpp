#pragma once

#include <cstdint>

#include <refine/core/task.hpp>
#include <refine/data/dataset.hpp>
#include <refine/data/sources.hpp>

namespace refine::attacks {

/// The tasks of these tests.
inline constexpr Task small = {ImageShape{3, 16, 16}, 5};
inline constexpr Task smaller = {ImageShape{3, 12, 12}, 5};

/// Returns `n` clean images of the task.
template <Task task = small>
data::Dataset clean(std::int64_t n) {
  return data::Synthetic{.task = task, .train = n, .test = 0}.make().train;
}

}  // namespace refine::attacks
