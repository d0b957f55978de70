#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <map>
#include <string>

#include <refine/core/error.hpp>

namespace refine::nn {

/// Returns the parameters and buffers of a module by name, like PyTorch's `state_dict`.
///
/// The tensors are shared, not copied.
/// \param module the module
/// \param prefix put before each name
std::map<std::string, at::Tensor> state_dict(const torch::nn::Module& module, const std::string& prefix = "");

/// Copies tensors into a module.
///
/// The names must be exactly those of the module, with the same shapes. Only `num_batches_tracked` of a BatchNorm may
/// be missing, as in PyTorch; it becomes 0.
/// \param module receives the values
/// \param state tensors by name
/// \param from the source of the tensors, for messages
/// \param prefix that the names in `state` have before those of the module
/// \throws Error that names the first tensor that does not fit; the module is then unchanged
void load_state_dict(torch::nn::Module& module, const std::map<std::string, at::Tensor>& state,
                     const std::string& from, const std::string& prefix = "");

}  // namespace refine::nn

#if !defined(REFINE_COMPILED_LIB)
#include <refine/nn/impl/state_dict.ipp>
#endif
