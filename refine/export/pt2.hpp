#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/nn/module.h>
#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <refine/backbones/backbone.hpp>
#include <refine/core/file.hpp>
#include <refine/core/task.hpp>
#include <refine/export/torchscript.hpp>
#include <refine/metrics/gated.hpp>
#include <refine/pipeline/pipeline.hpp>

namespace refine {

namespace detail {

/// A function of images that becomes a program of a .pt2 file, or the graph of an ONNX file.
struct ExportFunction {
  std::string name = {};                  ///< of the program
  std::vector<std::string> outputs = {};  ///< keys of the results; one: it returns a tensor, not a dict
  /// Returns the results for images N×C×H×W in [0, 1].
  std::function<std::vector<at::Tensor>(const at::Tensor&)> run = {};
  /// Key of the result that is the gated answer; empty: none is.
  std::string gated = {};
  /// Returns for each image whether rounding decides `gated`, because its alarm score is at the
  /// threshold.
  std::function<at::Tensor(const at::Tensor&)> is_undecided = {};
};

/// What is written.
struct ExportJob {
  torch::jit::Module module;  ///< the tensors that the functions compute with, by name
  std::shared_ptr<const torch::nn::Module> victim = nullptr;  ///< whose program has its tensors as `victim.…`
  std::vector<ExportFunction> functions = {};                 ///< the programs
  Task task = {};                                             ///< image shape and classes
  const char* kind = "";                                      ///< "defended" or "classifier"
  DefenseFacts facts = {};                                    ///< for `refine.json`
};

/// Traces the functions, checks that the programs compute what the functions do for several numbers
/// of images, and writes them.
/// \param job what to write
/// \param path the file
/// \param metadata for `refine.json`
/// \throws Error if a function cannot be written, or the file cannot
void write_pt2(const ExportJob& job, const std::filesystem::path& path,
               const nlohmann::ordered_json& metadata);

/// Writes a defense as .pt2. \throws Error as `export_pt2`
void write_pt2(const ServedParts& parts, const std::filesystem::path& path,
               const nlohmann::ordered_json& metadata, const ServingOptions& specified);

/// Does all of `write_pt2`, except for writing.
/// \throws Error if a function cannot be written
void check_pt2(const ExportJob& job, const std::filesystem::path& path);

/// Returns for each image whether its alarm score is so close to the threshold that rounding decides.
inline at::Tensor is_at_threshold(const ServedParts& parts, const at::Tensor& images,
                                  const ServingOptions& serving) {
  constexpr double rounding = 1e-3;
  const at::Tensor scores = alarm_score(parts.undefended(images), parts.classify(parts.transform(images)));
  return (scores - *serving.alarm_threshold).abs() < rounding;
}

/// Returns the victim's module; null if the defense has none of its name.
inline std::shared_ptr<const torch::nn::Module> victim_of(const ServedParts& parts) {
  for (const auto& [name, module] : parts.modules) {
    if (name == "backbone") return module;
  }
  return nullptr;
}

/// Returns what is written of a classifier.
template <backbones::FrozenBackbone B>
ExportJob victim_job(const B& victim) {
  return {.module = torchscript_module(victim),
          .victim = victim.module,
          .functions = {{.name = "model",
                         .outputs = {"logits"},
                         .run = [victim](const at::Tensor& x) -> std::vector<at::Tensor> {
                           return {victim.forward(x)};
                         }}},
          .task = victim.task,
          .kind = "classifier"};
}

}  // namespace detail

/// True if a file is written as .pt2, by the extension of its name.
inline bool is_pt2_path(const std::filesystem::path& path) {
  return files::lower_extension(path) == ".pt2";
}

/// Writes a defended classifier as one .pt2 file of torch.export. It needs no code of this library:
///
///     program = torch.export.load("defended.pt2").module()    # Python
///     logits = program(images)
///
/// It has two programs, which take float images N×C×H×W in [0, 1], for any N, and share their
/// tensors in the file:
///
///  - `model`, which `torch.export.load` returns, gives the logits N×classes in the victim's class
///    order, with normalization, transform, victim and remap inside, or a student. It takes the place
///    of the victim's own program. They are the defended ones, or those of `ServingOptions::answer`.
///  - `details` gives a dict: `logits`, the defended ones; `alarm`, N scores in [0, 1] or infinity
///    (`alarm_score`); `undefended`, the victim's own logits; `transformed`, the images that the
///    victim sees (of a student, the images unchanged); with `ServingOptions::alarm_threshold`, `gated`,
///    the logits of the gated answer.
///
/// The graph of a victim that is an `ExportedProgram` is written with its nodes and weights as they
/// are in its own file, if that computes in float32. What was trained is written in its frozen form
/// (`ServableDefense`). Before the file is written, its programs are run with 2, 3 and 5 images and
/// compared with the defense. Of a `Gated`, `model` gives the gated answer.
///
/// The defense stays unchanged, see `export_torchscript`.
///
/// \param defense the defended classifier; its image shape must be known
/// \param path the file; it is complete or not there
/// \param metadata an object, stored as `extra/refine.json` beside the task, the permutation and the
///   version of this library. To pass one, include <nlohmann/json.hpp>.
/// \param serving which answers the file has; left out for a `Gated`
/// \throws Error if an extent of the image shape is dynamic, the threshold is missing or out of range,
///   `serving` is specified for a `Gated`, the victim is for batches of one size, the
///   networks compute with something that torch.export cannot express (control flow of TorchScript,
///   operators of other libraries, sizes that depend on what the images show), or the file cannot
///   be written
template <ServableDefense D>
void export_pt2(const D& defense, const std::filesystem::path& path,
                const nlohmann::ordered_json& metadata = detail::no_metadata(),
                const ServingOptions& serving = {}) {
  detail::write_pt2(defense.served_parts(), path, metadata, serving);
}

/// Writes a frozen classifier, without a defense, as one .pt2 file with the program `model`, which
/// takes float images N×C×H×W in [0, 1] and returns logits N×classes.
/// \param victim the classifier, see `freeze`; its image shape must be known
/// \param path the file; it is complete or not there
/// \param metadata an object, stored as `extra/refine.json` beside the task
/// \throws Error as `export_pt2` of a defense
template <backbones::FrozenBackbone B>
void export_pt2(const B& victim, const std::filesystem::path& path,
                const nlohmann::ordered_json& metadata = detail::no_metadata()) {
  const detail::ScopedCpu backbone(*victim.module);
  detail::write_pt2(detail::victim_job(victim), path, metadata);
}

/// Checks that `export_pt2` accepts a victim, before a defense is trained for it.
/// \param victim the classifier, see `freeze`; its image shape must be known
/// \param path the file, for messages
/// \throws Error as `export_pt2`
template <backbones::FrozenBackbone B>
void check_pt2_export(const B& victim, const std::filesystem::path& path) {
  const detail::ScopedCpu backbone(*victim.module);
  detail::check_pt2(detail::victim_job(victim), path);
}

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/export/impl/pt2.ipp>
#endif
