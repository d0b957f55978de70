#pragma once

#include <refine/core/error.hpp>

namespace refine {

/// An extent that is known only at run time, as in `std::dynamic_extent` and `Eigen::Dynamic`.
inline constexpr int dynamic = -1;

/// The shape of one image, in pixels: channels × height × width. Any extent may be `dynamic`.
struct ImageShape {
  int channels = dynamic;
  int height = dynamic;
  int width = dynamic;

  constexpr bool is_static() const { return channels != dynamic && height != dynamic && width != dynamic; }

  friend constexpr bool operator==(const ImageShape&, const ImageShape&) = default;
};

/// True when no extent that both know differs.
constexpr bool compatible(int a, int b) {
  return a == dynamic || b == dynamic || a == b;
}

constexpr bool compatible(const ImageShape& a, const ImageShape& b) {
  return compatible(a.channels, b.channels) && compatible(a.height, b.height) && compatible(a.width, b.width);
}

/// What both say together: the extents of `a`, and those of `b` where `a` leaves them open.
constexpr int merged(int a, int b) {
  return a == dynamic ? b : a;
}

constexpr ImageShape merged(const ImageShape& a, const ImageShape& b) {
  return {merged(a.channels, b.channels), merged(a.height, b.height), merged(a.width, b.width)};
}

/// Appends `3x32x32`, with `?` for an open extent.
constexpr Message& operator<<(Message& message, const ImageShape& shape) {
  const int extents[] = {shape.channels, shape.height, shape.width};
  for (int i = 0; i < 3; ++i) {
    if (i > 0) message << "x";
    if (extents[i] == dynamic) {
      message << "?";
    } else {
      message << extents[i];
    }
  }
  return message;
}

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
