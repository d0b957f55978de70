#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <memory>
#include <type_traits>
#include <utility>

#include <refine/core/error.hpp>
#include <refine/nn/torch_random.hpp>

namespace refine::nn {

/// The module type of a policy, which holds its module in a `std::shared_ptr` called `module`.
template <typename Policy>
using ModuleOf = typename std::remove_cvref_t<decltype(Policy::module)>::element_type;

/// Whether a module of this static type says how it is cloned, as a `torch::nn::Cloneable` does.
template <typename Module>
concept CanClone = !std::same_as<decltype(&Module::clone), decltype(&torch::nn::Module::clone)>;

/// The same policy around another module of the same type. A policy that holds its module in more places
/// than `module` says how, by a member `with_module(module)`.
template <typename Policy>
Policy with_module(const Policy& policy, decltype(Policy::module) module) {
  if constexpr (requires { policy.with_module(module); }) {
    return policy.with_module(std::move(module));
  } else {
    Policy copy = policy;
    copy.module = std::move(module);
    return copy;
  }
}

namespace detail {

/// Gives the tensors of `to` the values, type and device of those of `from`, in their order: a `Sequential`
/// renames its children when it is cloned. \throws Error when they are not as many or not of the same shapes
template <typename Tensors>
void copy_tensors(const Tensors& from, Tensors to) {
  const auto fits = [](const auto& a, const auto& b) { return a.value().sizes() == b.value().sizes(); };
  if (!std::equal(from.begin(), from.end(), to.begin(), to.end(), fits)) {
    throw Error("a module's clone has other tensors than the module; mend its clone() or reset()");
  }
  for (std::size_t i = 0; i < to.size(); ++i) {
    const at::Tensor& source = from[i].value();
    to[i].value().set_data(source.detach().clone());
    to[i].value().set_requires_grad(source.requires_grad());
  }
}

}  // namespace detail

/// The same policy with its state copied, so that changing one leaves the other alone.
/// \throws c10::Error when the module does not say how it is cloned, Error when its clone is of another kind
template <typename Policy>
Policy deep_copy(const Policy& policy) {
  // Seeded: a clone draws fresh weights before it overwrites them, and nobody else's draws shall move.
  auto module =
      with_torch_seed(0, [&] { return std::dynamic_pointer_cast<ModuleOf<Policy>>(policy.module->clone()); });
  if (!module) throw Error("a module's clone is of another kind than the module");
  // `Cloneable` passes over children that are bare modules, and leaves them as they were drawn.
  detail::copy_tensors(policy.module->named_parameters(), module->named_parameters());
  detail::copy_tensors(policy.module->named_buffers(), module->named_buffers());
  return with_module(policy, std::move(module));
}

}  // namespace refine::nn
