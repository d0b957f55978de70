#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <concepts>
#include <map>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include <refine/core/check.hpp>
#include <refine/core/task.hpp>
#include <refine/nn/clone.hpp>

namespace refine::backbones {

/// A classifier. For `b` of type `B`:
///
///  1. `b.task` is its `Task`: a constant, or a member if an extent is dynamic;
///  2. `b.forward(images)` takes float N×C×H×W in [0, 1] and returns logits N×classes;
///  3. `b.module` is a `std::shared_ptr` to the `torch::nn::Module` that holds its state. `freeze`
///     and `deep_copy` require that its type implements `clone` (`nn::CanClone`), as a
///     `torch::nn::Cloneable` does;
///  4. `B` is copyable; copies share the module.
///
/// Optional members:
///
///  - `b.cuda_graph_safe`: if true, training may record its work as a CUDA graph and replay it
///    (`nn::is_replayable`);
///  - `b.named_constants()`: the tensors that it computes with and that its module does not hold,
///    as a `std::map<std::string, at::Tensor>` on the CPU. They are compared when weights are
///    loaded, and stored in exported files.
template <typename B>
concept Backbone = std::copyable<B> && requires(const B& b, const at::Tensor& images) {
  { b.task } -> std::convertible_to<Task>;
  { b.forward(images) } -> std::same_as<at::Tensor>;
  { *b.module } -> std::convertible_to<torch::nn::Module&>;
};

/// A backbone that is constant: made by `freeze`, or constant from the start.
template <typename B>
concept FrozenBackbone = Backbone<B> && requires {
  requires B::frozen;
};

/// A backbone whose input normalisation can be called separately:
/// `b.forward_normalized(b.normalize(images))` equals `b.forward(images)`.
template <typename B>
concept NormalizingBackbone = Backbone<B> && requires(const B& b, const at::Tensor& images) {
  { b.normalize(images) } -> std::same_as<at::Tensor>;
  { b.forward_normalized(images) } -> std::same_as<at::Tensor>;
};

/// Returns `backbone.named_constants()`, or an empty map if it has no such member.
template <Backbone B>
std::map<std::string, at::Tensor> constants_of(const B& backbone) {
  if constexpr (requires { backbone.named_constants(); }) {
    return backbone.named_constants();
  } else {
    return {};
  }
}

using nn::deep_copy;
using nn::with_module;

}  // namespace refine::backbones
