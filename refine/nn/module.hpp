#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/rand.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <exception>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/core/task.hpp>
#include <refine/nn/device.hpp>
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
  /// compute the same. Saved defenses hold a digest of it: later versions must give the same text for the same module.
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

/// While it exists, a module is in evaluation mode. One that is in it already is only read, so that other
/// threads may use it.
class ScopedEvaluation {
 public:
  explicit ScopedEvaluation(torch::nn::Module& module) {
    module.apply([this](torch::nn::Module& part) { modes_.emplace_back(&part, part.is_training()); });
    if (std::ranges::none_of(modes_, &std::pair<torch::nn::Module*, bool>::second)) modes_.clear();
    if (!modes_.empty()) module.eval();
  }

  ScopedEvaluation(const ScopedEvaluation&) = delete;
  ScopedEvaluation& operator=(const ScopedEvaluation&) = delete;

  ~ScopedEvaluation() {
    for (const auto& [part, mode] : modes_) part->train(mode);  // children come after their parents
  }

 private:
  std::vector<std::pair<torch::nn::Module*, bool>> modes_;
};

/// While it exists, buffers may change: a network may count or average in its forward.
class ScopedBuffers {
 public:
  explicit ScopedBuffers(const torch::nn::Module& module) {
    for (const at::Tensor& buffer : module.buffers()) {
      if (buffer.defined() && !buffer.is_meta()) saved_.emplace_back(buffer, buffer.clone());
    }
  }

  ScopedBuffers(const ScopedBuffers&) = delete;
  ScopedBuffers& operator=(const ScopedBuffers&) = delete;

  ~ScopedBuffers() {
    const c10::NoGradGuard no_grad;
    for (auto& [buffer, saved] : saved_) {
      if (!buffer.equal(saved)) buffer.copy_(saved);  // one that is unchanged may be read by other threads
    }
  }

 private:
  std::vector<std::pair<at::Tensor, at::Tensor>> saved_;
};

/// Returns what a policy makes of images, in evaluation mode and without gradient. Leaves mode and buffers unchanged.
/// \param images on the device of its module
template <typename Policy>
at::Tensor ask(const Policy& policy, const at::Tensor& images) {
  const c10::NoGradGuard no_grad;
  const ScopedEvaluation evaluation(*policy.module);
  const ScopedBuffers buffers(*policy.module);
  return policy.forward(images);
}

/// Does the same with seeded generators, which are restored.
template <typename Policy>
at::Tensor ask_seeded(const Policy& policy, const at::Tensor& images) {
  return with_torch_seed(0, [&]() -> at::Tensor {
    std::optional<ScopedTorchSeed> device_seed;
    if (!images.device().is_cpu() && !images.is_meta()) device_seed.emplace(images.device()).seed(0);
    return ask(policy, images);
  });
}

/// Returns the shape of the images that a policy takes, as far as it is known.
template <typename Policy>
ImageShape image_shape_of(const Policy& policy) {
  if constexpr (requires { Task(policy.task); }) {
    return Task(policy.task).image;
  } else if constexpr (requires { ImageShape(policy.image); }) {
    return policy.image;
  } else {
    return {};
  }
}

/// Returns the largest difference of two answers; 0 if they differ by rounding only, nothing if they
/// cannot be compared.
inline std::optional<double> difference(const at::Tensor& a, const at::Tensor& b) {
  if (!a.defined() || !b.defined() || a.sizes() != b.sizes()) return std::nullopt;
  if (a.numel() == 0) return 0;
  const at::Tensor x = a.cpu().to(at::kDouble), y = b.cpu().to(at::kDouble);
  // Also for half and for other kernels on a GPU. What is drawn anew differs by more.
  const double rounding = 0.01 * x.abs().nan_to_num(0, 0, 0).max().item<double>();
  if (at::allclose(x, y, /*rtol=*/0, rounding, /*equal_nan=*/true)) return 0;
  return (x - y).abs().max().item<double>();
}

/// Checks that a copy answers as its source does: what a module has not registered is not copied.
///
/// Both are run on two images. Nothing is checked where the shape of the images is not known, or
/// the source cannot be asked or answers differently each time.
/// \throws Error if the answers differ by more than rounding
template <typename Policy>
void check_copy(const Policy& source, const Policy& copy) {
  constexpr const char* hint =
      "is every layer registered (register_module), and every tensor (register_parameter, register_buffer)?";
  const ImageShape shape = image_shape_of(source);
  const at::Device device = device_of(*source.module).value_or(at::kCPU);
  if (!shape.is_static() || device.is_meta()) return;
  at::Tensor images, wanted;
  try {
    images = with_torch_seed(0, [&] {
               return at::rand({2, shape.channels, shape.height, shape.width});
             }).to(device);
    wanted = ask_seeded(source, images);
  } catch (const std::exception&) {
    return;  // its first use reports it
  }
  at::Tensor answer;
  try {
    answer = ask_seeded(copy, images);
  } catch (const std::exception& error) {
    if (is_out_of_memory(error)) return;
    throw Error("cannot copy a module: its copy cannot be called ({}); {}", describe_error(error), hint);
  }
  const std::optional<double> differs = difference(wanted, answer);
  if (differs == 0) return;
  try {
    if (difference(wanted, ask_seeded(source, images)) != 0) return;  // it does not repeat itself, either
  } catch (const std::exception&) {
    return;
  }
  throw Error("cannot copy a module: the answers of its copy differ ({}); {}",
              differs ? fmt::format("by up to {:.2g}", *differs) : "in shape", hint);
}

}  // namespace detail

/// Returns the sizes of a tensor as messages show them: `120×3`.
inline std::string sizes_text(const at::Tensor& tensor) {
  if (!tensor.defined()) return "an undefined tensor";
  return tensor.dim() == 0 ? "a single number" : fmt::format("{}", fmt::join(tensor.sizes(), "×"));
}

/// Returns a copy of a policy with its own module: changing one does not affect the other.
///
/// If the shape of its images is known, source and copy are run on two images, and must agree: what
/// a module has not registered is not copied.
/// \throws c10::Error if the module does not implement `clone`
/// \throws Error if it is null, its clone has another type or other tensors, or the copy's outputs differ
template <typename Policy>
Policy deep_copy(const Policy& policy) {
  if (!policy.module) {
    throw Error(
        "cannot copy a backbone or transform: its module must not be null; make a torch::nn::Module, without "
        "tensors if there are none");
  }
  // Seeded: a clone draws fresh weights before it overwrites them, which must not change other
  // draws.
  auto module =
      with_torch_seed(0, [&] { return std::dynamic_pointer_cast<ModuleOf<Policy>>(policy.module->clone()); });
  if (!module) throw Error("cannot copy a module: its clone has another type; fix its clone()");
  // `Cloneable` does not copy children that are bare modules.
  detail::copy_tensors(policy.module->named_parameters(), module->named_parameters());
  detail::copy_tensors(policy.module->named_buffers(), module->named_buffers());
  Policy copy = with_module(policy, std::move(module));
  if constexpr (requires(const at::Tensor& images) {
                  { policy.forward(images) } -> std::same_as<at::Tensor>;
                }) {
    detail::check_copy(policy, copy);
  }
  return copy;
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
