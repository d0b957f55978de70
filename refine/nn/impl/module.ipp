#pragma once

#include <refine/nn/module.hpp>

#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>

#include <string_view>

#include <refine/core/config.hpp>

namespace refine::nn {

REFINE_INLINE std::map<std::string, at::Tensor> state_dict(const torch::nn::Module& module,
                                                           const std::string& prefix) {
  std::map<std::string, at::Tensor> state;
  for (const auto& item : module.named_parameters()) state[prefix + item.key()] = item.value();
  for (const auto& item : module.named_buffers()) state[prefix + item.key()] = item.value();
  return state;
}

}  // namespace refine::nn

namespace refine::nn::detail {

/// True for the number of batches of a BatchNorm, which PyTorch's files contain since 0.4.1.
REFINE_INLINE bool is_batch_count(std::string_view name) {
  constexpr std::string_view count = "num_batches_tracked";
  return name.ends_with(count) &&
         (name.size() == count.size() || name[name.size() - count.size() - 1] == '.');
}

}  // namespace refine::nn::detail

namespace refine::nn {

REFINE_INLINE void load_state_dict(torch::nn::Module& module, const std::map<std::string, at::Tensor>& state,
                                   const std::string& from, const std::string& prefix) {
  const auto wanted = state_dict(module, prefix);
  const auto shape = [](const at::Tensor& tensor) {
    std::string text;
    for (auto extent : tensor.sizes()) text += (text.empty() ? "" : "x") + std::to_string(extent);
    return text.empty() ? std::string("a scalar") : text;
  };
  for (const auto& [name, tensor] : wanted) {
    const auto found = state.find(name);
    if (found == state.end()) {
      if (detail::is_batch_count(name)) continue;
      throw Error(
          "cannot load {}: tensor '{}' is missing; the file belongs to another network or to other options",
          from, name);
    }
    if (found->second.sizes() != tensor.sizes()) {
      throw Error(
          "cannot load {}: tensor '{}' has shape {}, expected {}; construct the network with the width and task it was "
          "trained with",
          from, name, shape(found->second), shape(tensor));
    }
  }
  for (const auto& [name, tensor] : state) {
    if (name.starts_with(prefix) && !wanted.contains(name)) {
      throw Error(
          "cannot load {}: tensor '{}' is unexpected; the file belongs to another network or to other options",
          from, name);
    }
  }
  c10::NoGradGuard no_grad;
  for (const auto& [name, tensor] : wanted) {
    const auto found = state.find(name);
    at::Tensor(tensor).copy_(found == state.end() ? at::zeros_like(tensor) : found->second);
  }
}

}  // namespace refine::nn
