#pragma once

#include <concepts>
#include <source_location>
#include <string>
#include <type_traits>

#include <refine/core/error.hpp>
#include <refine/core/task.hpp>

/// True if a type has a public member of this name. A concept that has an optional member refuses types in which it is
/// declared but cannot be used as documented: nothing else would say that it is ignored.
///
/// `&T::name` does not find members that are overloaded or templates. Of these, only the ones that lack nothing but `const`
/// are found, by the call on an object that is not constant.
/// \param ... the call that the library makes; `refine_object` is the object
#define REFINE_DECLARES(T, name, ...) \
  (                                   \
      requires { &T::name; } || requires(T & refine_object) { refine_object.__VA_ARGS__; })

namespace refine {

/// Fails to compile unless `why` is empty; the compiler then prints `why` as the argument of
/// `Agreement`.
///
/// One `constexpr` function writes the text for both times of checking: at compile time it is the
/// argument of `Agreement`, and for extents that are known only at run time it goes to
/// `require_agreement`.
///
/// \tparam why what does not fit and how to fix it; empty if everything fits
template <Message why>
struct Agreement {
  static_assert(why.empty(), "these parts do not fit together; Agreement<...> holds the reason");
  static constexpr bool holds = true;  ///< names the type in an expression, which instantiates it
};

/// Checks at run time what `Agreement` checks at compile time.
/// \param why what does not fit and how to fix it; empty if everything fits
/// \param where the place that the error reports
/// \throws Error with `why` as its text unless it is empty
inline void require_agreement(const Message& why,
                              std::source_location where = std::source_location::current()) {
  if (!why.empty()) throw Error(std::string(why.view()), where);
}

namespace detail {

template <auto>
struct IsConstant;

// True if `T::name` is a constant and not a member of each object. The first requirement keeps GCC
// from a hard error.
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

// Optional members that several kinds of policies have. Each is absent, or can be used on a constant object.

template <typename T>
concept CheckFits = !REFINE_DECLARES(T, check, check()) || requires(const T& t) {
  t.check();
};

template <typename T>
concept DescribeFits = !REFINE_DECLARES(T, describe, describe()) || requires(const T& t) {
  t.describe();
};

template <typename T>
concept WithModuleFits = !REFINE_DECLARES(T, with_module, with_module(refine_object.module)) ||
                         requires(const T& t, decltype(T::module) module) {
  t.with_module(module);
};

template <typename T>
concept CudaGraphSafeFits = !REFINE_DECLARES(T, cuda_graph_safe, cuda_graph_safe) || requires(const T& t) {
  { t.cuda_graph_safe } -> std::convertible_to<bool>;
};

/// Those of every policy that holds a module.
template <typename T>
concept PolicyMembersFit = WithModuleFits<T> && DescribeFits<T> && CudaGraphSafeFits<T>;

}  // namespace detail

/// Returns the task that a type fixes at compile time: its `static_task`, or its `task` if that is
/// a constant.
/// \return `dynamic_task` if the type fixes none
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

/// Returns the image shape that a type fixes at compile time: its `static_image`, its `image` if
/// that is a constant, or the shape of its task.
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

/// Returns the number of classes that a type fixes at compile time: its `static_classes`, its
/// `classes` if that is a constant, or the classes of its task.
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
