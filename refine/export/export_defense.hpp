#pragma once

#include <nlohmann/json_fwd.hpp>

#include <filesystem>

#include <refine/backbones/backbone.hpp>
#include <refine/export/onnx.hpp>
#include <refine/export/pt2.hpp>
#include <refine/export/torchscript.hpp>
#include <refine/pipeline/gated.hpp>
#include <refine/pipeline/pipeline.hpp>

namespace refine {

/// Writes a defended classifier as one file to serve: as .pt2 or ONNX if the name ends so
/// (`export_pt2`, `export_onnx`), else as TorchScript (`export_torchscript`).
///
///     export_defense(defense, "defended.pt2");
///     export_defense(defense, "defended.onnx");
///     export_defense(Gated{defense, alarm.threshold}, "gated.pt2");
///
/// The file of a `Gated` gives the gated answer; a .pt2 and a TorchScript file have the defended one
/// inside.
///
/// \param defense the defended classifier; its image shape must be known
/// \param path the file; it is complete or not there
/// \param metadata an object, stored as `refine.json`
/// \param serving which answers the file has; left out for a `Gated`
/// \throws Error as these functions
template <ServableDefense D>
void export_defense(const D& defense, const std::filesystem::path& path,
                    const nlohmann::ordered_json& metadata = detail::no_metadata(),
                    const ServingOptions& serving = {}) {
  if (is_pt2_path(path)) return export_pt2(defense, path, metadata, serving);
  if (is_onnx_path(path)) return export_onnx(defense, path, metadata, serving);
  export_torchscript(defense, path, metadata, serving);
}

/// Writes a frozen classifier, without a defense, as one file to serve. The name chooses its kind, as
/// for a defense.
/// \param victim the classifier, see `freeze`; its image shape must be known
/// \param path the file; it is complete or not there
/// \param metadata an object, stored as `refine.json`
/// \throws Error as `export_defense` of a defense
template <backbones::FrozenBackbone B>
void export_victim(const B& victim, const std::filesystem::path& path,
                   const nlohmann::ordered_json& metadata = detail::no_metadata()) {
  if (is_pt2_path(path)) return export_pt2(victim, path, metadata);
  if (is_onnx_path(path)) return export_onnx(victim, path, metadata);
  export_torchscript(victim, path, metadata);
}

/// Checks that `export_defense` accepts a victim, before a defense is trained for it. TorchScript takes
/// every victim.
/// \param victim the classifier, see `freeze`; its image shape must be known
/// \param path the file, for its kind and for messages
/// \throws Error as `export_defense`
template <backbones::FrozenBackbone B>
void check_export(const B& victim, const std::filesystem::path& path) {
  if (is_pt2_path(path)) check_pt2_export(victim, path);
  if (is_onnx_path(path)) check_onnx_export(victim, path);
}

}  // namespace refine
