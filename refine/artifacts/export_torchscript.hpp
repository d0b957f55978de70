#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/jit/api/module.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <utility>
#include <vector>

#include <refine/artifacts/state_dict.hpp>
#include <refine/artifacts/traced_module.hpp>
#include <refine/backbones/backbone.hpp>
#include <refine/pipeline/freeze.hpp>
#include <refine/pipeline/pipeline.hpp>

namespace refine {

namespace artifacts::detail {

/// What is traced: one image would let LibTorch take the batch for a constant.
at::Tensor example_of(const Task& task, const std::filesystem::path& path);

/// Networks on the host for as long as this lives, where constants are the tensors that were registered.
class OnHost {
 public:
  OnHost(std::function<void(at::Device)> move, at::Device back) : move_(std::move(move)), back_(back) {
    move_(at::kCPU);
  }
  OnHost(const OnHost&) = delete;
  ~OnHost() { move_(back_); }

 private:
  std::function<void(at::Device)> move_;
  at::Device back_;
};

/// No metadata: an empty object.
const nlohmann::ordered_json& nothing_said();

/// Writes the module, and beside it `metadata`, `kind`, the permutation where there is one, and the task.
void save_module(torch::jit::Module& module, const std::filesystem::path& path, const Task& task,
                 const nlohmann::ordered_json& metadata, const char* kind,
                 const std::vector<std::int64_t>& permutation = {});

}  // namespace artifacts::detail

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
template <typename T, typename B, typename R>
void export_torchscript(const Pipeline<T, B, R>& defense, const std::filesystem::path& path,
                        const nlohmann::ordered_json& metadata = artifacts::detail::nothing_said()) {
  if constexpr (!transforms::FrozenTransform<T>) {
    if (transforms::can_freeze(defense.transform()))
      return export_torchscript(freeze(defense), path, metadata);
  }
  const Task task = defense.task();
  const at::Tensor example = artifacts::detail::example_of(task, path);
  Pipeline<T, B, R> there = defense;
  const artifacts::detail::OnHost meanwhile([&](at::Device device) { there.to(device); }, defense.device());

  const auto unit = std::make_shared<torch::jit::CompilationUnit>();
  torch::jit::Module module(c10::QualifiedName("__torch__.refine.Defended"), unit);
  module.register_module("transform_network",
                         artifacts::detail::mirrored(*there.transform().module, "Transform", unit));
  module.register_module("backbone", artifacts::detail::mirrored(*there.backbone().module, "Backbone", unit));
  for (const auto& [name, constant] : there.named_constants()) module.register_buffer(name, constant);

  c10::NoGradGuard no_grad;
  artifacts::detail::add_method(module, "forward", example,
                                [&](const at::Tensor& x) { return there.forward(x); });
  artifacts::detail::add_method(module, "transform", example,
                                [&](const at::Tensor& x) { return there.transformed(x); });
  artifacts::detail::add_method(module, "undefended", example,
                                [&](const at::Tensor& x) { return there.undefended(x); });
  artifacts::detail::add_method(module, "alarm", example,
                                [&](const at::Tensor& x) { return there.alarm(x); });
  artifacts::detail::save_module(module, path, task, metadata, "defended", there.remap().permutation);
}

/// Writes a frozen classifier alone as one TorchScript file: `forward` takes float N×C×H×W in [0, 1] and
/// gives logits N×classes; its normalisation is inside. The extra file `refine.json` has `metadata` and the
/// task. \throws Error as for a pipeline
template <backbones::FrozenBackbone B>
void export_torchscript(const B& victim, const std::filesystem::path& path,
                        const nlohmann::ordered_json& metadata = artifacts::detail::nothing_said()) {
  const Task task = victim.task;
  const at::Tensor example = artifacts::detail::example_of(task, path);
  const auto state = artifacts::state_dict(*victim.module);
  const artifacts::detail::OnHost meanwhile(
      [&](at::Device device) { victim.module->to(device); },
      state.empty() ? at::Device(at::kCPU) : state.begin()->second.device());
  const auto unit = std::make_shared<torch::jit::CompilationUnit>();
  torch::jit::Module module(c10::QualifiedName("__torch__.refine.Classifier"), unit);
  module.register_module("backbone", artifacts::detail::mirrored(*victim.module, "Backbone", unit));
  for (const auto& [name, constant] : backbones::constants_of(victim)) module.register_buffer(name, constant);
  c10::NoGradGuard no_grad;
  artifacts::detail::add_method(module, "forward", example,
                                [&](const at::Tensor& x) { return victim.forward(x); });
  artifacts::detail::save_module(module, path, task, metadata, "classifier");
}

}  // namespace refine

#if !defined(REFINE_COMPILED)
#include <refine/artifacts/export_torchscript_definitions.hpp>
#endif
