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

namespace refine::backbones::detail {

/// A TorchScript classifier in its constant form: `torch::jit::freeze` has inlined it and folded its
/// BatchNorms and multiplications, and its tensors were then taken out of the graph and became inputs of it,
/// and buffers of this module. So `to(device)` moves them, gradients flow to the images, and tracing finds
/// them by identity, as with every other module here.
///
/// It computes in float32, whatever precision the file has, and on the device of its images. What only keeps
/// gradients from passing (`no_grad`, `detach`) is taken out of the graph.
class ScriptedModule : public torch::nn::Module {
 public:
  /// One of the tensors that `forward` returns.
  struct Output {
    std::string name;               ///< keys, field names and positions, joined by dots; empty: the only one
    std::vector<c10::IValue> path;  ///< the same, as keys and positions
    std::vector<c10::TypePtr> types;  ///< what is there at each step
    at::Tensor value;
  };

  /// Leaves `source` unchanged.
  /// \param name the file, for messages \throws Error when its `forward` is no function of one tensor
  ScriptedModule(const torch::jit::Module& source, std::string name);

  /// Float N×C×H×W → the tensor that the file's `forward` returns, or the one that was selected.
  /// \pre `forward` returns a single tensor, or `select_output` was called
  at::Tensor forward(const at::Tensor& images);

  /// True if `forward` returns a tuple, a list or a dict, and none of its tensors has been selected.
  bool needs_selection() const { return needs_selection_; }

  /// Returns every tensor that the file's `forward` returns for `images`. \pre `needs_selection()`
  std::vector<Output> outputs(const at::Tensor& images);

  /// Makes `forward` return this one of `outputs`. \pre `needs_selection()`
  void select_output(const Output& output);

  /// Not every file computes the same in every memory layout: one that was traced with `view` may need plain
  /// rows.
  void use_channels_last(bool yes);

  REFINE_INLINE std::shared_ptr<torch::nn::Module> clone(
      const std::optional<torch::Device>& device = std::nullopt) const override;

 private:
  struct Copy {};

  ScriptedModule(const ScriptedModule& other, Copy);

  /// Leaves the graph one input, the images, and one output.
  void make_unary(const torch::jit::Module& constant);

  /// Refuses what `forward` returns if no tensor can be in it.
  void check_output();

  using Objects = std::map<const torch::jit::Value*, c10::intrusive_ptr<c10::ivalue::Object>>;

  /// Reads what `freeze` leaves of the module's attributes, as it does where they might be changed (those of
  /// attention layers). \param known the modules that values stand for
  void resolve(torch::jit::Block& block, Objects known);

  /// Removes what keeps gradients from passing and does nothing else, and turns the context managers of the
  /// file itself into calls.
  static void let_gradients_pass(torch::jit::Block& block);

  /// Replaces the attributes of objects that the graph itself makes by the values that were assigned to them.
  static void dissolve_objects(torch::jit::Block& block);

  /// Makes tensors of half and double precision, and casts to them, float32.
  static void use_float32(torch::jit::Block& block);

  /// Makes lists of constant tensors anew from tensors, which are then taken out.
  static void spread_lists(torch::jit::Block& block);

  void take_out_tensors(torch::jit::Block& block);

  /// A file may name the device that it was made on, and `cuda()` and `cpu()`: makes that the images' own.
  void follow_device(torch::jit::Block& block);

  /// Hands the convolutions that `nn::convolve` knows to it.
  static void use_own_convolutions(torch::jit::Block& block);

  /// The operator's name, known to LibTorch from here on. Kernels of another size go to LibTorch, by it too.
  static c10::Symbol own_convolution();

  /// Compiles the graph as it is now.
  void compile();

  c10::IValue run_graph(const at::Tensor& images);

  at::Tensor run(const at::Tensor& images);

  /// Puts the graph itself into what is traced, control flow and all; the answer is computed beside it.
  at::Tensor forward_traced(const at::Tensor& images);

  std::string name_;
  std::shared_ptr<torch::jit::CompilationUnit>
      unit_;  ///< owns classes and functions that the graph refers to
  std::shared_ptr<torch::jit::Graph> graph_;
  torch::jit::GraphExecutor executor_;
  bool channels_last_ = false;
  bool needs_selection_ = false;
};

}  // namespace refine::backbones::detail

#if !defined(REFINE_COMPILED_LIB)
#include <refine/programs/impl/scripted_module.ipp>
#endif
