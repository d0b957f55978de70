#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/nn/module.h>

#include <map>
#include <memory>
#include <optional>
#include <string>

#include <refine/core/compiled.hpp>
#include <refine/core/error.hpp>

namespace refine::backbones::detail {

/// A TorchScript classifier in its constant form: `torch::jit::freeze` has inlined it and folded its
/// BatchNorms and multiplications, and its tensors were then taken out of the graph and became inputs of it,
/// and buffers of this module. So `to(device)` moves them, gradients flow to the images, and tracing finds
/// them by identity, as with every other module here.
class ScriptedModule : public torch::nn::Module {
 public:
  /// \param name the file, for messages \throws Error when its `forward` is no function of one tensor
  ScriptedModule(const torch::jit::Module& source, std::string name);

  /// Float N×C×H×W → what the file's `forward` returns; of several tensors, the first.
  at::Tensor forward(const at::Tensor& images);

  /// Not every file computes the same in every memory layout: one that was traced with `view` may need plain
  /// rows.
  void use_channels_last(bool yes);

  REFINE_DEFINITION std::shared_ptr<torch::nn::Module> clone(
      const std::optional<torch::Device>& device = std::nullopt) const override;

 private:
  struct Copy {};

  ScriptedModule(const ScriptedModule& other, Copy);

  /// Leaves the graph one input, the images, and one output, a tensor.
  void make_unary(const torch::jit::Module& constant, const std::string& name);

  using Objects = std::map<const torch::jit::Value*, c10::intrusive_ptr<c10::ivalue::Object>>;

  /// Reads what `freeze` leaves of the module's attributes, as it does where they might be changed (those of
  /// attention layers). \param known the modules that values stand for
  void resolve(torch::jit::Block& block, Objects known);

  void take_out_tensors(torch::jit::Block& block);

  /// A traced file names the device that it was traced on: make that the images' own.
  void follow_device(torch::jit::Block& block);

  /// Hands the convolutions that `nn::convolve` knows to it.
  static void use_own_convolutions(torch::jit::Block& block);

  /// The operator's name, known to LibTorch from here on. Kernels of another size go to LibTorch, by it too.
  static c10::Symbol own_convolution();

  at::Tensor run(const at::Tensor& images);

  /// Puts the graph itself into what is traced, control flow and all; the answer is computed beside it.
  at::Tensor forward_traced(const at::Tensor& images);

  std::shared_ptr<torch::jit::Graph> graph_;
  torch::jit::GraphExecutor executor_;
  bool channels_last_ = false;
};

}  // namespace refine::backbones::detail

#if !defined(REFINE_COMPILED)
#include <refine/backbones/scripted_module_definitions.hpp>
#endif
