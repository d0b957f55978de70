#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/nn/module.h>
#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <utility>
#include <vector>

#include <refine/backbones/backbone.hpp>
#include <refine/export/detail/traced_module.hpp>
#include <refine/pipeline/pipeline.hpp>

namespace refine {

namespace detail {

/// What is traced: one image would let LibTorch take the batch for a constant.
at::Tensor example_of(const Task& task, const std::filesystem::path& path);

/// A module's tensors on `device` for as long as this lives. Those that are there already are not touched, so
/// that a module on the host may be used by others meanwhile. The other ones get back the very memory they
/// had: that takes none anew, and does not fail.
class Moved {
 public:
  explicit Moved(const torch::nn::Module& module, at::Device device = at::kCPU);
  Moved(const Moved&) = delete;
  Moved& operator=(const Moved&) = delete;
  ~Moved() { give_back(); }

 private:
  struct Tensor {
    at::Tensor tensor, data;
  };

  void give_back() noexcept;

  std::vector<Tensor> moved_;
};

/// No metadata: an empty object.
const nlohmann::ordered_json& no_metadata();

/// Writes the module, whose tensors may be those of networks in use, and beside it `metadata`, `kind`, the permutation where there is one, and the task.
void save_module(torch::jit::Module& module, const std::filesystem::path& path, const Task& task,
                 const nlohmann::ordered_json& metadata, const char* kind,
                 const std::vector<std::int64_t>& permutation = {});

}  // namespace detail

/// Writes a defended classifier as one TorchScript file that needs no code of ours, in C++
/// (`torch::jit::load`) or in Python (`torch.jit.load`), on the CPU or, moved there, on CUDA. Its methods
/// take float N×C×H×W in [0, 1], any N:
///
///  - `forward`: logits N×classes under the victim's own class names; normalisation, transform, victim and
///  remap are
///    inside;
///  - `transform`: the image that the victim sees, N×C×H×W in [0, 1];
///  - `undefended`: the victim's own logits N×classes, for comparison;
///  - `alarm`: N scores in [0, 1], high where the two answers disagree, as for a triggered image
///  (`alarm_score`).
///
/// The transform is written in its frozen form where `transforms::can_freeze` says yes: BatchNorm folded, the
/// answers the same to rounding. The extra file `refine.json` has `metadata` (to give some, include
/// <nlohmann/json.hpp>), the task, the permutation and this library's version. \throws Error when the image
/// shape is not known, or the file can't be written; it is whole or not there
///
/// The pipeline stays as it is. Networks on another device are moved to the host meanwhile, so that nothing
/// else may use them; those on the host are only read.
template <typename T, typename B, typename R>
void export_torchscript(const Pipeline<T, B, R>& defense, const std::filesystem::path& path,
                        const nlohmann::ordered_json& metadata = detail::no_metadata()) {
  if constexpr (!transforms::FrozenTransform<T>) {
    if (transforms::can_freeze(defense.transform()))
      return export_torchscript(freeze(defense), path, metadata);
  }
  const Task task = defense.task();
  const at::Tensor example = detail::example_of(task, path);
  // Tracing wants the networks on the host, where constants are the tensors that are registered.
  const detail::Moved transform(*defense.transform().module), backbone(*defense.backbone().module);
  const auto unit = std::make_shared<torch::jit::CompilationUnit>();
  torch::jit::Module module(c10::QualifiedName("__torch__.refine.Defended"), unit);
  module.register_module("transform_network",
                         detail::to_torchscript(*defense.transform().module, "Transform", unit));
  module.register_module("backbone", detail::to_torchscript(*defense.backbone().module, "Backbone", unit));
  for (const auto& [name, constant] : defense.named_constants()) module.register_buffer(name, constant);

  c10::NoGradGuard no_grad;
  detail::add_method(module, "forward", example, [&](const at::Tensor& x) { return defense.forward(x); });
  detail::add_method(module, "transform", example,
                     [&](const at::Tensor& x) { return defense.transformed(x); });
  detail::add_method(module, "undefended", example,
                     [&](const at::Tensor& x) { return defense.undefended(x); });
  detail::add_method(module, "alarm", example, [&](const at::Tensor& x) { return defense.alarm(x); });
  detail::save_module(module, path, task, metadata, "defended", defense.remap().permutation);
}

/// Writes a frozen classifier alone as one TorchScript file: `forward` takes float N×C×H×W in [0, 1] and
/// gives logits N×classes; its normalisation is inside. The extra file `refine.json` has `metadata` and the
/// task. \throws Error as for a pipeline
template <backbones::FrozenBackbone B>
void export_torchscript(const B& victim, const std::filesystem::path& path,
                        const nlohmann::ordered_json& metadata = detail::no_metadata()) {
  const Task task = victim.task;
  const at::Tensor example = detail::example_of(task, path);
  const detail::Moved backbone(*victim.module);
  const auto unit = std::make_shared<torch::jit::CompilationUnit>();
  torch::jit::Module module(c10::QualifiedName("__torch__.refine.Classifier"), unit);
  module.register_module("backbone", detail::to_torchscript(*victim.module, "Backbone", unit));
  for (const auto& [name, constant] : backbones::constants_of(victim)) module.register_buffer(name, constant);
  c10::NoGradGuard no_grad;
  detail::add_method(module, "forward", example, [&](const at::Tensor& x) { return victim.forward(x); });
  detail::save_module(module, path, task, metadata, "classifier");
}

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/export/impl/torchscript.ipp>
#endif
