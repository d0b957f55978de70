#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/nn/module.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/core/task.hpp>
#include <refine/formats/exported_program.hpp>
#include <refine/nn/module.hpp>

namespace refine::backbones::detail {

/// Largest batch for which a program may have been exported: its last batch is filled up to it.
inline constexpr std::int64_t max_fixed_batch = 4096;

/// Largest number of values in an image of a program, and in a batch for which it was exported.
inline constexpr std::int64_t max_image_values = std::int64_t{1} << 26,
                              max_batch_values = std::int64_t{1} << 28;

/// The position of a value in the memory of a running program.
struct Slot {
  std::size_t index = 0;  ///< from 0
};

/// A tensor made from an integer value, where an operator takes a tensor.
struct ScalarOf {
  Slot slot;  ///< the integer
};

/// The device of the images.
struct ImageDevice {};

/// A list of tensors, each a value or None.
struct TensorListOperand {
  std::vector<std::optional<Slot>> slots = {};  ///< the elements
  bool is_optional = false;                     ///< the operator takes a list of optional tensors
};

/// An integer that is constant or a value.
using IntegerOperand = std::variant<std::int64_t, Slot>;

/// An argument of a call: a constant, or something that is known while the program runs.
using Operand =
    std::variant<c10::IValue, Slot, ScalarOf, ImageDevice, std::vector<IntegerOperand>, TensorListOperand>;

/// One step of a program.
struct Step {
  /// What the step does.
  enum class Kind {
    call,        ///< calls an operator of LibTorch
    same,        ///< names its first operand anew, without a copy
    size,        ///< the extent of a tensor; operands: tensor, dimension
    arithmetic,  ///< of two integers, `sign`
    same_3x3,    ///< calls `nn::convolve` for 3×3 kernels; operands: image, kernel, bias, …
    convolution  ///< calls its overload for any kernel; operands: those of `aten::convolution`
  };

  Kind kind = Kind::call;                                ///< what it does
  std::string name = {};                                 ///< of the node, for messages
  std::optional<c10::OperatorHandle> op = std::nullopt;  ///< the operator of a call
  char sign = '+';                                       ///< of arithmetic: + - * or /, which rounds down
  std::vector<Operand> operands = {};                    ///< in the order of the operator's schema
  std::vector<std::optional<Slot>> outputs = {};         ///< where the results go; empty: nowhere
  bool returns_list = false;                             ///< the results are the elements of one list
  bool is_checked = false;                               ///< its arguments are checked before the call
  bool writes = false;                                   ///< changes one of its operands
  std::vector<Slot> dead = {};                           ///< values that no later step uses
};

/// An exported program as a module: a list of calls that go through LibTorch's dispatcher, so that
/// autograd, autocast and CUDA work as for any other code.
///
/// It computes in float32, whatever precision the file has, on the device of its images. Operators
/// that only stop gradients (`detach`) pass their operand on. BatchNorms are folded into the
/// convolutions before them, and 3×3 convolutions go through `nn::convolve`. The tensors of the file
/// are buffers, so that `to(device)` moves them and tracing finds them by identity.
class ExportedModule : public torch::nn::Module, public nn::OpaqueModule {
 public:
  /// Prepares a program.
  /// \param program is kept, so that it can be written to another file as it is
  /// \param name the file's name, for messages
  /// \throws Error if it takes anything but images, names an operator that this LibTorch lacks, calls
  ///   one with arguments of the wrong kind, was exported in training mode, or changes its tensors
  ExportedModule(formats::ExportedProgram program, std::string name);

  /// Returns the file's name.
  const std::string& file() const { return name_; }

  /// Returns the program as it was read.
  const std::shared_ptr<const formats::ExportedProgram>& program() const { return program_; }

  /// Returns what the file says about the images.
  const formats::GraphShape& images() const { return images_; }

  /// One of the tensors that the program returns.
  struct Output {
    std::string name = {};           ///< position, key or field: "logits"
    std::string value = {};          ///< name of the value in the graph
    formats::GraphShape shape = {};  ///< what the file says about its shape
    Slot slot = {};                  ///< where it is
  };

  /// Returns the tensors that the program returns.
  const std::vector<Output>& outputs() const { return outputs_; }

  /// Makes `forward` return one of `outputs`, removes the steps that it does not need, and registers
  /// the tensors that the others need as buffers.
  /// \pre it was not called before
  void select_output(std::size_t index);

  /// Returns a module that shares the tensors and returns one of `outputs`.
  /// \pre `select_output` was not called
  std::shared_ptr<ExportedModule> with_output(std::size_t index) const;

  /// Returns the selected output.
  /// \param images float N×C×H×W
  /// \pre `select_output` was called
  at::Tensor forward(const at::Tensor& images);

  /// Selects the memory layout of images and weights: channels-last, or contiguous. A program with
  /// `view` may need contiguous images.
  void use_channels_last(bool yes);

  /// Makes `forward` split images into batches of n, the last one filled up with zeros.
  /// \param n the batch size that the program was exported with; 0: run all images at once
  void use_batches_of(std::int64_t n) { batch_ = n; }

  /// While one exists, `forward` enters a trace of this thread as one node and not as its steps. The
  /// node is `aten::clone` with the attribute `position`, which the program's original graph
  /// replaces.
  class ScopedSplices {
   public:
    /// A program in a trace.
    struct Splice {
      std::shared_ptr<const formats::ExportedProgram> program;  ///< as it was read
      std::string output;                                       ///< name of the value that it returns
      bool copies_images;                                       ///< it changes its images
    };

    ScopedSplices();
    ScopedSplices(const ScopedSplices&) = delete;
    ScopedSplices& operator=(const ScopedSplices&) = delete;
    ~ScopedSplices();

    /// Returns the attribute of a node that has its position in `splices`.
    static c10::Symbol position();

    /// Returns the programs that were traced.
    const std::vector<Splice>& splices() const { return splices_; }

   private:
    friend class ExportedModule;
    static ScopedSplices*& current();

    std::vector<Splice> splices_;
    ScopedSplices* outer_;
  };

  /// Returns the steps as a TorchScript graph.
  /// \pre `select_output` was called
  std::string code() const override;

  REFINE_INLINE std::shared_ptr<torch::nn::Module> clone(
      const std::optional<torch::Device>& device = std::nullopt) const override;

 private:
  friend class ExportedCompiler;
  friend std::map<std::string, c10::IValue> run_program(const formats::ExportedProgram&,
                                                        const std::map<std::string, at::Tensor>&,
                                                        const at::Tensor&, const std::string&);
  struct Copy {};
  struct Unprepared {};

  ExportedModule(const ExportedModule& other, Copy);

  /// True if the original graph computes the same as the steps: in float32.
  bool is_float32() const;

  /// A module without steps.
  ExportedModule(Unprepared, std::string name) : torch::nn::Module("exported"), name_(std::move(name)) {}

  /// Runs the steps.
  at::Tensor run(const at::Tensor& images) const;

  /// Runs the steps.
  /// \param images float N×C×H×W
  /// \param values by slot; in: the tensors of the file, out: what the steps computed
  void run_steps(const at::Tensor& images, std::vector<c10::IValue>& values) const;

  /// Runs the steps on batches of the fixed size, if there is one.
  at::Tensor run_batches(const at::Tensor& images) const;

  /// Inserts the steps into the trace, and computes the output outside of the trace.
  at::Tensor forward_traced(const at::Tensor& images);

  /// Inserts the steps into a graph.
  torch::jit::Value* insert(torch::jit::Graph& graph, torch::jit::Value* images,
                            const std::vector<torch::jit::Value*>& tensors) const;

  /// Inserts a loop over batches of the fixed size into a graph.
  torch::jit::Value* insert_batches(torch::jit::Graph& graph, torch::jit::Value* images,
                                    const std::vector<torch::jit::Value*>& tensors) const;

  std::string name_;
  std::shared_ptr<const formats::ExportedProgram> program_;
  std::shared_ptr<const std::vector<Step>> steps_;
  std::map<std::size_t, at::Tensor> tensors_;  // by slot, until an output is selected
  std::vector<Slot> tensor_slots_;             // of the buffers, in their order
  std::size_t slots_ = 0;                      // number of slots
  Slot image_slot_, output_slot_;
  std::string output_value_;
  formats::GraphShape images_;
  std::vector<Output> outputs_;
  bool copies_images_ = false;  // the program changes its images
  bool channels_last_ = false;
  std::int64_t batch_ = 0;
};

/// Returns the shape of a program's images: what was specified, the file's, or the one it was exported with.
/// \param images what the file says about them
/// \param specified its known extents must be those of the file
/// \param likely shape for extents that the file leaves open; not checked
/// \param subject of messages: "cannot use a.pt2 as a classifier"
/// \param option the command line's option for the shape: "--image"
/// \throws Error if they are not images, a fixed batch or an extent is out of range, they or a batch of them are too
///   large, they are other than specified, or an extent is not known
ImageShape image_shape(const formats::GraphShape& images, const ImageShape& specified,
                       const ImageShape& likely, const std::string& subject, std::string_view option);

/// Returns the extents of a program's output for messages: "N×10".
std::string sizes_text(const formats::GraphShape& shape);

/// Returns a tensor of a program, with the type and the strides that it has in the file.
/// \return a view of the program's bytes
/// \pre the program outlives it
at::Tensor view_of(const formats::ExportedProgram& program, const formats::StoredTensor& stored);

/// Runs a program as it is written, without the changes of `ExportedModule`, but in float32.
/// \param program its tensors may be without bytes
/// \param tensors tensors of the program by name, in place of the bytes
/// \param images float N×C×H×W
/// \param name the file's name, for messages
/// \return the value of every input, and of every result of a node, by its name
/// \throws Error as the constructor of `ExportedModule`
/// \throws c10::Error if a node does not accept its arguments
std::map<std::string, c10::IValue> run_program(const formats::ExportedProgram& program,
                                               const std::map<std::string, at::Tensor>& tensors,
                                               const at::Tensor& images, const std::string& name);

}  // namespace refine::backbones::detail

#if !defined(REFINE_COMPILED_LIB)
#include <refine/programs/impl/exported_module.ipp>
#endif
