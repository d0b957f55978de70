#pragma once

#include <source_location>
#include <string>
#include <type_traits>

#include <refine/core/error.hpp>
#include <refine/core/task.hpp>

namespace refine {

/// Does not compile unless `why` is empty; the compiler prints `why` as the argument of `Agreement`. The same
/// `Message`, made from run-time extents, goes to `require_agreement`: one text for both.
template <Message why>
struct Agreement {
  static_assert(why.empty(),
                "these parts do not fit together; the text in Agreement<...> says what, why and where");
  static constexpr bool holds = true;
};

/// Checks at run time what `Agreement` checks at compile time.
/// \throws Error with `why` as its text unless `why` is empty
inline void require_agreement(const Message& why,
                              std::source_location where = std::source_location::current()) {
  if (!why.empty()) throw Error(std::string(why.view()), where);
}

namespace detail {

template <auto>
struct IsConstant;

/// `T::name` is a constant, not a member of each object. The first requirement keeps GCC from a hard error.
#define REFINE_FIXES(name)                                                           \
  (                                                                                  \
      requires { requires !std::is_member_object_pointer_v<decltype(&T::name)>; } && \
      requires { typename detail::IsConstant<T::name>; })

template <typename T>
concept FixesStaticTask = REFINE_FIXES(static_task);
template <typename T>
concept FixesTask = REFINE_FIXES(task);
template <typename T>
concept FixesStaticImage = REFINE_FIXES(static_image);
template <typename T>
concept FixesImage = REFINE_FIXES(image);
template <typename T>
concept FixesStaticClasses = REFINE_FIXES(static_classes);
template <typename T>
concept FixesClasses = REFINE_FIXES(classes);

#undef REFINE_FIXES

}  // namespace detail

/// The task that a type fixes at compile time: its `static_task`, or its `task` where that is a constant;
/// `dynamic_task` otherwise.
template <typename T>
consteval Task static_task_of() {
  if constexpr (detail::FixesStaticTask<T>) {
    return T::static_task;
  } else if constexpr (detail::FixesTask<T>) {
    return T::task;
  } else {
    return dynamic_task;
  }
}

/// The image shape that a type fixes at compile time, by `static_image`, a constant `image`, or its task.
template <typename T>
consteval ImageShape static_image_of() {
  if constexpr (detail::FixesStaticImage<T>) {
    return T::static_image;
  } else if constexpr (detail::FixesImage<T>) {
    return T::image;
  } else {
    return static_task_of<T>().image;
  }
}

/// The number of classes that a type fixes at compile time, by `static_classes`, a constant `classes`, or its
/// task.
template <typename T>
consteval int static_classes_of() {
  if constexpr (detail::FixesStaticClasses<T>) {
    return T::static_classes;
  } else if constexpr (detail::FixesClasses<T>) {
    return T::classes;
  } else {
    return static_task_of<T>().classes;
  }
}

}  // namespace refine
