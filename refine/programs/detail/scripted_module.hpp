#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>
#include <torch/csrc/jit/api/compilation_unit.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/nn/module.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/nn/module.hpp>

namespace refine::backbones::detail {

/// A TorchScript classifier in its constant form.
///
/// `torch::jit::freeze_module` inlines it and folds its BatchNorms and multiplications. Its tensors
/// then become inputs of the graph and buffers of this module, so that `to(device)` moves them,
/// gradients flow to the images, and tracing finds them by identity, as with every other module
/// here.
///
/// It computes in float32, whatever precision the file has, on the device of its images. Operators
/// that only stop gradients (`no_grad`, `detach`) are removed from the graph.
class ScriptedModule : public torch::nn::Module, public nn::OpaqueModule {
 public:
  /// One of the tensors that `forward` returns.
  struct Output {
    std::string name;  ///< keys, field names and positions, joined by dots; empty if it is the only tensor
    std::vector<c10::IValue> path;    ///< the same, as keys and positions
    std::vector<c10::TypePtr> types;  ///< the type of the container at each step of the path
    at::Tensor value;                 ///< the tensor for the images at hand
  };

  /// Prepares a copy of a module.
  /// \param source is left unchanged
  /// \param name the file's name, for messages
  /// \throws Error if its `forward` does not map one tensor to tensors
  ScriptedModule(const torch::jit::Module& source, std::string name);

  /// Returns the tensor that the file's `forward` returns, or the one that was selected.
  /// \param images float N×C×H×W
  /// \pre `forward` returns a single tensor, or `select_output` was called
  at::Tensor forward(const at::Tensor& images);

  /// True if `forward` returns a tuple, a list, a dict or an optional, and no output has been
  /// selected.
  bool needs_selection() const { return needs_selection_; }

  /// Returns every tensor that the file's `forward` returns for the images.
  /// \pre `needs_selection()`
  std::vector<Output> outputs(const at::Tensor& images);

  /// Makes `forward` return one of `outputs`.
  /// \pre `needs_selection()`
  void select_output(const Output& output);

  /// Selects the memory layout of images and weights: channels-last, or contiguous. Not every
  /// program works with both; one that was traced with `view` may need contiguous images.
  void use_channels_last(bool yes);

  /// Returns the graph, without the numbers that LibTorch adds to the names of types as it loads them.
  std::string code() const override;

  REFINE_INLINE std::shared_ptr<torch::nn::Module> clone(
      const std::optional<torch::Device>& device = std::nullopt) const override;

 private:
  struct Copy {};

  ScriptedModule(const ScriptedModule& other, Copy);

  /// Removes all inputs of the graph but the images.
  /// \throws Error if the program cannot do without them, or returns nothing
  void make_unary(const torch::jit::Module& constant);

  /// Checks that what `forward` returns can hold a tensor.
  /// \throws Error otherwise
  void check_output();

  using Objects = std::map<const torch::jit::Value*, c10::intrusive_ptr<c10::ivalue::Object>>;

  /// Replaces the attributes that freezing leaves by constants. Freezing leaves those that might be
  /// changed, such as the ones of attention layers.
  /// \param block the part of the graph
  /// \param objects the modules that values of the graph stand for
  void inline_attributes(torch::jit::Block& block, Objects objects);

  /// Removes operators that only stop gradients, and replaces the file's context managers by calls
  /// of their methods.
  static void remove_gradient_barriers(torch::jit::Block& block);

  /// Replaces the attributes of objects that the graph creates by the values that it assigns to
  /// them.
  static void eliminate_objects(torch::jit::Block& block);

  /// True if a block changes a tensor in place.
  static bool has_writes(const torch::jit::Block& block);

  /// True if a block names a type of numbers that is converted to float32.
  static bool names_other_types(const torch::jit::Block& block);

  /// Converts tensors of half and double precision, and casts to these, to float32.
  void use_float32(torch::jit::Block& block);

  /// Has operators that may return or change a constant tensor, without declaring it in their schemas, work on a copy.
  void copy_constants(torch::jit::Block& block);

  /// Has the program work on a copy of its images.
  void copy_images();

  /// Replaces constant lists of tensors by lists that the graph makes of constant tensors.
  static void expand_tensor_lists(torch::jit::Block& block);

  /// Turns constant tensors into inputs of the graph and buffers of this module.
  void lift_constants(torch::jit::Block& block);

  /// Replaces every device that the file names, `cuda()` and `cpu()` included, by the device of the
  /// images.
  void follow_device(torch::jit::Block& block);

  /// Replaces convolutions by calls of `nn::convolve`: those of stride 1, padding 1 and dilation 1, without
  /// groups, by its overload for 3×3 kernels, which calls LibTorch for others, and those of traced networks
  /// by the other one.
  static void use_nn_convolutions(torch::jit::Block& block);

  /// Returns the module, or, if it calls operators whose arguments must be checked (`is_checked`), a copy that calls
  /// such as check them: freezing computes what is constant.
  static torch::jit::Module with_checked_operators(const torch::jit::Module& module);

  /// Replaces operators whose arguments must be checked by such as check them, or the other way round.
  static void rename_operators(torch::jit::Block& block, bool checks);

  /// Registers operators that check the arguments of others first, and returns their names by those of the others.
  static const std::map<c10::Symbol, c10::Symbol>& checking_symbols();

  /// Operators that call the overloads of `nn::convolve`.
  struct ConvolutionSymbols {
    c10::Symbol same_3x3, any;
  };

  /// Registers these operators, once, and returns their names.
  static const ConvolutionSymbols& convolution_symbols();

  /// Compiles the current graph.
  void compile();

  /// Returns what the graph returns.
  c10::IValue run_graph(const at::Tensor& images);

  /// Returns the only tensor that the graph returns.
  at::Tensor run(const at::Tensor& images);

  /// Inserts the graph, with its control flow, into the trace, and computes the output outside of
  /// the trace.
  at::Tensor forward_traced(const at::Tensor& images);

  std::string name_;
  std::shared_ptr<torch::jit::CompilationUnit> unit_;  ///< owns what the graph refers to
  std::shared_ptr<torch::jit::Graph> graph_;
  torch::jit::GraphExecutor executor_;
  bool channels_last_ = false;
  bool needs_selection_ = false;
  bool writes_tensors_ = false;  ///< the file changes tensors in place
  bool mixes_types_ = false;     ///< the file has other types of numbers than float32
};

}  // namespace refine::backbones::detail

#if !defined(REFINE_COMPILED_LIB)
#include <refine/programs/impl/scripted_module.ipp>
#endif
