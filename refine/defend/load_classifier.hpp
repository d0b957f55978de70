#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <refine/backbones/any_backbone.hpp>
#include <refine/backbones/backbone.hpp>
#include <refine/backbones/normalized.hpp>
#include <refine/core/task.hpp>
#include <refine/data/resize.hpp>
#include <refine/defend/notice.hpp>

namespace refine {

/// What a file does not say about its classifier. All fields are optional.
///
/// Messages of `load_classifier` name the command line's options; they have the names of these
/// fields.
struct LoadOptions {
  std::string arch = {};  ///< of a file of weights: the network's name, as in `backbones::network_names`
  std::optional<backbones::Stem> stem = std::nullopt;  ///< of a ResNet's weights, where they leave it open
  std::string key =
      {};  ///< of a checkpoint: which weights to use, as "state_dict_ema"; empty: found by content
  ImageShape image = {};  ///< shape of the images that the classifier takes; open extents are found out
  ImageShape images =
      {};  ///< shape of the images at hand: a hint, preferred where the classifier takes several
  /// Normalisation that the classifier expects, in the order of its channels. Nothing: that of the
  /// file, if it has one; else images stay in [0, 1].
  std::optional<Normalization> normalization = std::nullopt;
  bool bgr = false;         ///< the classifier takes channels in the order blue, green, red
  std::string output = {};  ///< of a program that returns several tensors: position or key of the logits
  std::vector<std::string> class_names =
      {};              ///< in the classifier's order; empty: those of the file, if it has any
  bool trust = false;  ///< run a program even if its code names operators that are not tensor arithmetic
  Notify notify = {};  ///< receives a note if a checkpoint has several sets of weights
};

/// A classifier read from a file.
struct LoadedClassifier {
  backbones::AnyBackbone backbone;            ///< takes RGB images in [0, 1]; normalisation is inside
  std::string name = {};                      ///< of the file, without its folder
  std::string description = {};               ///< in a few words: "ResNet18, width 64"
  std::vector<std::string> class_names = {};  ///< in the order of the logits; empty if they are not known
  bool is_image_known = false;                ///< the image size was specified, or the file has it
  bool is_normalization_known = false;        ///< the file has the normalisation
  /// How images of other sizes were made to fit when it was trained; nothing: the file does not say.
  std::optional<data::ResizeMode> resize = std::nullopt;

  /// Returns the shape of its images and its number of classes.
  const Task& task() const { return backbone.task; }
};

/// Reads a classifier from a file of any supported kind, recognized by its content:
///
/// - a TorchScript program, traced or scripted. Its code is checked before it runs
///   (`formats::load_torchscript`); image shape and number of classes are found by trying shapes.
/// - a program of torch.export (.pt2). The whole file is checked before anything in it runs
///   (`formats::read_exported_program`); it knows its image shape and number of classes.
/// - an ONNX model. It is checked likewise (`formats::read_onnx`).
/// - weights of a known network: safetensors, or a file of `torch.save` with a state dict or a
///   checkpoint that contains one. Width, variant and number of classes are read from the shapes of
///   the tensors.
///
/// Image size, class names and normalisation are taken from the options, then from the file.
///
///     const LoadedClassifier victim = load_classifier("victim.pth", {.arch = "ResNet18", .image = {3, 224, 224},
///                                                                    .normalization = normalizations::imagenet});
///
/// \param path the file
/// \param options what the file does not say, or what replaces what it says
/// \return the classifier, with the name, the normalisation and the class names that were found
/// \throws Error if the file cannot be read or is refused, is not a classifier, or contradicts the
///   options
LoadedClassifier load_classifier(const std::filesystem::path& path, const LoadOptions& options = {});

/// True if a file is a program (TorchScript, torch.export or ONNX), by its content. False if it cannot be
/// opened.
/// \throws Error if the file is a ZIP archive that is damaged or cannot be read
bool is_program(const std::filesystem::path& path);

/// Returns the shape that a text means: "3x224x224", or "224" for 3×224×224.
/// \throws Error for any other text
ImageShape parse_shape(const std::string& text);

/// Returns the stem that a text means: 3x3, 3x3-pool, 7x7 or 7x7-pool.
/// \throws Error for any other text
backbones::Stem parse_stem(const std::string& text);

/// Returns the normalisation of two lists: three numbers each, or one for all channels.
/// \param mean,deviation numbers in [0, 1], in the order of the classifier's channels; deviations must be positive
/// \param prefix of the options' names, for messages
/// \return nothing if both lists are empty
/// \throws Error if a list has another length, or a number is out of range
std::optional<Normalization> parse_normalization(const std::vector<double>& mean,
                                                 const std::vector<double>& deviation,
                                                 std::string_view prefix = "--");

/// Returns the names of the networks whose weights `load_classifier` reads, in one line.
std::string network_names_text();

namespace detail {

/// What kind of program a file is.
enum class ProgramKind {
  none,         ///< not a program, or it cannot be opened
  torchscript,  ///< TorchScript
  exported,     ///< torch.export (.pt2)
  onnx,         ///< ONNX
};

/// Returns the kind of a file, by its content.
/// \throws Error if the file is a ZIP archive that is damaged or cannot be read
ProgramKind program_kind(const std::filesystem::path& path);

}  // namespace detail

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/defend/impl/load_classifier.ipp>
#endif
