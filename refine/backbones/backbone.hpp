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
///  1. `b.task` is its `Task`: a constant, or a member where an extent is dynamic;
///  2. `b.forward(images)` takes float N×C×H×W in [0, 1] and returns logits N×classes;
///  3. `b.module` is a `std::shared_ptr` to the `torch::nn::Module` that holds its state, a
///     `torch::nn::Cloneable` if it is to be frozen;
///  4. `B` is copyable; copies share the module.
///
/// Where `b.cuda_graph_safe` is true, training may record its work and replay it (`nn::is_replayable`).
///
/// Where it computes with tensors that its module does not hold, `b.named_constants()` gives them, on the
/// host, as a `std::map<std::string, at::Tensor>`: they are compared when weights are loaded, and travel with
/// an exported file.
template <typename B>
concept Backbone = std::copyable<B> && requires(const B& b, const at::Tensor& images) {
  { b.task } -> std::convertible_to<Task>;
  { b.forward(images) } -> std::same_as<at::Tensor>;
  { *b.module } -> std::convertible_to<torch::nn::Module&>;
};

/// A backbone that `freeze` has made constant.
template <typename B>
concept FrozenBackbone = Backbone<B> && requires {
  requires B::frozen;
};

/// A backbone whose own normalisation can be called apart from the rest, as the reference's pixel
/// domain needs.
template <typename B>
concept NormalizingBackbone = Backbone<B> && requires(const B& b, const at::Tensor& images) {
  { b.normalize(images) } -> std::same_as<at::Tensor>;
  { b.forward_normalized(images) } -> std::same_as<at::Tensor>;
};

/// `backbone.named_constants()`, or none where it has no such member.
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
