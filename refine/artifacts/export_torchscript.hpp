#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/jit/api/compilation_unit.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/frontend/tracer.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/nn/module.h>

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <utility>

#include <refine/core/atomic_file.hpp>
#include <refine/core/error.hpp>
#include <refine/pipeline/pipeline.hpp>

namespace refine {

namespace artifacts::detail {

/// The same tensors under the same names, as TorchScript has modules: tracing finds them by identity.
inline torch::jit::Module mirrored(const torch::nn::Module& source, const std::string& name,
                                   const std::shared_ptr<torch::jit::CompilationUnit>& unit) {
  torch::jit::Module mirror(c10::QualifiedName("__torch__.refine." + name), unit, /*shouldMangle=*/true);
  for (const auto& item : source.named_parameters(/*recurse=*/false)) {
    mirror.register_parameter(item.key(), item.value(), /*is_buffer=*/false);
  }
  for (const auto& item : source.named_buffers(/*recurse=*/false))
    mirror.register_buffer(item.key(), item.value());
  for (const auto& item : source.named_children()) {
    mirror.register_module(item.key(), mirrored(*item.value(), name + "_" + item.key(), unit));
  }
  return mirror;
}

/// Adds the method `name`, from images to a tensor, by tracing `function` once.
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

}  // namespace artifacts::detail

/// Writes a defended classifier as one TorchScript file that needs no code of ours, in C++
/// (`torch::jit::load`) or in Python (`torch.jit.load`), on the CPU or, moved there, on CUDA. Its methods
/// take float N×C×H×W in [0, 1], any N:
///
///  - `forward`: logits N×classes under the victim's own class names; normalisation, transform, victim and
///  remap are
///    inside;
///  - `transform`: the image that the victim sees, N×C×H×W in [0, 1].
///
/// The extra file `refine.json` in it has `metadata`, the task and the permutation.
/// \throws Error when the image shape is not known, or the file can't be written; it is whole or not there
template <typename T, typename B, typename R>
void export_torchscript(const Pipeline<T, B, R>& defense, const std::filesystem::path& path,
                        const std::map<std::string, std::string>& metadata = {}) {
  const Task task = defense.task();
  if (!task.image.is_static()) {
    throw Error("cannot export {}: the pipeline does not know its image shape; give one of its parts a Task",
                path.string());
  }
  // On the host, whose constants are then the tensors that were registered.
  Pipeline<T, B, R> there = defense;
  const at::Device device = defense.device();
  struct Back {
    Pipeline<T, B, R>& pipeline;
    at::Device device;
    ~Back() { pipeline.to(device); }
  } back{there, device};
  there.to(at::kCPU);

  const auto unit = std::make_shared<torch::jit::CompilationUnit>();
  torch::jit::Module module(c10::QualifiedName("__torch__.refine.Defended"), unit);
  module.register_module("transform_network",
                         artifacts::detail::mirrored(*there.transform().module, "Transform", unit));
  module.register_module("backbone", artifacts::detail::mirrored(*there.backbone().module, "Backbone", unit));
  for (const auto& [name, constant] : there.named_constants()) module.register_buffer(name, constant);

  c10::NoGradGuard no_grad;
  const at::Tensor example = at::zeros({2, task.image.channels, task.image.height, task.image.width});
  artifacts::detail::add_method(module, "forward", example,
                                [&](const at::Tensor& x) { return there.forward(x); });
  artifacts::detail::add_method(module, "transform", example,
                                [&](const at::Tensor& x) { return there.transformed(x); });
  module.eval();

  nlohmann::ordered_json about = metadata;
  about["refine"] = "defended";
  about["image"] = {task.image.channels, task.image.height, task.image.width};
  about["classes"] = task.classes;
  about["permutation"] = there.remap().permutation;
  std::ostringstream bytes;
  module.save(bytes, {{"refine.json", about.dump(2, ' ', false, nlohmann::json::error_handler_t::replace)}});
  write_file(path, bytes.view());
}

}  // namespace refine
