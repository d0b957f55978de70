#pragma once

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include <refine/artifacts/state_dict.hpp>
#include <refine/backbones/backbone.hpp>
#include <refine/formats/safetensors.hpp>

namespace refine {

namespace artifacts::detail {

/// What a backbone computes with and its module does not hold, such as a normalisation, as JSON: `{}` for
/// none.
template <backbones::Backbone B>
std::string constants_text(const B& backbone) {
  nlohmann::json json = nlohmann::json::object();
  for (const auto& [name, constant] : backbones::constants_of(backbone)) {
    const at::Tensor flat = constant.to(at::kDouble).contiguous();
    const auto* begin = flat.template const_data_ptr<double>();
    json[name] = std::vector<double>(begin, begin + flat.numel());
  }
  return json.dump();
}

}  // namespace artifacts::detail

/// Saves a classifier's parameters and buffers under their own names, and `metadata` beside them, with what
/// it computes with and its module does not hold (a normalisation) as `constants`. \throws Error when the
/// file can't be written
template <backbones::Backbone B>
void save(const B& victim, const std::filesystem::path& path,
          std::map<std::string, std::string> metadata = {}) {
  metadata["refine"] = "victim";
  metadata["classes"] = std::to_string(Task(victim.task).classes);
  metadata["constants"] = artifacts::detail::constants_text(victim);
  formats::write_safetensors(path, {artifacts::state_dict(*victim.module), std::move(metadata)});
}

/// Loads what `save` wrote, or any safetensors file with these names, into a classifier of the same options.
/// \return the file's metadata
/// \throws Error when the file can't be read, is of another network, or was saved with another normalisation
template <backbones::Backbone B>
std::map<std::string, std::string> load(B& victim, const std::filesystem::path& path) {
  auto content = formats::read_safetensors(path);
  const auto constants = content.metadata.find("constants");
  const std::string here = artifacts::detail::constants_text(victim);
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
