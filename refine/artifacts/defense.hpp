#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <refine/artifacts/state_dict.hpp>
#include <refine/artifacts/victim.hpp>
#include <refine/backbones/backbone.hpp>
#include <refine/formats/safetensors.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/training/recipe.hpp>

namespace refine {

namespace artifacts::detail {

/// Tells one frozen victim from another: "sha256:" and the SHA-256 of its tensors (names, types, shapes and
/// bytes) and constants. Folding is elementwise, so the same weights give the same text on every machine.
std::string fingerprint(const torch::nn::Module& module, const std::map<std::string, at::Tensor>& constants);

/// The same as earlier files have it: 64 bits of FNV-1a, as 16 digits. It tells victims apart
/// that differ by mistake; by intent, another one can be made to match.
std::string old_fingerprint(const torch::nn::Module& module,
                            const std::map<std::string, at::Tensor>& constants);

/// What a transform is beside its tensors, where it says so.
template <typename T>
std::string description(const T& transform) {
  if constexpr (requires { transform.describe(); }) {
    return transform.describe();
  } else {
    return {};
  }
}

/// What a file says of a defense beside its tensors and its victim.
struct DefenseFacts {
  std::vector<std::int64_t> permutation;
  PixelDomain domain;
  std::string transform;  ///< its description
};

template <typename T, typename B, typename R>
DefenseFacts facts_of(const Pipeline<T, B, R>& defense) {
  return {defense.remap().permutation, defense.domain(), detail::description(defense.transform())};
}

/// Takes a look at every byte of the victim.
template <typename T, typename B, typename R>
std::string victim_of(const Pipeline<T, B, R>& defense) {
  return detail::fingerprint(*defense.backbone().module, backbones::constants_of(defense.backbone()));
}

void say(const DefenseFacts& facts, const std::string& victim, const Recipe& recipe,
         std::map<std::string, std::string>& metadata);

/// The permutation that a file says, where it is of the same transform and pixel domain as the pipeline that
/// it shall be loaded into.
std::vector<std::int64_t> fitting_permutation(const std::map<std::string, std::string>& metadata,
                                              const DefenseFacts& here, const std::string& name);

/// \throws Error when the file is of another victim, by the kind of fingerprint that the file has
void require_victim(const std::map<std::string, std::string>& metadata, const torch::nn::Module& module,
                    const std::map<std::string, at::Tensor>& constants, const std::string& name);

}  // namespace artifacts::detail

/// Saves what a defense adds to its victim: the transform's tensors as `transform.<name>`, and in the
/// metadata the permutation, the pixel domain, a fingerprint of the victim, the transform's options, the
/// recipe and its seed. \throws Error when the file can't be written
template <typename T, typename B, typename R>
void save(const Pipeline<T, B, R>& defense, const std::filesystem::path& path, const Recipe& recipe,
          std::map<std::string, std::string> metadata = {}) {
  artifacts::detail::say(artifacts::detail::facts_of(defense), artifacts::detail::victim_of(defense), recipe,
                         metadata);
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
  auto permutation =
      artifacts::detail::fitting_permutation(content.metadata, artifacts::detail::facts_of(defense), name);
  artifacts::detail::require_victim(content.metadata, *defense.backbone().module,
                                    backbones::constants_of(defense.backbone()), name);
  artifacts::load_state_dict(*defense.transform().module, content.tensors, name, "transform.");
  defense.rename_classes(std::move(permutation));
  return std::move(content.metadata);
}

}  // namespace refine

#if !defined(REFINE_COMPILED)
#include <refine/artifacts/defense_definitions.hpp>
#endif
