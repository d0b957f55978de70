#pragma once

#include <nlohmann/json_fwd.hpp>

#include <filesystem>
#include <string>

#include <refine/backbones/backbone.hpp>
#include <refine/core/file.hpp>
#include <refine/core/task.hpp>
#include <refine/export/pt2.hpp>
#include <refine/export/torchscript.hpp>
#include <refine/pipeline/pipeline.hpp>

namespace refine::formats {
struct WritableOnnx;
}

namespace refine {

namespace detail {

/// Checks that a graph computes what it must: translates it back and runs it with 2, 3 and 5 images. Does
/// nothing if refine does not read one of its operators.
/// \param graph whose outputs are those of `function`
/// \param function what it must compute
/// \param task of the images
/// \param file for messages
/// \throws Error if it computes something else
void check_onnx_graph(const formats::WritableOnnx& graph, const ExportFunction& function, const Task& task,
                      const std::string& file);

/// Writes the only function of a job as an ONNX file, `write_pt2` otherwise.
/// \param job what to write
/// \param path the file
/// \param metadata for `refine.json`
/// \throws Error if the function cannot be written, or the file cannot
void write_onnx(const ExportJob& job, const std::filesystem::path& path,
                const nlohmann::ordered_json& metadata);

/// Writes a defense as ONNX. \throws Error as `export_onnx`
void write_onnx(const ServedParts& parts, const std::filesystem::path& path,
                const nlohmann::ordered_json& metadata, const ServingOptions& specified);

/// Does all of `write_onnx`, except for writing.
/// \throws Error if the function cannot be written
void check_onnx(const ExportJob& job, const std::filesystem::path& path);

}  // namespace detail

/// True if a file is written as ONNX, by the extension of its name.
inline bool is_onnx_path(const std::filesystem::path& path) {
  return files::lower_extension(path) == ".onnx";
}

/// Writes a defended classifier as one ONNX file, for ONNX Runtime, OpenVINO and others:
///
///     session = onnxruntime.InferenceSession("defended.onnx")               # Python
///     logits, alarm = session.run(["logits", "alarm"], {"images": images})
///
/// The graph has one input and two outputs, for any number of images:
///
///  - `images`: float N×C×H×W in [0, 1];
///  - `logits`: N×classes in the victim's class order, with normalization, transform, victim and remap
///    inside, or a student. They are the defended ones, those of `ServingOptions::answer`, or the gated
///    ones of a `Gated`;
///  - `alarm`: N scores in [0, 1] or infinity (`alarm_score`).
///
/// All weights are in the file. Its operators are those of opset 17, and of ONNX's own domain. The
/// nodes of a victim that is an ONNX model itself (`backbones::OnnxModel`) are written byte for byte,
/// with the opset of its file, if it computes in float32; values that it calls `images`, `logits` or
/// `alarm` are renamed. Its nodes are there twice, for the images and for what the transform draws.
/// Before the file is written, the graph is translated back, run with 2, 3 and 5 images and compared with
/// the defense, unless it has an operator that this library does not read.
///
/// \param defense the defended classifier; its image shape must be known
/// \param path the file; it is complete or not there
/// \param metadata an object, stored as the metadata entry `refine.json` beside the task, the
///   permutation and the version of this library. To pass one, include <nlohmann/json.hpp>.
/// \param serving which answer the file gives; left out for a `Gated`
/// \throws Error as `export_pt2`, if the networks use an operator that is not translated to ONNX, or
///   the file would be larger than 2 GB
template <ServableDefense D>
void export_onnx(const D& defense, const std::filesystem::path& path,
                 const nlohmann::ordered_json& metadata = detail::no_metadata(),
                 const ServingOptions& serving = {}) {
  detail::write_onnx(defense.served_parts(), path, metadata, serving);
}

/// Writes a frozen classifier, without a defense, as one ONNX file with the output `logits`.
/// \param victim the classifier, see `freeze`; its image shape must be known
/// \param path the file; it is complete or not there
/// \param metadata an object, stored as the metadata entry `refine.json` beside the task
/// \throws Error as `export_onnx` of a defense
template <backbones::FrozenBackbone B>
void export_onnx(const B& victim, const std::filesystem::path& path,
                 const nlohmann::ordered_json& metadata = detail::no_metadata()) {
  const detail::ScopedCpu backbone(*victim.module);
  detail::write_onnx(detail::victim_job(victim), path, metadata);
}

/// Checks that `export_onnx` accepts a victim, before a defense is trained for it.
/// \param victim the classifier, see `freeze`; its image shape must be known
/// \param path the file, for messages
/// \throws Error as `export_onnx`
template <backbones::FrozenBackbone B>
void check_onnx_export(const B& victim, const std::filesystem::path& path) {
  const detail::ScopedCpu backbone(*victim.module);
  detail::check_onnx(detail::victim_job(victim), path);
}

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/export/impl/onnx.ipp>
#endif
