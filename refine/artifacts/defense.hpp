#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <refine/artifacts/state_dict.hpp>
#include <refine/artifacts/victim.hpp>
#include <refine/formats/safetensors.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/training/recipe.hpp>
#include <refine/training/recipe_json.hpp>

namespace refine {

namespace artifacts::detail {

/// Tells one frozen victim from another: FNV-1a over its tensors' names and bytes, and its constants. Folding
/// is elementwise, so the same weights give the same text on every machine.
template <backbones::Backbone B>
std::string fingerprint(const B& backbone) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  const auto add = [&](std::string_view bytes) {
    for (char c : bytes) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  };
  for (const auto& [name, tensor] : state_dict(*backbone.module)) {
    const at::Tensor host = tensor.detach().to(at::kCPU).contiguous();
    add(name);
    add({static_cast<const char*>(host.const_data_ptr()), host.nbytes()});
  }
  add(constants_text(backbone));
  return fmt::format("{:016x}", hash);
}

/// What a transform is beside its tensors, where it says so.
template <typename T>
std::string description(const T& transform) {
  if constexpr (requires { transform.describe(); }) {
    return transform.describe();
  } else {
    return {};
  }
}

}  // namespace artifacts::detail

/// Saves what a defense adds to its victim: the transform's tensors as `transform.<name>`, and in the
/// metadata the permutation, the pixel domain, a fingerprint of the victim, the transform's options, the
/// recipe and its seed. \throws Error when the file can't be written
template <typename T, typename B, typename R>
void save(const Pipeline<T, B, R>& defense, const std::filesystem::path& path, const Recipe& recipe,
          std::map<std::string, std::string> metadata = {}) {
  metadata["refine"] = "defense";
  metadata["permutation"] = nlohmann::json(defense.remap().permutation).dump();
  metadata["pixel_domain"] = defense.domain() == PixelDomain::image ? "image" : "reference";
  metadata["victim"] = artifacts::detail::fingerprint(defense.backbone());
  metadata["transform"] = artifacts::detail::description(defense.transform());
  metadata["recipe"] = nlohmann::json(recipe).dump();
  metadata["seed"] = std::to_string(recipe.seed);
  formats::write_safetensors(
      path, {artifacts::state_dict(*defense.transform().module, "transform."), std::move(metadata)});
}

/// Loads what `save` wrote into a pipeline of the same victim and the same transform options; the remap takes
/// the file's permutation. Outputs are then bitwise those of the pipeline that was saved.
/// \return the file's metadata
/// \throws Error when the file can't be read, or is of another victim, transform, number of classes or pixel
/// domain
template <typename T, typename B, typename R>
std::map<std::string, std::string> load(Pipeline<T, B, R>& defense, const std::filesystem::path& path) {
  auto content = formats::read_safetensors(path);
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
  if (said("victim") != artifacts::detail::fingerprint(defense.backbone())) {
    throw Error("cannot load {}: it was trained in front of another victim; load it with its own", name);
  }
  if (const auto here = artifacts::detail::description(defense.transform()); said("transform") != here) {
    throw Error("cannot load {}: its transform is {}, the pipeline's is {}; give the pipeline that one", name,
                said("transform"), here);
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
  if (const Message why = remaps::not_a_bijection(order); !why.empty()) {
    throw Error("cannot load {}: its permutation is none ({}); the file is damaged, get it again", name,
                why.view());
  }
  artifacts::load_state_dict(*defense.transform().module, content.tensors, name, "transform.");
  defense.rename_classes(std::move(order));
  return std::move(content.metadata);
}

}  // namespace refine
