#pragma once

// What device_of.hpp declares.

#include <refine/nn/device_of.hpp>

#include <algorithm>
#include <optional>

#include <refine/core/compiled.hpp>

namespace refine::nn {

REFINE_DEFINITION std::optional<at::Device> device_of(const torch::nn::Module& module) {
  for (const at::Tensor& parameter : module.parameters()) {
    if (parameter.defined()) return parameter.device();
  }
  for (const at::Tensor& buffer : module.buffers()) {
    if (buffer.defined()) return buffer.device();
  }
  return std::nullopt;
}

REFINE_DEFINITION void move_to(torch::nn::Module& module, at::Device device) {
  const auto is_elsewhere = [&](const at::Tensor& tensor) {
    return tensor.defined() && tensor.device() != device;
  };
  if (std::ranges::any_of(module.parameters(), is_elsewhere) ||
      std::ranges::any_of(module.buffers(), is_elsewhere)) {
    module.to(device);
  }
}

}  // namespace refine::nn
