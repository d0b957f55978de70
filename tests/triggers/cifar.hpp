#pragma once

#include <refine/core/task.hpp>

namespace refine::triggers {

/// The images that most tests stamp.
inline constexpr ImageShape cifar = tasks::cifar10.image;

}  // namespace refine::triggers
