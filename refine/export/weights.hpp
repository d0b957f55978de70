#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <refine/backbones/backbone.hpp>
#include <refine/core/error.hpp>
#include <refine/core/task.hpp>
#include <refine/formats/safetensors.hpp>
#include <refine/nn/module.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/training/recipe.hpp>
#include <refine/transforms/transform.hpp>

namespace refine {

namespace detail {

/// Returns as JSON what a backbone computes with and its module does not hold, such as a
/// normalization; `{}` if there is nothing.
std::string constants_json(const std::map<std::string, at::Tensor>& constants);

/// Identifies a frozen victim: "sha256:" and the SHA-256 of its tensors (names, types, shapes and bytes) and
/// constants, then that of what neither shows (`nn::code_of`). BatchNorm is folded elementwise, so the same weights
/// give the same text on every machine.
std::string fingerprint(const torch::nn::Module& module, const std::map<std::string, at::Tensor>& constants);

/// Returns the fingerprint that the oldest files have: 64 bits of FNV-1a as 16 hexadecimal digits. It
/// detects a wrong victim, but not a forged one.
std::string legacy_fingerprint(const torch::nn::Module& module,
                               const std::map<std::string, at::Tensor>& constants);

/// True if a stored fingerprint is of this module: as `fingerprint` returns it or, in files of earlier
/// versions, its first part alone, or as `legacy_fingerprint` returns it. The graphs of programs are compared
/// only if the same versions of refine and LibTorch wrote them.
bool is_fingerprint_of(const std::string& stored, const torch::nn::Module& module,
                       const std::map<std::string, at::Tensor>& constants);

/// Returns the word for a pixel domain in files.
constexpr const char* domain_name(PixelDomain domain) {
  return domain == PixelDomain::image ? "image" : "reference";
}

/// The facts about a defense that its file holds beside tensors and victim.
struct DefenseInfo {
  std::vector<std::int64_t> permutation;
  PixelDomain domain;
  std::string transform;  ///< the transform's options; empty if it does not describe itself
  std::shared_ptr<torch::nn::Module> encoder = nullptr;  ///< the transform's encoder; null if it has none
};

template <typename T, typename B, typename R>
DefenseInfo defense_info(const Pipeline<T, B, R>& defense) {
  DefenseInfo info{
      defense.remap().permutation, defense.domain(), {}, transforms::encoder_module_of(defense.transform())};
  if constexpr (requires { defense.transform().describe(); }) info.transform = defense.transform().describe();
  return info;
}

/// Adds the entries of a defense to a file's metadata.
void add_metadata(const DefenseInfo& info, const std::string& victim, const Recipe& recipe,
                  std::map<std::string, std::string>& metadata);

/// Returns the permutation of a file.
/// \throws Error if it is invalid, or the file is of another transform, pixel domain or number of
///   classes
std::vector<std::int64_t> read_permutation(const std::map<std::string, std::string>& metadata,
                                           const DefenseInfo& pipeline, const std::string& name);

/// Checks that a file is of this encoder.
/// \param encoder of the defense; null: it has none
/// \throws Error if it is not
void check_encoder(const std::map<std::string, std::string>& metadata,
                   const std::shared_ptr<torch::nn::Module>& encoder, const std::string& name);

/// Checks that a file is of this victim, by the kind of fingerprint that the file has.
/// \throws Error if it is not
void check_victim(const std::map<std::string, std::string>& metadata, const torch::nn::Module& module,
                  const std::map<std::string, at::Tensor>& constants, const std::string& name);

}  // namespace detail

/// Saves a classifier as safetensors: its parameters and buffers under their own names, and in the
/// metadata `refine` = `victim`, `classes` and `constants` (what it computes with beside its
/// module, such as a normalization, as JSON).
/// \param victim the classifier
/// \param path the file; it is complete or not there
/// \param metadata further entries
/// \throws Error if the file cannot be written
template <backbones::Backbone B>
void save(const B& victim, const std::filesystem::path& path,
          std::map<std::string, std::string> metadata = {}) {
  metadata["refine"] = "victim";
  metadata["classes"] = std::to_string(Task(victim.task).classes);
  metadata["constants"] = detail::constants_json(backbones::constants_of(victim));
  formats::write_safetensors(path, {nn::state_dict(*victim.module), std::move(metadata)});
}

/// Loads a file that `save` wrote, or any safetensors file with the same names, into a classifier.
/// \param victim a classifier with the options of the saved one; put into evaluation mode
/// \param path the file
/// \return the file's metadata
/// \throws Error if the file cannot be read, is of another network, or was saved with another
///   normalization; the classifier then stays unchanged
template <backbones::Backbone B>
std::map<std::string, std::string> load(B& victim, const std::filesystem::path& path) {
  auto content = formats::read_safetensors(path);
  const auto constants = content.metadata.find("constants");
  const std::string expected = detail::constants_json(backbones::constants_of(victim));
  if (constants != content.metadata.end() && constants->second != expected) {
    throw Error(
        "cannot load {}: its normalization differs from the network's (got {}, expected {}); "
        "wrap the network in the same backbones::Normalized",
        path.string(), constants->second, expected);
  }
  nn::load_state_dict(*victim.module, content.tensors, path.string());
  victim.module->eval();
  return std::move(content.metadata);
}

/// Saves a defense as safetensors, without its victim and without its encoder, if it has one: the
/// tensors of the transform's trained part as `transform.NAME`, and in the metadata `refine` =
/// `defense`, the permutation, the pixel domain, fingerprints of victim and encoder, the transform's
/// options, the recipe and its seed.
/// \param defense the pipeline
/// \param path the file; it is complete or not there
/// \param recipe the recipe that it was trained with
/// \param metadata further entries
/// \throws Error if the file cannot be written
template <typename T, typename B, typename R>
void save(const Pipeline<T, B, R>& defense, const std::filesystem::path& path, const Recipe& recipe,
          std::map<std::string, std::string> metadata = {}) {
  const std::string victim =
      detail::fingerprint(*defense.backbone().module, backbones::constants_of(defense.backbone()));
  detail::add_metadata(detail::defense_info(defense), victim, recipe, metadata);
  formats::write_safetensors(
      path, {nn::state_dict(*transforms::trained_module_of(defense.transform()), "transform."),
             std::move(metadata)});
}

/// Loads a file that `save` wrote into a pipeline. Its outputs are then bitwise those of the saved
/// pipeline.
/// \param defense a pipeline with the same victim, the same transform options and the same encoder, if
///   there is one; its remap gets the file's permutation
/// \param path the file
/// \return the file's metadata
/// \throws Error if the file cannot be read, or is of another victim, transform, number of classes
///   or pixel domain; the pipeline then stays unchanged
template <typename T, typename B, typename R>
std::map<std::string, std::string> load(Pipeline<T, B, R>& defense, const std::filesystem::path& path) {
  auto content = formats::read_safetensors(path);
  const std::string name = path.string();
  auto permutation = detail::read_permutation(content.metadata, detail::defense_info(defense), name);
  detail::check_victim(content.metadata, *defense.backbone().module,
                       backbones::constants_of(defense.backbone()), name);
  nn::load_state_dict(*transforms::trained_module_of(defense.transform()), content.tensors, name,
                      "transform.");
  defense.set_permutation(std::move(permutation));
  return std::move(content.metadata);
}

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/export/impl/weights.ipp>
#endif
