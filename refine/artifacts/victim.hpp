#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <utility>

#include <refine/artifacts/state_dict.hpp>
#include <refine/backbones/backbone.hpp>
#include <refine/formats/safetensors.hpp>

namespace refine {

namespace artifacts::detail {

/// What a backbone computes with and its module does not hold, such as a normalisation, as JSON: `{}` for
/// none.
std::string constants_text(const std::map<std::string, at::Tensor>& constants);

}  // namespace artifacts::detail

/// Saves a classifier's parameters and buffers under their own names, and `metadata` beside them, with what
/// it computes with and its module does not hold (a normalisation) as `constants`. \throws Error when the
/// file can't be written
template <backbones::Backbone B>
void save(const B& victim, const std::filesystem::path& path,
          std::map<std::string, std::string> metadata = {}) {
  metadata["refine"] = "victim";
  metadata["classes"] = std::to_string(Task(victim.task).classes);
  metadata["constants"] = artifacts::detail::constants_text(backbones::constants_of(victim));
  formats::write_safetensors(path, {artifacts::state_dict(*victim.module), std::move(metadata)});
}

/// Loads what `save` wrote, or any safetensors file with these names, into a classifier of the same options.
/// \return the file's metadata
/// \throws Error when the file can't be read, is of another network, or was saved with another normalisation
template <backbones::Backbone B>
std::map<std::string, std::string> load(B& victim, const std::filesystem::path& path) {
  auto content = formats::read_safetensors(path);
  const auto constants = content.metadata.find("constants");
  const std::string here = artifacts::detail::constants_text(backbones::constants_of(victim));
  if (constants != content.metadata.end() && constants->second != here) {
    throw Error(
        "cannot load {}: it was trained with the normalisation {}, the network here has {}; wrap it in the "
        "same backbones::Normalized",
        path.string(), constants->second, here);
  }
  artifacts::load_state_dict(*victim.module, content.tensors, path.string());
  victim.module->eval();
  return std::move(content.metadata);
}

}  // namespace refine

#if !defined(REFINE_COMPILED)
#include <refine/artifacts/victim_definitions.hpp>
#endif
