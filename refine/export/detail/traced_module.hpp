#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/jit/api/compilation_unit.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/frontend/tracer.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/nn/module.h>

#include <functional>
#include <memory>
#include <string>

/// Conversion of a C++ module to a TorchScript module.
namespace refine::detail {

/// Returns a TorchScript module with the same tensors under the same names. The tensors are shared:
/// tracing finds them by identity.
inline torch::jit::Module to_torchscript(const torch::nn::Module& source, const std::string& name,
                                         const std::shared_ptr<torch::jit::CompilationUnit>& unit) {
  torch::jit::Module result(c10::QualifiedName("__torch__.refine." + name), unit, /*shouldMangle=*/true);
  for (const auto& item : source.named_parameters(/*recurse=*/false))
    result.register_parameter(item.key(), item.value(), /*is_buffer=*/false);
  for (const auto& item : source.named_buffers(/*recurse=*/false))
    result.register_buffer(item.key(), item.value());
  for (const auto& item : source.named_children())
    result.register_module(item.key(), to_torchscript(*item.value(), name + "_" + item.key(), unit));
  return result;
}

/// Adds a method `name`, from images to a tensor, by tracing `function` once.
inline void add_method(torch::jit::Module& module, const std::string& name, const at::Tensor& example,
                       const std::function<at::Tensor(const at::Tensor&)>& function) {
  const auto traced = torch::jit::tracer::trace(
      {example},
      [&](torch::jit::Stack inputs) -> torch::jit::Stack { return {function(inputs.at(0).toTensor())}; },
      [](const at::Tensor&) { return std::string(); }, /*strict=*/true, /*force_outplace=*/false, &module,
      {"images"});
  auto* method = module._ivalue()->compilation_unit()->create_function(
      c10::QualifiedName(*module.type()->name(), name), traced.first->graph);
  module.type()->addMethod(method);
}

}  // namespace refine::detail
