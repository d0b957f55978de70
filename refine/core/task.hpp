#pragma once

#include <fmt/format.h>

#include <string_view>

#include <refine/core/error.hpp>

namespace refine {

/// Marks an extent that is known only at run time, like `std::dynamic_extent` and `Eigen::Dynamic`.
inline constexpr int dynamic = -1;

/// The shape of one image: channels × height × width. Any extent may be `dynamic`.
struct ImageShape {
  int channels = dynamic;  ///< 3 for colour, 1 for grey
  int height = dynamic;    ///< in pixels
  int width = dynamic;     ///< in pixels

  /// True if all extents are known.
  constexpr bool is_static() const { return channels != dynamic && height != dynamic && width != dynamic; }

  friend constexpr bool operator==(const ImageShape&, const ImageShape&) = default;
};

/// True if the extents are equal, or one of them is `dynamic`.
constexpr bool compatible(int a, int b) {
  return a == dynamic || b == dynamic || a == b;
}

/// True if all extents that both shapes know are equal.
constexpr bool compatible(const ImageShape& a, const ImageShape& b) {
  return compatible(a.channels, b.channels) && compatible(a.height, b.height) && compatible(a.width, b.width);
}

/// Returns `a`, or `b` if `a` is `dynamic`.
constexpr int merged(int a, int b) {
  return a == dynamic ? b : a;
}

/// Returns `a` with its `dynamic` extents replaced by those of `b`.
constexpr ImageShape merged(const ImageShape& a, const ImageShape& b) {
  return {merged(a.channels, b.channels), merged(a.height, b.height), merged(a.width, b.width)};
}

/// Appends a shape as `3x32x32`, with `?` for a `dynamic` extent.
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

/// What a classifier does: it assigns images of one shape to `classes` classes.
///
/// A value, and a template argument: `backbones::ResNet18<Task{ImageShape{3, 32, 32}, 10}>`. Any
/// extent may be `dynamic`. Known extents are checked by the compiler, the others once, when a
/// pipeline is put together.
struct Task {
  ImageShape image = {};  ///< of the images that the classifier takes
  int classes = dynamic;  ///< at least 2

  /// True if all extents are known.
  constexpr bool is_static() const { return image.is_static() && classes != dynamic; }

  friend constexpr bool operator==(const Task&, const Task&) = default;
};

/// True if all extents that both tasks know are equal.
constexpr bool compatible(const Task& a, const Task& b) {
  return compatible(a.image, b.image) && compatible(a.classes, b.classes);
}

/// Returns `a` with its `dynamic` extents replaced by those of `b`.
constexpr Task merged(const Task& a, const Task& b) {
  return {merged(a.image, b.image), merged(a.classes, b.classes)};
}

/// A task of which nothing is known at compile time.
inline constexpr Task dynamic_task = {};

/// Tasks of common data sets.
namespace tasks {

inline constexpr Task cifar10 = {ImageShape{3, 32, 32}, 10};  ///< CIFAR-10
inline constexpr Task fashion_mnist = {ImageShape{3, 32, 32},
                                       10};  ///< Fashion-MNIST, padded to 32×32, the grey channel repeated

}  // namespace tasks

}  // namespace refine

/// \cond
/// Formats a shape as `3x32x32`, with `?` for a `dynamic` extent.
template <>
struct fmt::formatter<refine::ImageShape> : fmt::formatter<fmt::string_view> {
  /// Writes the shape to `context`.
  template <typename Context>
  auto format(const refine::ImageShape& shape, Context& context) const {
    refine::Message text;
    const std::string_view view = (text << shape).view();
    return fmt::formatter<fmt::string_view>::format({view.data(), view.size()}, context);
  }
};

/// Formats a task as `3x32x32, 10 classes`, with `?` for a `dynamic` extent.
template <>
struct fmt::formatter<refine::Task> : fmt::formatter<fmt::string_view> {
  /// Writes the task to `context`.
  template <typename Context>
  auto format(const refine::Task& task, Context& context) const {
    refine::Message text;
    text << task.image << ", ";
    if (task.classes == refine::dynamic) {
      text << "?";
    } else {
      text << task.classes;
    }
    const std::string_view view = (text << " classes").view();
    return fmt::formatter<fmt::string_view>::format({view.data(), view.size()}, context);
  }
};
/// \endcond
