#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <variant>

#include <refine/backbones/normalized.hpp>
#include <refine/core/config.hpp>
#include <refine/core/task.hpp>
#include <refine/formats/exported_program.hpp>
#include <refine/formats/torchscript_check.hpp>
#include <refine/programs/detail/exported_module.hpp>
#include <refine/programs/detail/scripted_module.hpp>

namespace refine::transforms {

namespace detail {

/// The module of `ProgramEncoder`: a program, and the normalisation before it.
class ProgramEncoderModule : public torch::nn::Module {
 public:
  using Scripted = std::shared_ptr<backbones::detail::ScriptedModule>;
  using Exported = std::shared_ptr<backbones::detail::ExportedModule>;

  ProgramEncoderModule(std::variant<Scripted, Exported> program,
                       const std::optional<Normalization>& normalization, int channels);

  /// Returns the program's features, N×F; maps N×F×h×w are averaged.
  at::Tensor forward(const at::Tensor& images);

  /// Returns what the program returns.
  at::Tensor run(const at::Tensor& images);

  void use_channels_last(bool yes);

 private:
  std::variant<Scripted, Exported> program_;
  at::Tensor mean_, deviation_;  // undefined: images are not normalised
};

}  // namespace detail

/// Options of `ProgramEncoder`: what is known of a feature extractor. The rest is in the file.
struct ProgramEncoderOptions {
  /// Shape of the images that it sees; what the file says is checked. Open extents are those of the
  /// file.
  ImageShape image = {};
  ImageShape likely_image = {};  ///< for extents that both leave open; not checked
  /// What images in [0, 1] are normalised with; nothing: not at all.
  std::optional<Normalization> normalization = std::nullopt;
  formats::Trust trust = formats::Trust::checked;  ///< which files are loaded
  /// Which tensor is the features if `forward` returns several: its position, key or field name.
  std::string output = {};
};

/// A feature extractor from a file, TorchScript or torch.export (.pt2), as the encoder of
/// `transforms::Encoded`. Its `forward` returns N×F features or N×F×h×w maps, which are averaged: a
/// network without its last layer. The logits of a whole classifier are features, too.
///
///     const transforms::ProgramEncoder encoder{"encoder.pt", {.image = {3, 224, 224}}};
///
/// The file is checked before anything in it runs, as a victim's is; see `backbones::Scripted` and
/// `backbones::ExportedProgram`. This does not show a backdoor: the encoder must come from where
/// nobody tampered with it.
class ProgramEncoder {
 public:
  /// Loads a file, and runs it on one to three images.
  /// \param path the file
  /// \param options what is known of it
  /// \throws Error if the file cannot be read, is refused, contradicts the options or leaves the image
  ///   shape open, or if its output is not features of each image by itself
  explicit ProgramEncoder(const std::filesystem::path& path, const ProgramEncoderOptions& options = {});

  ImageShape image;                                      ///< shape of the images that it sees
  int features = 0;                                      ///< number of features
  std::shared_ptr<detail::ProgramEncoderModule> module;  ///< holds the program and its tensors

  /// Returns features, float N×features.
  /// \param images float N×C×H×W in [0, 1]
  at::Tensor forward(const at::Tensor& images) const { return module->forward(images); }

 private:
  void load_torchscript(const std::filesystem::path& path, const ProgramEncoderOptions& options);
  void load_exported_program(const std::filesystem::path& path, const ProgramEncoderOptions& options);
  void probe(const std::string& name);
};

}  // namespace refine::transforms

#if !defined(REFINE_COMPILED_LIB)
#include <refine/programs/impl/encoder.ipp>
#endif
