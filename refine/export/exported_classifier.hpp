#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <nlohmann/json_fwd.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include <refine/core/task.hpp>
#include <refine/formats/torchscript_check.hpp>
#include <refine/metrics/gated.hpp>

namespace refine {

/// A defended classifier read from a file that `export_torchscript` wrote: a `DefendedClassifier`
/// that `evaluate`, `scan` and the report take. It has no gradients; train a `Pipeline` instead.
///
///     const ExportedClassifier defended("defended.pt");
///     at::Tensor logits = defended.forward(images);
///
/// Copies share their tensors.
class ExportedClassifier {
 public:
  /// Reads a file, and runs each of its methods on two blank images to check their shapes.
  /// \param path the file
  /// \param trust whether the file is checked before it is loaded, see `formats::load_torchscript`
  /// \param answer what `forward` returns; nothing: what the file's own `forward` returns
  /// \throws Error if the file cannot be read, fails the check, is not a defended classifier, or does not
  ///   have the answer
  explicit ExportedClassifier(const std::filesystem::path& path,
                              formats::Trust trust = formats::Trust::checked,
                              std::optional<Answer> answer = std::nullopt)
      : ExportedClassifier(formats::load_torchscript(path, trust), path.string(), answer) {}

  /// Returns what `forward` returns.
  Answer answer() const { return answer_; }

  /// Returns the image shape and the number of classes.
  Task task() const { return task_; }

  /// Returns the device of the tensors, also after a copy, which shares them, was moved.
  at::Device device() const;

  /// Moves the tensors, which copies share.
  /// \param device where to
  void to(at::Device device);

  /// Returns the logits of `answer()`.
  /// \param images float N×C×H×W in [0, 1], on `device()`
  /// \return N×classes
  at::Tensor forward(const at::Tensor& images) const { return run(0, images); }

  /// Returns the images that the victim sees.
  /// \param images float N×C×H×W in [0, 1], on `device()`
  /// \return N×C×H×W in [0, 1]
  at::Tensor transformed(const at::Tensor& images) const { return run(1, images); }

  /// Returns the victim's logits, without the defense.
  /// \param images float N×C×H×W in [0, 1], on `device()`
  /// \return N×classes
  at::Tensor undefended(const at::Tensor& images) const { return run(2, images); }

  /// Returns the alarm scores, high where victim and defense disagree; see `alarm_score`.
  /// \param images float N×C×H×W in [0, 1], on `device()`
  /// \return N scores in [0, 1]
  at::Tensor alarm(const at::Tensor& images) const { return run(3, images); }

  /// Returns the metadata in the file, `refine.json`.
  const nlohmann::ordered_json& about() const { return *about_; }

 private:
  static constexpr std::int64_t largest_image = std::int64_t{1} << 26;  // pixels × channels

  ExportedClassifier(formats::TorchScriptFile file, const std::string& name, std::optional<Answer> answer);

  // Checks that the methods return what the metadata promises. Callers look up class names by these
  // extents.
  void check_methods(const std::function<void(const std::string&)>& refuse) const;

  at::Tensor run(std::size_t method, const at::Tensor& images) const;

  torch::jit::Module module_;
  std::shared_ptr<const nlohmann::ordered_json> about_;
  Task task_;
  at::Device device_ = at::kCPU;  // of a file without tensors
  Answer answer_ = Answer::defended;
  std::array<std::string, 4> methods_ = {"forward", "transform", "undefended", "alarm"};
  mutable std::array<torch::jit::GraphExecutor, 4> executors_;
};

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/export/impl/exported_classifier.ipp>
#endif
