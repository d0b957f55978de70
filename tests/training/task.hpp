#pragma once

#include <refine/core/task.hpp>

namespace refine {

/// The task that the networks of these tests are trained on.
inline constexpr Task task{ImageShape{3, 16, 16}, 4};

}  // namespace refine
