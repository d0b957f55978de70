#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include <refine/core/task.hpp>
#include <refine/formats/torchscript_check.hpp>
#include <refine/metrics/gated.hpp>

namespace refine {

namespace detail {

/// The program of an exported file.
class ServedProgram {
 public:
  /// The functions of images that a file has.
  enum Function { forward, transformed, undefended, alarm, functions };

  virtual ~ServedProgram() = default;

  /// Returns what a file calls a function.
  virtual std::string name_of(Function function) const = 0;

  /// Runs a function without gradients.
  virtual at::Tensor run(Function function, const at::Tensor& images) const = 0;

  /// Returns the device of the tensors; nothing if there are none.
  virtual std::optional<at::Device> device() const = 0;

  /// Moves the tensors.
  virtual void to(at::Device device) = 0;
};

/// What the `refine.json` of an exported file states about its functions.
struct ExportedFacts {
  Task task;  ///< the images and the classes
  std::optional<Answer> answer =
      std::nullopt;  ///< of `forward`; nothing: the file has the defended answer only
};

/// Reads the facts.
/// \param about the content of `refine.json`
/// \param file its name, for messages
/// \throws Error if a fact is missing or malformed, or the images are too large
ExportedFacts exported_facts(const nlohmann::ordered_json& about, const std::string& file);

}  // namespace detail

/// A defended classifier read from a file that `export_torchscript` or `export_pt2` wrote: a
/// `DefendedClassifier` that `evaluate`, `scan` and the report take. It has no gradients; train a
/// `Pipeline` instead.
///
///     const ExportedClassifier defended("defended.pt2");
///     at::Tensor logits = defended.forward(images);
///
/// Copies share their tensors.
class ExportedClassifier {
 public:
  /// Reads a file, and runs each of its functions on two blank images to check their shapes.
  /// \param path the file; its content decides how it is read
  /// \param trust whether the file is checked before it is loaded, see `formats::load_torchscript` and
  ///   `formats::read_exported_program`
  /// \param answer what `forward` returns; nothing: what the file serves
  /// \throws Error if the file cannot be read, fails the check, is not a defended classifier, or does not
  ///   have the answer
  explicit ExportedClassifier(const std::filesystem::path& path,
                              formats::Trust trust = formats::Trust::checked,
                              std::optional<Answer> answer = std::nullopt);

  /// Returns what `forward` returns.
  Answer answer() const { return answer_; }

  /// Returns the image shape and the number of classes.
  Task task() const { return task_; }

  /// Returns the device of the tensors, also after a copy, which shares them, was moved.
  at::Device device() const { return program_->device().value_or(device_); }

  /// Moves the tensors, which copies share.
  /// \param device where to
  void to(at::Device device) {
    program_->to(device);
    device_ = device;
  }

  /// Returns the logits of `answer()`.
  /// \param images float N×C×H×W in [0, 1], on `device()`
  /// \return N×classes
  at::Tensor forward(const at::Tensor& images) const { return program_->run(Program::forward, images); }

  /// Returns the images that the victim sees.
  /// \param images float N×C×H×W in [0, 1], on `device()`
  /// \return float images in [0, 1], of the height and width that the transform draws
  at::Tensor transformed(const at::Tensor& images) const {
    return program_->run(Program::transformed, images);
  }

  /// Returns the victim's logits, without the defense.
  /// \param images float N×C×H×W in [0, 1], on `device()`
  /// \return N×classes
  at::Tensor undefended(const at::Tensor& images) const { return program_->run(Program::undefended, images); }

  /// Returns the alarm scores, high where victim and defense disagree; see `alarm_score`.
  /// \param images float N×C×H×W in [0, 1], on `device()`
  /// \return N scores in [0, 1]
  at::Tensor alarm(const at::Tensor& images) const { return program_->run(Program::alarm, images); }

  /// Returns the metadata in the file, `refine.json`. Include `<nlohmann/json.hpp>` to read it.
  const nlohmann::ordered_json& about() const { return *about_; }

 private:
  using Program = detail::ServedProgram;

  // Returns why the functions do not return what the metadata promises, by which callers look up
  // class names; empty if they do.
  std::string problem() const;

  std::shared_ptr<Program> program_;
  std::shared_ptr<const nlohmann::ordered_json> about_;
  Task task_;
  at::Device device_ = at::kCPU;  // of a file without tensors
  Answer answer_ = Answer::defended;
};

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/export/impl/exported_classifier.ipp>
#endif
