#pragma once

#include <ATen/core/Tensor.h>
#include <torch/arg.h>
#include <torch/optim/optimizer.h>
#include <torch/optim/serialize.h>
#include <torch/serialize/archive.h>

#include <cstdint>
#include <utility>
#include <vector>

#include <refine/core/config.hpp>

namespace refine {

/// Options of `Muon`: those of PyTorch's `torch.optim.Muon`, with its names and defaults, except
/// `ns_coefficients` and `adjust_lr_fn`, which are always its defaults; and `ns_dtype`.
struct MuonOptions : torch::optim::OptimizerCloneableOptions<MuonOptions> {
  /// \param lr learning rate, positive
  explicit MuonOptions(double lr = 1e-3) : lr_(lr) {}

  TORCH_ARG(double, lr);                  ///< learning rate, positive
  TORCH_ARG(double, momentum) = 0.95;     ///< share of the old momentum, in [0, 1)
  TORCH_ARG(bool, nesterov) = true;       ///< uses Nesterov momentum
  TORCH_ARG(double, weight_decay) = 0.1;  ///< decoupled, 0 or more
  TORCH_ARG(int64_t, ns_steps) = 5;       ///< Newton–Schulz steps, 0 or more
  TORCH_ARG(double, eps) = 1e-7;          ///< lower bound of the norm that a matrix is divided by, positive
  /// The type of the Newton–Schulz arithmetic. PyTorch uses bfloat16, which is fast on
  /// accelerators; a CPU without bfloat16 arithmetic is faster in float32.
  TORCH_ARG(at::ScalarType, ns_dtype) = at::kBFloat16;

 public:
  /// Returns the learning rate.
  REFINE_INLINE double get_lr() const override;

  /// Sets the learning rate.
  /// \param rate the new learning rate, positive
  REFINE_INLINE void set_lr(const double rate) override;

  /// Writes the options.
  /// \param archive receives them
  REFINE_INLINE void serialize(torch::serialize::OutputArchive& archive) const override;

  /// Reads the options.
  /// \param archive an archive that `serialize` wrote
  REFINE_INLINE void serialize(torch::serialize::InputArchive& archive) override;
};

/// The state that `Muon` keeps for each parameter.
struct MuonState : torch::optim::OptimizerCloneableParamState<MuonState> {
  TORCH_ARG(at::Tensor, momentum_buffer);  ///< the momentum, of the gradient's shape

 public:
  /// Reads the state.
  /// \param archive an archive that `serialize` wrote
  REFINE_INLINE void serialize(torch::serialize::InputArchive& archive) override;

  /// Writes the state.
  /// \param archive receives it
  REFINE_INLINE void serialize(torch::serialize::OutputArchive& archive) const override;
};

/// The Muon optimizer (Jordan et al., 2024, `jordan2024muon`): the gradient is added to the momentum,
/// which is made orthogonal as a matrix (first dimension × product of the others) and scaled by
/// √max(1, rows / columns). It is meant for the kernels of hidden layers; train biases, norms and
/// the last layer with another optimizer. Differs from PyTorch's `torch.optim.Muon` in
/// that it also takes kernels of more than two dimensions.
class Muon : public torch::optim::Optimizer {
 public:
  /// \param groups parameters with two or more dimensions each
  /// \param defaults options of the groups that have none
  /// \throws c10::Error if a parameter has fewer than two dimensions, or an option is out of range
  explicit Muon(const std::vector<torch::optim::OptimizerParamGroup>& groups,
                MuonOptions defaults = MuonOptions());

  /// \param parameters parameters with two or more dimensions each
  /// \param defaults their options
  /// \throws c10::Error as the other constructor
  explicit Muon(std::vector<at::Tensor> parameters, MuonOptions defaults = MuonOptions())
      : Muon({torch::optim::OptimizerParamGroup(std::move(parameters))}, defaults) {}

  /// Adds parameters. Hides LibTorch's function, which ignores the options of a group.
  /// \param group parameters with two or more dimensions each, and their options; without, the defaults
  /// \throws c10::Error as the constructor
  REFINE_INLINE void add_param_group(const torch::optim::OptimizerParamGroup& group);

  /// Updates each parameter that has a gradient.
  /// \param closure if given, computes the gradients and returns the loss
  /// \return the closure's loss; undefined without a closure
  /// \throws c10::Error if a parameter that was added through `torch::optim::Optimizer` has fewer than two
  ///   dimensions
  REFINE_INLINE at::Tensor step(LossClosure closure = nullptr) override;

  /// Writes options and state, to continue a run later.
  /// \param archive receives them
  REFINE_INLINE void save(torch::serialize::OutputArchive& archive) const override;

  /// Reads options and state.
  /// \param archive an archive that `save` wrote
  REFINE_INLINE void load(torch::serialize::InputArchive& archive) override;

 private:
  void update(at::Tensor& parameter, const MuonOptions& options);
};

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/training/impl/muon.ipp>
#endif
