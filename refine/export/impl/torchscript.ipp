#pragma once

#include <refine/export/torchscript.hpp>

#include <ATen/ops/zeros.h>
#include <nlohmann/json.hpp>

#include <sstream>
#include <string>

#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/core/file.hpp>

namespace refine::detail {

REFINE_INLINE at::Tensor example_images(const Task& task, const std::filesystem::path& path) {
  if (!task.image.is_static()) {
    throw Error(
        "cannot export {}: the model's image shape must be known (got {}); give one of its parts a Task",
        path.string(), task.image);
  }
  return at::zeros({2, task.image.channels, task.image.height, task.image.width});
}

REFINE_INLINE ScopedCpu::ScopedCpu(const torch::nn::Module& module) {
  const c10::NoGradGuard no_grad;
  try {
    for (const auto& tensors : {module.parameters(), module.buffers()}) {
      for (at::Tensor tensor : tensors) {
        if (!tensor.defined() || tensor.device() == at::kCPU) continue;
        const at::Tensor data = tensor.variable_data();
        tensor.set_data(data.to(at::kCPU));
        moved_.push_back({tensor, data});
      }
    }
  } catch (...) {
    restore();
    throw;
  }
}

REFINE_INLINE void ScopedCpu::restore() noexcept {
  for (auto& [tensor, data] : moved_) tensor.set_data(data);
  moved_.clear();
}

/// Replaces the tensors of a traced module by tensors with the same memory that require no
/// gradient. The networks that share them can go on training.
REFINE_INLINE void detach_tensors(torch::jit::Module& module) {
  for (const auto& attribute : module.named_attributes(/*recurse=*/false)) {
    if (attribute.value.isTensor()) module.setattr(attribute.name, attribute.value.toTensor().detach());
  }
  for (torch::jit::Module child : module.children()) detach_tensors(child);
}

REFINE_INLINE void check_serving(const ServingOptions& serving, const std::filesystem::path& path) {
  if (!serving.alarm_threshold && serving.answer == Answer::gated) {
    throw Error(
        "cannot export {}: the gated answer needs the alarm's threshold; calibrate it on clean images "
        "(calibrate_alarm), or serve the defended answer",
        path.string());
  }
  if (serving.alarm_threshold && !(*serving.alarm_threshold >= 0 && *serving.alarm_threshold <= 1)) {
    throw Error("cannot export {}: the alarm's threshold must be in [0, 1], got {}", path.string(),
                *serving.alarm_threshold);
  }
}

REFINE_INLINE const nlohmann::ordered_json& no_metadata() {
  static const nlohmann::ordered_json empty = nlohmann::ordered_json::object();
  return empty;
}

REFINE_INLINE std::string about_text(const Task& task, const nlohmann::ordered_json& metadata,
                                     const char* kind, const DefenseFacts& facts) {
  nlohmann::ordered_json about = metadata;
  about["refine"] = kind;
  if (!facts.permutation.empty()) about["permutation"] = facts.permutation;
  if (facts.answer) about["answer"] = std::string(to_text(*facts.answer));
  about["image"] = {task.image.channels, task.image.height, task.image.width};
  about["classes"] = task.classes;
  about["refine_version"] = version;
  return about.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

REFINE_INLINE void save_module(torch::jit::Module& module, const std::filesystem::path& path,
                               const Task& task, const nlohmann::ordered_json& metadata, const char* kind,
                               const DefenseFacts& facts) {
  module.eval();
  detach_tensors(module);
  std::ostringstream bytes;
  module.save(bytes, {{"refine.json", about_text(task, metadata, kind, facts)}});
  files::write(path, bytes.view());
}

}  // namespace refine::detail
