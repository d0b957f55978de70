#pragma once

#include <concepts>

/// True if a type has a public member of this name. A concept that has an optional member refuses types in which it is
/// declared but cannot be used as documented: nothing else would say that it is ignored.
///
/// `&T::name` does not find members that are overloaded or templates. Of these, the call on an object that is not
/// constant finds the ones that lack only `const`.
/// \param ... the call that the library makes
#define REFINE_DECLARES(T, name, ...) \
  (                                   \
      requires { &T::name; } || requires(T & refine_object) { refine_object.__VA_ARGS__; })

namespace refine::detail {

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

}  // namespace refine::detail
