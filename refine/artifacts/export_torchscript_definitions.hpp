#pragma once

// What export_torchscript.hpp declares.

#include <refine/artifacts/export_torchscript.hpp>

#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/jit/api/module.h>

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <vector>

#include <refine/core/atomic_file.hpp>
#include <refine/core/compiled.hpp>
#include <refine/core/error.hpp>
#include <refine/core/version.hpp>

namespace refine::artifacts::detail {

REFINE_DEFINITION at::Tensor example_of(const Task& task, const std::filesystem::path& path) {
  if (!task.image.is_static()) {
    throw Error("cannot export {}: the model does not know its image shape; give one of its parts a Task",
                path.string());
  }
  return at::zeros({2, task.image.channels, task.image.height, task.image.width});
}

REFINE_DEFINITION const nlohmann::ordered_json& nothing_said() {
  static const nlohmann::ordered_json nothing = nlohmann::ordered_json::object();
  return nothing;
}

REFINE_DEFINITION void save_module(torch::jit::Module& module, const std::filesystem::path& path,
                                   const Task& task, const nlohmann::ordered_json& metadata, const char* kind,
                                   const std::vector<std::int64_t>& permutation) {
  nlohmann::ordered_json about = metadata;
  about["refine"] = kind;
  if (!permutation.empty()) about["permutation"] = permutation;
  about["image"] = {task.image.channels, task.image.height, task.image.width};
  about["classes"] = task.classes;
  about["refine_version"] = version;
  module.eval();
  // Who serves trains nothing; the tensors are those of the networks here, which may go on training.
  std::vector<at::Tensor> trained;
  for (at::Tensor parameter : module.parameters()) {
    if (parameter.requires_grad()) trained.push_back(parameter.requires_grad_(false));
  }
  struct Again {
    std::vector<at::Tensor>& tensors;
    ~Again() {
      for (at::Tensor& tensor : tensors) tensor.requires_grad_(true);
    }
  } again{trained};
  std::ostringstream bytes;
  module.save(bytes,
              {{"refine.json", about.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace)}});
  write_file(path, bytes.view());
}

}  // namespace refine::artifacts::detail
