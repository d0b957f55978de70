#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/nn/module.h>
#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <refine/backbones/backbone.hpp>
#include <refine/export/detail/traced_module.hpp>
#include <refine/metrics/gated.hpp>
#include <refine/pipeline/pipeline.hpp>

namespace refine {

/// Which answers an exported file has.
struct ServingOptions {
  /// Threshold of the alarm, in [0, 1]. With it, the file has both answers; nothing: it has the defended
  /// one only.
  std::optional<double> alarm_threshold = std::nullopt;
  Answer answer = Answer::defended;  ///< what the file serves; `gated` needs the threshold

  /// True if both members are equal.
  friend bool operator==(const ServingOptions&, const ServingOptions&) = default;
};

namespace detail {

/// Returns the images that methods are traced with. There are two: from one image, LibTorch could
/// take the batch size for a constant.
at::Tensor example_images(const Task& task, const std::filesystem::path& path);

/// Keeps the tensors of a module on the CPU during its lifetime. Tensors that are there already are
/// not touched, so that others may use a module on the CPU at the same time. The others get back
/// the memory they had, which allocates nothing and cannot fail.
class ScopedCpu {
 public:
  explicit ScopedCpu(const torch::nn::Module& module);
  explicit ScopedCpu(const ServedParts& parts);
  ScopedCpu(const ScopedCpu&) = delete;
  ScopedCpu& operator=(const ScopedCpu&) = delete;
  ~ScopedCpu() { restore(); }

 private:
  struct Entry {
    at::Tensor tensor, data;
  };

  void move(const torch::nn::Module& module);
  void restore() noexcept;

  std::vector<Entry> moved_;
};

/// Returns which answers a file of a defense has: as specified or, for a `Gated`, the gated one and the
/// defended one.
/// \throws Error if the gated answer is requested without a threshold, the threshold is out of range, or
///   options are specified for a `Gated`
ServingOptions serving_of(const ServedParts& parts, const ServingOptions& specified,
                          const std::filesystem::path& path);

/// Returns an empty JSON object: no metadata.
const nlohmann::ordered_json& no_metadata();

/// What a file of a defense states about it in `refine.json`, beside the metadata.
struct DefenseFacts {
  std::vector<std::int64_t> permutation = {};   ///< of the remap; empty: not a defense
  std::optional<Answer> answer = std::nullopt;  ///< what is served, if the file has both answers
};

/// Returns the facts of a defense.
inline DefenseFacts facts_of(const ServedParts& parts, const ServingOptions& serving) {
  return {.permutation = parts.permutation,
          .answer = serving.alarm_threshold ? std::optional(serving.answer) : std::nullopt};
}

/// Returns the text of `refine.json`: the metadata, the kind of file, the facts and the task.
std::string about_text(const Task& task, const nlohmann::ordered_json& metadata, const char* kind,
                       const DefenseFacts& facts);

/// Returns a TorchScript module without methods that has the tensors of a defense.
torch::jit::Module torchscript_module(const ServedParts& parts);

/// Returns a TorchScript module without methods that has the tensors of a classifier.
template <backbones::FrozenBackbone B>
torch::jit::Module torchscript_module(const B& victim) {
  const auto unit = std::make_shared<torch::jit::CompilationUnit>();
  torch::jit::Module module(c10::QualifiedName("__torch__.refine.Classifier"), unit);
  module.register_module("backbone", to_torchscript(*victim.module, "Backbone", unit));
  for (const auto& [name, constant] : backbones::constants_of(victim)) module.register_buffer(name, constant);
  return module;
}

/// Writes a traced module, which may share its tensors with networks in use, with `refine.json`.
void save_module(torch::jit::Module& module, const std::filesystem::path& path, const Task& task,
                 const nlohmann::ordered_json& metadata, const char* kind, const DefenseFacts& facts = {});

/// Writes a defense as TorchScript. \throws Error as `export_torchscript`
void write_torchscript(const ServedParts& parts, const std::filesystem::path& path,
                       const nlohmann::ordered_json& metadata, const ServingOptions& specified);

}  // namespace detail

/// Writes a defended classifier as one TorchScript file. It needs no code of this library: load it
/// with `torch::jit::load` in C++ or `torch.jit.load` in Python, on the CPU or on CUDA. Its methods
/// take float images N×C×H×W in [0, 1], for any N:
///
///  - `forward` returns the logits N×classes in the victim's class order, with normalization,
///    transform (and its encoder, if it has one), victim and remap inside; of a student, with the
///    student inside;
///  - `transform` returns the images that the victim sees, in [0, 1], of the height and width that the
///    transform draws; of a student, the images unchanged;
///  - `undefended` returns the victim's own logits N×classes, for comparison;
///  - `alarm` returns N scores in [0, 1] or infinity, high where the two answers disagree, as for a triggered
///    image (`alarm_score`);
///  - with `ServingOptions::alarm_threshold`, `defended` and `gated` return the logits N×classes of
///    both answers, whichever of them `forward` returns.
///
/// What was trained is written in its frozen form (`ServableDefense`): BatchNorm is folded, and results
/// are equal up to rounding. The file of a `Gated` has both answers, and its `forward` returns the gated
/// one.
///
/// The defense stays unchanged. Networks on another device are moved to the CPU and back, so
/// nothing else may use them meanwhile; networks on the CPU are only read.
///
///     export_torchscript(defense, "defended.pt");
///     export_torchscript(Gated{defense, alarm.threshold}, "gated.pt");
///
/// \param defense the defended classifier; its image shape must be known
/// \param path the file; it is complete or not there
/// \param metadata an object, stored in the extra file `refine.json` beside the task, the
///   permutation and the version of this library. To pass one, include <nlohmann/json.hpp>.
/// \param serving which answers the file has; left out for a `Gated`
/// \throws Error if an extent of the image shape is dynamic, the threshold is missing or out of range,
///   `serving` is specified for a `Gated`, or the file cannot be written
template <ServableDefense D>
void export_torchscript(const D& defense, const std::filesystem::path& path,
                        const nlohmann::ordered_json& metadata = detail::no_metadata(),
                        const ServingOptions& serving = {}) {
  detail::write_torchscript(defense.served_parts(), path, metadata, serving);
}

/// Writes a frozen classifier, without a defense, as one TorchScript file. Its `forward` takes
/// float images N×C×H×W in [0, 1] and returns logits N×classes, with the normalization inside.
/// \param victim the classifier, see `freeze`; its image shape must be known
/// \param path the file; it is complete or not there
/// \param metadata an object, stored in the extra file `refine.json` beside the task
/// \throws Error if an extent of the image shape is dynamic, or the file cannot be written
template <backbones::FrozenBackbone B>
void export_torchscript(const B& victim, const std::filesystem::path& path,
                        const nlohmann::ordered_json& metadata = detail::no_metadata()) {
  const Task task = victim.task;
  const at::Tensor example = detail::example_images(task, path);
  const detail::ScopedCpu backbone(*victim.module);
  torch::jit::Module module = detail::torchscript_module(victim);
  c10::NoGradGuard no_grad;
  detail::add_method(module, "forward", example, [&](const at::Tensor& x) { return victim.forward(x); });
  detail::save_module(module, path, task, metadata, "classifier");
}

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/export/impl/torchscript.ipp>
#endif
