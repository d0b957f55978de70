#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <utility>

#include <refine/artifacts/safetensors.hpp>
#include <refine/artifacts/state_dict.hpp>
#include <refine/backbones/backbone.hpp>

namespace refine {

/// Saves a classifier's parameters and buffers under their own names, and `metadata` beside them.
/// \throws Error when the file can't be written
template <backbones::Backbone B>
void save(const B& victim, const std::filesystem::path& path,
          std::map<std::string, std::string> metadata = {}) {
  metadata["refine"] = "victim";
  metadata["classes"] = std::to_string(Task(victim.task).classes);
  artifacts::write_safetensors(path, {artifacts::state_dict(*victim.module), std::move(metadata)});
}

/// Loads what `save` wrote, or any safetensors file with these names, into a classifier of the same options.
/// \return the file's metadata
/// \throws Error when the file can't be read or is of another network
template <backbones::Backbone B>
std::map<std::string, std::string> load(B& victim, const std::filesystem::path& path) {
  auto content = artifacts::read_safetensors(path);
  artifacts::load_state_dict(*victim.module, content.tensors, path.string());
  victim.module->eval();
  return std::move(content.metadata);
}

}  // namespace refine
