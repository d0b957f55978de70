#pragma once

#include <ATen/TensorOperators.h>
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

/// Fields, names and defaults of PyTorch's `torch.optim.Muon`.
struct MuonOptions : torch::optim::OptimizerCloneableOptions<MuonOptions> {
  explicit MuonOptions(double lr = 1e-3) : lr_(lr) {}

  TORCH_ARG(double, lr);
  TORCH_ARG(double, momentum) = 0.95;
  TORCH_ARG(bool, nesterov) = true;
  TORCH_ARG(double, weight_decay) = 0.1;  ///< decoupled
  TORCH_ARG(int64_t, ns_steps) = 5;       ///< Newton–Schulz steps
  TORCH_ARG(double, eps) = 1e-7;
  /// What Newton–Schulz is computed in: PyTorch takes bfloat16, which pays on accelerators; a processor
  /// without bfloat16 arithmetic is quicker in float32.
  TORCH_ARG(at::ScalarType, ns_dtype) = at::kBFloat16;

 public:
  REFINE_INLINE double get_lr() const override;
  REFINE_INLINE void set_lr(const double rate) override;

  REFINE_INLINE void serialize(torch::serialize::OutputArchive& archive) const override;
  REFINE_INLINE void serialize(torch::serialize::InputArchive& archive) override;
};

struct MuonState : torch::optim::OptimizerCloneableParamState<MuonState> {
  TORCH_ARG(at::Tensor, momentum_buffer);

 public:
  REFINE_INLINE void serialize(torch::serialize::InputArchive& archive) override;
  REFINE_INLINE void serialize(torch::serialize::OutputArchive& archive) const override;
};

/// The matrix nearest to orthogonal, roughly: U·V^T with singular values of 0.7 to 1.2 for those of `matrix`,
/// by the quintic Newton–Schulz iteration (Jordan et al., 2024, `jordan2024muon`). \param matrix
/// rows×columns, in `dtype`
at::Tensor newton_schulz(const at::Tensor& matrix, std::int64_t steps, double eps);

/// One step's direction, to be taken times the learning rate: the momentum `buffer` takes up the gradient, is
/// made orthogonal as a matrix (first dimension, product of the rest) and scaled by √max(1, rows / columns).
/// \return of the gradient's shape and type
at::Tensor muon_direction(const at::Tensor& gradient, at::Tensor& buffer, const MuonOptions& options);

/// Muon (Jordan et al., 2024, `jordan2024muon`): momentum whose every step is made orthogonal, for the
/// kernels of hidden layers; see `muon_direction`. Biases, norms and the last layer belong to another
/// optimiser.
class Muon : public torch::optim::Optimizer {
 public:
  /// \throws c10::Error when a parameter has fewer than two dimensions
  explicit Muon(const std::vector<torch::optim::OptimizerParamGroup>& groups,
                MuonOptions defaults = MuonOptions());

  explicit Muon(std::vector<at::Tensor> parameters, MuonOptions defaults = MuonOptions())
      : Muon({torch::optim::OptimizerParamGroup(std::move(parameters))}, defaults) {}

  REFINE_INLINE at::Tensor step(LossClosure closure = nullptr) override;

  REFINE_INLINE void save(torch::serialize::OutputArchive& archive) const override;
  REFINE_INLINE void load(torch::serialize::InputArchive& archive) override;

 private:
  void update(at::Tensor& parameter, const MuonOptions& options);
};

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/training/impl/muon.ipp>
#endif
