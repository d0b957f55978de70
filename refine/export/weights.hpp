#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <refine/backbones/backbone.hpp>
#include <refine/formats/safetensors.hpp>
#include <refine/nn/state_dict.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/training/recipe.hpp>

namespace refine {

namespace detail {

/// What a backbone computes with and its module does not hold, such as a normalisation, as JSON: `{}` for
/// none.
std::string constants_text(const std::map<std::string, at::Tensor>& constants);

}  // namespace detail

/// Saves a classifier's parameters and buffers under their own names, and `metadata` beside them, with what
/// it computes with and its module does not hold (a normalisation) as `constants`. \throws Error when the
/// file can't be written
template <backbones::Backbone B>
void save(const B& victim, const std::filesystem::path& path,
          std::map<std::string, std::string> metadata = {}) {
  metadata["refine"] = "victim";
  metadata["classes"] = std::to_string(Task(victim.task).classes);
  metadata["constants"] = detail::constants_text(backbones::constants_of(victim));
  formats::write_safetensors(path, {nn::state_dict(*victim.module), std::move(metadata)});
}

/// Loads what `save` wrote, or any safetensors file with these names, into a classifier of the same options.
/// \return the file's metadata
/// \throws Error when the file can't be read, is of another network, or was saved with another normalisation
template <backbones::Backbone B>
std::map<std::string, std::string> load(B& victim, const std::filesystem::path& path) {
  auto content = formats::read_safetensors(path);
  const auto constants = content.metadata.find("constants");
  const std::string here = detail::constants_text(backbones::constants_of(victim));
  if (constants != content.metadata.end() && constants->second != here) {
    throw Error(
        "cannot load {}: it was trained with the normalisation {}, the network here has {}; wrap it in the "
        "same backbones::Normalized",
        path.string(), constants->second, here);
  }
  nn::load_state_dict(*victim.module, content.tensors, path.string());
  victim.module->eval();
  return std::move(content.metadata);
}

namespace detail {

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

}  // namespace detail

/// Saves what a defense adds to its victim: the transform's tensors as `transform.<name>`, and in the
/// metadata the permutation, the pixel domain, a fingerprint of the victim, the transform's options, the
/// recipe and its seed. \throws Error when the file can't be written
template <typename T, typename B, typename R>
void save(const Pipeline<T, B, R>& defense, const std::filesystem::path& path, const Recipe& recipe,
          std::map<std::string, std::string> metadata = {}) {
  detail::say(detail::facts_of(defense), detail::victim_of(defense), recipe, metadata);
  formats::write_safetensors(
      path, {nn::state_dict(*defense.transform().module, "transform."), std::move(metadata)});
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
  auto permutation = detail::fitting_permutation(content.metadata, detail::facts_of(defense), name);
  detail::require_victim(content.metadata, *defense.backbone().module,
                         backbones::constants_of(defense.backbone()), name);
  nn::load_state_dict(*defense.transform().module, content.tensors, name, "transform.");
  defense.rename_classes(std::move(permutation));
  return std::move(content.metadata);
}

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/export/impl/weights.ipp>
#endif
