#pragma once

#include <c10/core/Device.h>
#include <torch/nn/module.h>

#include <optional>

namespace refine::nn {

/// Returns the device of a module's first parameter or, where it has none (a frozen or scripted network may
/// have buffers alone), of its first buffer; nothing where it has no tensors.
std::optional<at::Device> device_of(const torch::nn::Module& module);

/// Moves a module. One whose tensors are all there already is only read, so that other threads may use it.
void move_to(torch::nn::Module& module, at::Device device);

}  // namespace refine::nn

#if !defined(REFINE_COMPILED)
#include <refine/nn/device_of_definitions.hpp>
#endif
