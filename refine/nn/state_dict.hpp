#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <map>
#include <string>

#include <refine/core/error.hpp>

namespace refine::nn {

/// A module's parameters and buffers by name, as PyTorch's `state_dict` has them. Tensors are shared, not
/// copied. \param prefix put before each name
std::map<std::string, at::Tensor> state_dict(const torch::nn::Module& module, const std::string& prefix = "");

/// Copies `state` into `module`: all names must be there, with the module's shapes, and no others. The one
/// that may be missing, as in PyTorch, is a BatchNorm's `num_batches_tracked`, which is 0 then.
/// \param from where the state came from, for the message
/// \throws Error naming the first tensor that does not fit; the module is unchanged then
void load_state_dict(torch::nn::Module& module, const std::map<std::string, at::Tensor>& state,
                     const std::string& from, const std::string& prefix = "");

}  // namespace refine::nn

#if !defined(REFINE_COMPILED_LIB)
#include <refine/nn/impl/state_dict.ipp>
#endif
