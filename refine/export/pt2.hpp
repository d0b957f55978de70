#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <torch/csrc/jit/api/module.h>
#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <refine/backbones/backbone.hpp>
#include <refine/core/file.hpp>
#include <refine/core/task.hpp>
#include <refine/export/torchscript.hpp>
#include <refine/metrics/gated.hpp>
#include <refine/pipeline/gated.hpp>
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
  torch::jit::Module module;                   ///< the tensors that the functions compute with, by name
  std::vector<ExportFunction> functions = {};  ///< the programs
  Task task = {};                              ///< image shape and classes
  const char* kind = "";                       ///< "defended" or "classifier"
  DefenseFacts facts = {};                     ///< for `refine.json`
};

/// Traces the functions, checks that the programs compute what the functions do for several numbers
/// of images, and writes them.
/// \param job what to write
/// \param path the file
/// \param metadata for `refine.json`
/// \throws Error if a function cannot be written, or the file cannot
void write_pt2(const ExportJob& job, const std::filesystem::path& path,
               const nlohmann::ordered_json& metadata);

/// Does all of `write_pt2`, except for writing.
/// \throws Error if a function cannot be written
void check_pt2(const ExportJob& job, const std::filesystem::path& path);

/// Returns for each alarm score whether it is so close to the threshold that rounding decides.
inline at::Tensor is_at_threshold(const at::Tensor& scores, const ServingOptions& serving) {
  constexpr double rounding = 1e-3;
  return (scores - *serving.alarm_threshold).abs() < rounding;
}

/// Returns what is written of a classifier.
template <backbones::FrozenBackbone B>
ExportJob victim_job(const B& victim) {
  return {.module = torchscript_module(victim),
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
///    order, with normalization, transform, victim and remap inside. It takes the place of the
///    victim's own program. They are the defended ones, or those of `ServingOptions::answer`.
///  - `details` gives a dict: `logits`, the defended ones; `alarm`, N scores in [0, 1]
///    (`alarm_score`); `undefended`, the victim's own logits; `transformed`, the images that the
///    victim sees; with `ServingOptions::alarm_threshold`, `gated`, the logits of the gated answer.
///
/// The graph of a victim that is an `ExportedProgram` is written with its nodes and weights as they
/// are in its own file, if that computes in float32. The transform is written in its frozen form if
/// it has one. Before the file is written, its programs are run with 2, 3 and 5 images and compared
/// with the pipeline.
///
/// The pipeline stays unchanged, see `export_torchscript`.
///
/// \param defense the defended classifier; its image shape must be known
/// \param path the file; it is complete or not there
/// \param metadata an object, stored as `extra/refine.json` beside the task, the permutation and the
///   version of this library. To pass one, include <nlohmann/json.hpp>.
/// \param serving which answers the file has
/// \throws Error if an extent of the image shape is dynamic, the threshold is missing or out of range,
///   the victim is for batches of one size, the
///   networks compute with something that torch.export cannot express (control flow of TorchScript,
///   operators of other libraries, sizes that depend on what the images show), or the file cannot
///   be written
template <typename T, typename B, typename R>
void export_pt2(const Pipeline<T, B, R>& defense, const std::filesystem::path& path,
                const nlohmann::ordered_json& metadata = detail::no_metadata(),
                const ServingOptions& serving = {}) {
  if constexpr (!transforms::FrozenTransform<T>) {
    if (transforms::can_freeze(defense.transform()))
      return export_pt2(freeze(defense), path, metadata, serving);
  }
  detail::check_serving(serving, path);
  const detail::ScopedCpu transform(*defense.transform().module), backbone(*defense.backbone().module);
  const auto gated = [&](const at::Tensor& victim, const at::Tensor& defended) {
    return gated_answer(victim, defended, *serving.alarm_threshold);
  };
  detail::ExportFunction model{.name = "model", .outputs = {"logits"}};
  model.run = [&](const at::Tensor& x) -> std::vector<at::Tensor> {
    if (serving.answer == Answer::defended) return {defense.forward(x)};
    return {gated(defense.undefended(x), defense.forward(x))};
  };
  detail::ExportFunction details{.name = "details",
                                 .outputs = {"logits", "alarm", "undefended", "transformed"}};
  details.run = [&](const at::Tensor& x) -> std::vector<at::Tensor> {
    const at::Tensor transformed = defense.transformed(x);
    const at::Tensor defended = defense.classify_transformed(transformed), victim = defense.undefended(x);
    std::vector<at::Tensor> results = {defended, alarm_score(victim, defended), victim, transformed};
    if (serving.alarm_threshold) results.push_back(gated(victim, defended));
    return results;
  };
  if (serving.alarm_threshold) {
    details.outputs.emplace_back("gated");
    details.gated = "gated";
    details.is_undecided = [&](const at::Tensor& x) {
      return detail::is_at_threshold(defense.alarm(x), serving);
    };
    if (serving.answer == Answer::gated) {
      model.gated = "logits";
      model.is_undecided = details.is_undecided;
    }
  }
  detail::write_pt2({.module = detail::torchscript_module(defense),
                     .functions = {std::move(model), std::move(details)},
                     .task = defense.task(),
                     .kind = "defended",
                     .facts = detail::facts_of(defense, serving)},
                    path, metadata);
}

/// Writes a gated classifier as one .pt2 file: its `model` gives the gated answer, its `details` have
/// the defended one.
/// \param gated the classifier and the alarm's threshold
/// \param path the file; it is complete or not there
/// \param metadata as of the other overload
/// \throws Error as the other overload
template <typename T, typename B, typename R>
void export_pt2(const Gated<Pipeline<T, B, R>>& gated, const std::filesystem::path& path,
                const nlohmann::ordered_json& metadata = detail::no_metadata()) {
  export_pt2(gated.defense(), path, metadata,
             {.alarm_threshold = gated.threshold(), .answer = Answer::gated});
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
