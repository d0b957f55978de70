#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include <refine/core/task.hpp>
#include <refine/formats/exported_program.hpp>
#include <refine/formats/onnx.hpp>
#include <refine/programs/exported_program.hpp>

namespace refine::backbones {

namespace detail {

/// Translates an ONNX model to calls of LibTorch's operators.
/// \param model is kept in the program
/// \param name of the file, for messages
/// \return a program whose outputs have the names of the model's
/// \throws Error naming the node if an operator, or the way it is used, is not translated
formats::ExportedProgram translate_onnx(std::shared_ptr<const formats::OnnxModel> model,
                                        const std::string& name);

}  // namespace detail

/// Options of `OnnxModel`: what is known of a classifier in an ONNX file. The rest is in the file.
struct OnnxModelOptions {
  Task task = dynamic_task;      ///< image shape and number of classes; what is specified is checked
  ImageShape likely_image = {};  ///< shape for extents that the file leaves open; it is not checked
  /// Which output is the logits if there are several: its position or name. Empty: the only one that
  /// is images×classes.
  std::string output = {};
  int likely_classes = dynamic;  ///< decides between several outputs; it is not checked
};

/// Any classifier in an ONNX file, as a frozen backbone. It is not trained; gradients flow to its
/// input.
///
///     auto victim = backbones::OnnxModel<>{"untrusted.onnx"};
///     auto victim = backbones::OnnxModel<Task{{3, 224, 224}, 1000}>{"untrusted.onnx"};
///
/// The file is checked before anything is computed from it (`formats::read_onnx`). Its nodes become
/// calls of LibTorch's operators, which run as those of an `ExportedProgram`: in float32, on the
/// device of the images, for any number of images. `export_onnx` of a defense writes the nodes of the
/// file around which it was made byte for byte.
template <Task kTask = dynamic_task>
class OnnxModel : public ExportedProgram<kTask> {
 public:
  /// Loads a file.
  /// \param path an ONNX file with all weights inside, opset 13 to 20
  /// \param options what is known of it
  /// \throws Error if the file cannot be read, is refused, has an operator that is not translated, is
  ///   not a classifier, or contradicts the options
  explicit OnnxModel(const std::filesystem::path& path, const OnnxModelOptions& options = {})
      : OnnxModel(formats::read_onnx(path), path.string(), options) {}

  /// Takes a model that is already read.
  /// \param model the model
  /// \param name its name, for messages
  /// \param options what is known of it
  /// \throws Error as the other constructor
  OnnxModel(formats::OnnxModel model, const std::string& name, const OnnxModelOptions& options = {})
      : ExportedProgram<kTask>(
            detail::translate_onnx(std::make_shared<const formats::OnnxModel>(std::move(model)), name), name,
            {.task = options.task,
             .likely_image = options.likely_image,
             .output = options.output,
             .likely_classes = options.likely_classes}) {}
};

}  // namespace refine::backbones

#if !defined(REFINE_COMPILED_LIB)
#include <refine/programs/impl/onnx.ipp>
#endif
