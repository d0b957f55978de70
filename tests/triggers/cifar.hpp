#pragma once

#include <refine/core/task.hpp>

namespace refine::triggers {

/// Shape of the images in most tests.
inline constexpr ImageShape cifar = tasks::cifar10.image;

}  // namespace refine::triggers
