#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <nlohmann/json_fwd.hpp>

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include <refine/core/task.hpp>
#include <refine/formats/torchscript_check.hpp>

namespace refine {

/// A defended classifier read from a file that `export_torchscript` wrote: a `DefendedClassifier` without its
/// parts. It has no gradients; whoever trains takes a `Pipeline`.
class ExportedClassifier {
 public:
  /// \throws Error when the file can't be read, is refused (`formats::load_torchscript`), or is no defended
  /// classifier
  explicit ExportedClassifier(const std::filesystem::path& path,
                              formats::Trust trust = formats::Trust::checked)
      : ExportedClassifier(formats::load_torchscript(path, trust), path.string()) {}

  Task task() const { return task_; }
  /// Where its tensors are, also when a copy, which shares them, has been moved.
  at::Device device() const;

  void to(at::Device device);

  /// Float N×C×H×W in [0, 1] → defended logits N×classes.
  at::Tensor forward(const at::Tensor& images) const { return run(0, images); }

  /// The images that the victim sees, N×C×H×W in [0, 1].
  at::Tensor transformed(const at::Tensor& images) const { return run(1, images); }

  /// The victim's own logits N×classes.
  at::Tensor undefended(const at::Tensor& images) const { return run(2, images); }

  /// N scores in [0, 1], high where the two answers disagree.
  at::Tensor alarm(const at::Tensor& images) const { return run(3, images); }

  /// What the file says of itself: `refine.json`.
  const nlohmann::ordered_json& about() const { return *about_; }

 private:
  static constexpr std::int64_t largest_image = std::int64_t{1} << 26;  // numbers
  static constexpr std::array<const char*, 4> methods = {"forward", "transform", "undefended", "alarm"};

  ExportedClassifier(formats::TorchScriptFile file, const std::string& name);

  /// What it says of itself must be so: whoever names a class by its number relies on it.
  void probe(const std::function<void(const std::string&)>& refuse) const;

  at::Tensor run(std::size_t method, const at::Tensor& images) const;

  torch::jit::Module module_;
  std::shared_ptr<const nlohmann::ordered_json> about_;
  Task task_;
  at::Device device_ = at::kCPU;  ///< of a file without tensors
  mutable std::array<torch::jit::GraphExecutor, methods.size()> executors_;
};

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/export/impl/exported_classifier.ipp>
#endif
