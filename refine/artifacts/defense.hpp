#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include <refine/artifacts/safetensors.hpp>
#include <refine/artifacts/state_dict.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/training/recipe.hpp>
#include <refine/training/recipe_json.hpp>

namespace refine {

/// Saves what a defense adds to its victim: the transform's tensors as `transform.<name>`, and in the
/// metadata the permutation, the pixel domain, the recipe and its seed. \throws Error when the file can't be
/// written
template <typename T, typename B, typename R>
void save(const Pipeline<T, B, R>& defense, const std::filesystem::path& path, const Recipe& recipe,
          std::map<std::string, std::string> metadata = {}) {
  metadata["refine"] = "defense";
  metadata["permutation"] = nlohmann::json(defense.remap().permutation).dump();
  metadata["pixel_domain"] = defense.domain() == PixelDomain::image ? "image" : "reference";
  metadata["recipe"] = nlohmann::json(recipe).dump();
  metadata["seed"] = std::to_string(recipe.seed);
  artifacts::write_safetensors(
      path, {artifacts::state_dict(*defense.transform().module, "transform."), std::move(metadata)});
}

/// Loads what `save` wrote into a pipeline of the same victim and the same transform options; the remap takes
/// the file's permutation. Outputs are then bitwise those of the pipeline that was saved. \return the file's
/// metadata \throws Error when the file can't be read, or is of another transform, number of classes or pixel
/// domain
template <typename T, typename B, typename R>
std::map<std::string, std::string> load(Pipeline<T, B, R>& defense, const std::filesystem::path& path) {
  auto content = artifacts::read_safetensors(path);
  const std::string name = path.string();
  const auto said = [&](const std::string& key) -> const std::string& {
    const auto found = content.metadata.find(key);
    if (found == content.metadata.end()) {
      throw Error("cannot load {}: its metadata has no '{}'; it is no defense that refine saved", name, key);
    }
    return found->second;
  };
  if (said("pixel_domain") != (defense.domain() == PixelDomain::image ? "image" : "reference")) {
    throw Error(
        "cannot load {}: it was trained in the pixel domain '{}', the pipeline is in another; give the "
        "pipeline that one",
        name, said("pixel_domain"));
  }
  const auto permutation = nlohmann::json::parse(said("permutation"), nullptr, false);
  const auto integer = [](const nlohmann::json& value) { return value.is_number_integer(); };
  if (!permutation.is_array() || !std::ranges::all_of(permutation, integer)) {
    throw Error(
        "cannot load {}: its permutation is no list of whole numbers; the file is damaged, get it again",
        name);
  }
  auto order = permutation.template get<std::vector<std::int64_t>>();
  if (static_cast<int>(order.size()) != defense.remap().classes) {
    throw Error("cannot load {}: it renames {} classes, the pipeline {}; load it with its own victim", name,
                order.size(), static_cast<int>(defense.remap().classes));
  }
  require_agreement(remaps::not_a_bijection(order));
  artifacts::load_state_dict(*defense.transform().module, content.tensors, name, "transform.");
  defense.rename_classes(std::move(order));
  return std::move(content.metadata);
}

}  // namespace refine
