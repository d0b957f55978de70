#pragma once

#include <refine/core/image_shape.hpp>

namespace refine {

/// What a classifier is for: images of one shape, told apart into `classes` classes. A value and a template
/// argument: `backbones::ResNet18<Task{ImageShape{3, 32, 32}, 10}>`. Any extent may be `dynamic`; what is
/// known is checked by the compiler, the rest once, when the parts meet, in the same words.
struct Task {
  ImageShape image = {};
  int classes = dynamic;

  constexpr bool is_static() const { return image.is_static() && classes != dynamic; }

  friend constexpr bool operator==(const Task&, const Task&) = default;
};

constexpr bool compatible(const Task& a, const Task& b) {
  return compatible(a.image, b.image) && compatible(a.classes, b.classes);
}

constexpr Task merged(const Task& a, const Task& b) {
  return {merged(a.image, b.image), merged(a.classes, b.classes)};
}

/// Everything is told at run time.
inline constexpr Task dynamic_task = {};

/// The tasks of the field's usual datasets.
namespace tasks {

inline constexpr Task cifar10 = {ImageShape{3, 32, 32}, 10};
inline constexpr Task fashion_mnist = {ImageShape{3, 32, 32}, 10};  ///< grey, padded to 32×32, repeated

}  // namespace tasks

}  // namespace refine
