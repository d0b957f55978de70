#pragma once

#include <refine/export/torchscript.hpp>

#include <ATen/ops/zeros.h>
#include <nlohmann/json.hpp>

#include <sstream>

#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/core/file.hpp>

namespace refine::detail {

REFINE_INLINE at::Tensor example_of(const Task& task, const std::filesystem::path& path) {
  if (!task.image.is_static()) {
    throw Error("cannot export {}: the model does not know its image shape; give one of its parts a Task",
                path.string());
  }
  return at::zeros({2, task.image.channels, task.image.height, task.image.width});
}

REFINE_INLINE Moved::Moved(const torch::nn::Module& module, at::Device device) {
  const c10::NoGradGuard no_grad;
  try {
    for (const auto& tensors : {module.parameters(), module.buffers()}) {
      for (at::Tensor tensor : tensors) {
        if (!tensor.defined() || tensor.device() == device) continue;
        const at::Tensor data = tensor.variable_data();
        tensor.set_data(data.to(device));
        moved_.push_back({tensor, data});
      }
    }
  } catch (...) {
    give_back();
    throw;
  }
}

REFINE_INLINE void Moved::give_back() noexcept {
  for (auto& [tensor, data] : moved_) tensor.set_data(data);
  moved_.clear();
}

/// Exchanges a traced module's tensors for others with the same memory that want no gradient: who serves
/// trains nothing, and the networks that they belong to may go on training.
REFINE_INLINE void detach_tensors(torch::jit::Module& module) {
  for (const auto& attribute : module.named_attributes(/*recurse=*/false)) {
    if (attribute.value.isTensor()) module.setattr(attribute.name, attribute.value.toTensor().detach());
  }
  for (torch::jit::Module child : module.children()) detach_tensors(child);
}

REFINE_INLINE const nlohmann::ordered_json& no_metadata() {
  static const nlohmann::ordered_json nothing = nlohmann::ordered_json::object();
  return nothing;
}

REFINE_INLINE void save_module(torch::jit::Module& module, const std::filesystem::path& path,
                               const Task& task, const nlohmann::ordered_json& metadata, const char* kind,
                               const std::vector<std::int64_t>& permutation) {
  nlohmann::ordered_json about = metadata;
  about["refine"] = kind;
  if (!permutation.empty()) about["permutation"] = permutation;
  about["image"] = {task.image.channels, task.image.height, task.image.width};
  about["classes"] = task.classes;
  about["refine_version"] = version;
  module.eval();
  detach_tensors(module);
  std::ostringstream bytes;
  module.save(bytes,
              {{"refine.json", about.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace)}});
  write_file(path, bytes.view());
}

}  // namespace refine::detail
