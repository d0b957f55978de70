#pragma once

#include <refine/export/torchscript.hpp>

#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <nlohmann/json.hpp>

#include <memory>
#include <sstream>
#include <string>

#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/core/file.hpp>
#include <refine/export/detail/traced_module.hpp>
#include <refine/pipeline/gated.hpp>

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
  move(module);
}

REFINE_INLINE ScopedCpu::ScopedCpu(const ServedParts& parts) {
  for (const auto& [name, module] : parts.modules) move(*module);
}

REFINE_INLINE void ScopedCpu::move(const torch::nn::Module& module) {
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

REFINE_INLINE ServingOptions serving_of(const ServedParts& parts, const ServingOptions& specified,
                                        const std::filesystem::path& path) {
  if (parts.alarm_threshold && specified != ServingOptions{}) {
    throw Error(
        "cannot export {}: a Gated has its threshold and its answer; leave ServingOptions out, or pass the defense inside",
        path.string());
  }
  const ServingOptions serving =
      parts.alarm_threshold
          ? ServingOptions{.alarm_threshold = parts.alarm_threshold, .answer = Answer::gated}
          : specified;
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
  return serving;
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

REFINE_INLINE torch::jit::Module torchscript_module(const ServedParts& parts) {
  const auto unit = std::make_shared<torch::jit::CompilationUnit>();
  torch::jit::Module module(c10::QualifiedName("__torch__.refine.Defended"), unit);
  for (const auto& [name, part] : parts.modules)
    module.register_module(name, to_torchscript(*part, name, unit));
  for (const auto& [name, constant] : parts.constants) module.register_buffer(name, constant);
  return module;
}

REFINE_INLINE void write_torchscript(const ServedParts& parts, const std::filesystem::path& path,
                                     const nlohmann::ordered_json& metadata,
                                     const ServingOptions& specified) {
  const ServingOptions serving = serving_of(parts, specified, path);
  const at::Tensor example = example_images(parts.task, path);
  // On the CPU, the constants that tracing sees are the very tensors that are registered.
  const ScopedCpu on_cpu(parts);
  torch::jit::Module module = torchscript_module(parts);
  const c10::NoGradGuard no_grad;
  const auto defended = [&](const at::Tensor& x) { return parts.classify(parts.transform(x)); };
  const auto add_answer = [&](const char* name, Answer answer) {
    add_method(module, name, example, [&](const at::Tensor& x) {
      if (answer == Answer::defended) return defended(x);
      return gated_answer(parts.undefended(x), defended(x), *serving.alarm_threshold);
    });
  };
  add_answer("forward", serving.answer);
  if (serving.alarm_threshold) {
    add_answer("defended", Answer::defended);
    add_answer("gated", Answer::gated);
  }
  add_method(module, "transform", example, parts.transform);
  add_method(module, "undefended", example, parts.undefended);
  add_method(module, "alarm", example,
             [&](const at::Tensor& x) { return alarm_score(parts.undefended(x), defended(x)); });
  save_module(module, path, parts.task, metadata, "defended", facts_of(parts, serving));
}

}  // namespace refine::detail
