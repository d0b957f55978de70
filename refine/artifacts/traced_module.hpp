#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/jit/api/compilation_unit.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/nn/module.h>

#include <functional>
#include <memory>
#include <string>

/// How a C++ module becomes a TorchScript one.
namespace refine::artifacts::detail {

/// The same tensors under the same names, as TorchScript has modules: tracing finds them by identity.
torch::jit::Module mirrored(const torch::nn::Module& source, const std::string& name,
                            const std::shared_ptr<torch::jit::CompilationUnit>& unit);

/// Adds the method `name`, from images to a tensor, by tracing `function` once.
void add_method(torch::jit::Module& module, const std::string& name, const at::Tensor& example,
                const std::function<at::Tensor(const at::Tensor&)>& function);

}  // namespace refine::artifacts::detail

#if !defined(REFINE_COMPILED)
#include <refine/artifacts/traced_module_definitions.hpp>
#endif
