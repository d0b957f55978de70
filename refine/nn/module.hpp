#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include <refine/core/error.hpp>
#include <refine/nn/torch_random.hpp>

namespace refine::nn {

/// The module type of a policy, which holds its module in a `std::shared_ptr` named `module`.
template <typename Policy>
using ModuleOf = typename std::remove_cvref_t<decltype(Policy::module)>::element_type;

/// Satisfied if a module type implements `clone`, as a `torch::nn::Cloneable` does.
template <typename Module>
concept CanClone = !std::same_as<decltype(&Module::clone), decltype(&torch::nn::Module::clone)>;

/// A module whose tensors do not show all that it computes, such as the program of a file.
class OpaqueModule {
 public:
  virtual ~OpaqueModule() = default;

  /// Returns what its tensors do not show; empty if there is nothing. Two modules with the same text and tensors
  /// compute the same.
  virtual std::string code() const = 0;
};

/// Returns what the tensors of a module and of those in it do not show; empty if there is nothing.
inline std::string code_of(const torch::nn::Module& module) {
  std::string code;
  module.apply([&](const std::string& name, const torch::nn::Module& part) {
    const auto* opaque = dynamic_cast<const OpaqueModule*>(&part);
    const std::string text = opaque ? opaque->code() : "";
    if (!text.empty()) code += name + '\n' + text + '\n';
  });
  return code;
}

/// Returns what the weights of a policy do not show, such as the size of the images that it sees, in one
/// line. Returns an empty text if the policy has no member `describe()`.
template <typename Policy>
std::string describe(const Policy& policy) {
  if constexpr (requires { policy.describe(); }) {
    return policy.describe();
  } else {
    return {};
  }
}

/// Returns a copy of a policy that holds another module.
///
/// A policy that refers to its module from further members implements it by a member
/// `with_module(module)`.
/// \param policy to copy
/// \param module of the policy's module type
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

/// Assigns value, type and device of the tensors of `from` to those of `to`, in order: a
/// `Sequential` renames its children when it is cloned.
/// \throws Error if the numbers or shapes of tensors differ
template <typename Tensors>
void copy_tensors(const Tensors& from, Tensors to) {
  const auto fits = [](const auto& a, const auto& b) { return a.value().sizes() == b.value().sizes(); };
  if (!std::equal(from.begin(), from.end(), to.begin(), to.end(), fits)) {
    throw Error("cannot copy a module: its clone has other tensors; fix its clone() or reset()");
  }
  for (std::size_t i = 0; i < to.size(); ++i) {
    const at::Tensor& source = from[i].value();
    if (to[i].value().is_same(source)) continue;  // a part that both share
    to[i].value().set_data(source.detach().clone());
    to[i].value().set_requires_grad(source.requires_grad());
  }
}

}  // namespace detail

/// Returns a copy of a policy with its own module: changing one does not affect the other.
/// \throws c10::Error if the module does not implement `clone`
/// \throws Error if its clone has another type or other tensors
template <typename Policy>
Policy deep_copy(const Policy& policy) {
  // Seeded: a clone draws fresh weights before it overwrites them, which must not change other
  // draws.
  auto module =
      with_torch_seed(0, [&] { return std::dynamic_pointer_cast<ModuleOf<Policy>>(policy.module->clone()); });
  if (!module) throw Error("cannot copy a module: its clone has another type; fix its clone()");
  // `Cloneable` does not copy children that are bare modules.
  detail::copy_tensors(policy.module->named_parameters(), module->named_parameters());
  detail::copy_tensors(policy.module->named_buffers(), module->named_buffers());
  return with_module(policy, std::move(module));
}

/// Returns the parameters and buffers of a module by name, like PyTorch's `state_dict`.
///
/// The tensors are shared, not copied.
/// \param module the module
/// \param prefix put before each name
std::map<std::string, at::Tensor> state_dict(const torch::nn::Module& module, const std::string& prefix = "");

/// Copies tensors into a module.
///
/// The names must be exactly those of the module, with the same shapes. Only `num_batches_tracked`
/// of a BatchNorm may be missing, as in PyTorch; it becomes 0.
/// \param module receives the values
/// \param state tensors by name
/// \param from the source of the tensors, for messages
/// \param prefix that the names in `state` have before those of the module
/// \throws Error that names the first tensor that does not fit; the module is then unchanged
void load_state_dict(torch::nn::Module& module, const std::map<std::string, at::Tensor>& state,
                     const std::string& from, const std::string& prefix = "");

}  // namespace refine::nn

#if !defined(REFINE_COMPILED_LIB)
#include <refine/nn/impl/module.ipp>
#endif
