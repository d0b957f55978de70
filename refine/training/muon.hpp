#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>
#include <torch/arg.h>
#include <torch/optim/optimizer.h>
#include <torch/optim/serialize.h>
#include <torch/serialize/archive.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>
#include <vector>

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
  double get_lr() const override { return lr(); }
  void set_lr(const double rate) override { lr(rate); }

  void serialize(torch::serialize::OutputArchive& archive) const override {
    archive.write("lr", lr());
    archive.write("momentum", momentum());
    archive.write("nesterov", nesterov());
    archive.write("weight_decay", weight_decay());
    archive.write("ns_steps", ns_steps());
    archive.write("eps", eps());
    archive.write("ns_dtype", static_cast<int64_t>(ns_dtype()));
  }
  void serialize(torch::serialize::InputArchive& archive) override {
    c10::IValue value;
    const auto read = [&](const char* key) -> const c10::IValue& {
      archive.read(key, value);
      return value;
    };
    lr(read("lr").toDouble());
    momentum(read("momentum").toDouble());
    nesterov(read("nesterov").toBool());
    weight_decay(read("weight_decay").toDouble());
    ns_steps(read("ns_steps").toInt());
    eps(read("eps").toDouble());
    ns_dtype(static_cast<at::ScalarType>(read("ns_dtype").toInt()));
  }
};

struct MuonState : torch::optim::OptimizerCloneableParamState<MuonState> {
  TORCH_ARG(at::Tensor, momentum_buffer);

 public:
  void serialize(torch::serialize::InputArchive& archive) override {
    at::Tensor buffer;
    archive.read("momentum_buffer", buffer);
    momentum_buffer(buffer);
  }
  void serialize(torch::serialize::OutputArchive& archive) const override {
    archive.write("momentum_buffer", momentum_buffer());
  }
};

/// The matrix nearest to orthogonal, roughly: U·V^T with singular values of 0.7 to 1.2 for those of `matrix`,
/// by the quintic Newton–Schulz iteration (Jordan et al., 2024, `jordan2024muon`). \param matrix
/// rows×columns, in `dtype`
inline at::Tensor newton_schulz(const at::Tensor& matrix, std::int64_t steps, double eps) {
  constexpr double a = 3.4445, b = -4.7750, c = 2.0315;
  const bool tall = matrix.size(0) > matrix.size(1);
  at::Tensor x = tall ? matrix.t() : matrix;
  x = x / x.norm().clamp_min(eps);
  for (std::int64_t i = 0; i < steps; ++i) {
    const at::Tensor gram = x.matmul(x.t());
    x = at::addmm(x, at::addmm(gram, gram, gram, b, c), x, a, 1);
  }
  return tall ? x.t() : x;
}

/// One step's direction, to be taken times the learning rate: the momentum `buffer` takes up the gradient, is
/// made orthogonal as a matrix (first dimension, product of the rest) and scaled by √max(1, rows / columns).
/// \return of the gradient's shape and type
inline at::Tensor muon_direction(const at::Tensor& gradient, at::Tensor& buffer, const MuonOptions& options) {
  buffer.lerp_(gradient, 1 - options.momentum());
  const at::Tensor momentum = options.nesterov() ? gradient.lerp(buffer, options.momentum()) : buffer;
  // The order of a matrix's columns changes nothing but the order of the result's: a kernel's is that in
  // memory.
  const bool channels_last =
      gradient.dim() == 4 && gradient.suggest_memory_format() == at::MemoryFormat::ChannelsLast;
  const at::Tensor ordered = channels_last ? momentum.permute({0, 2, 3, 1}) : momentum;
  const at::Tensor matrix = ordered.reshape({ordered.size(0), -1});
  at::Tensor direction = newton_schulz(matrix.to(options.ns_dtype()), options.ns_steps(), options.eps());
  const double shape = static_cast<double>(matrix.size(0)) / static_cast<double>(matrix.size(1));
  direction = direction.to(gradient.scalar_type()).reshape(ordered.sizes());
  if (shape > 1) direction = direction * std::sqrt(shape);
  return channels_last ? direction.permute({0, 3, 1, 2}) : direction;
}

/// Muon (Jordan et al., 2024, `jordan2024muon`): momentum whose every step is made orthogonal, for the
/// kernels of hidden layers; see `muon_direction`. Biases, norms and the last layer belong to another
/// optimiser.
class Muon : public torch::optim::Optimizer {
 public:
  /// \throws c10::Error when a parameter has fewer than two dimensions
  explicit Muon(const std::vector<torch::optim::OptimizerParamGroup>& groups,
                MuonOptions defaults = MuonOptions())
      : Optimizer(groups, std::make_unique<MuonOptions>(defaults)) {
    for (const auto& group : param_groups_) {
      for (const auto& parameter : group.params()) {
        TORCH_CHECK(parameter.dim() >= 2, "Muon takes matrices and kernels, not a parameter of ",
                    parameter.dim(), " dimension(s)");
      }
    }
  }

  explicit Muon(std::vector<at::Tensor> parameters, MuonOptions defaults = MuonOptions())
      : Muon({torch::optim::OptimizerParamGroup(std::move(parameters))}, defaults) {}

  at::Tensor step(LossClosure closure = nullptr) override {
    at::Tensor loss;
    if (closure != nullptr) {
      c10::AutoGradMode with_gradient(true);
      loss = closure();
    }
    c10::NoGradGuard no_grad;
    for (auto& group : param_groups_) {
      const auto& options = static_cast<const MuonOptions&>(group.options());
      for (auto& parameter : group.params()) {
        if (parameter.grad().defined()) update(parameter, options);
      }
    }
    return loss;
  }

  void save(torch::serialize::OutputArchive& archive) const override {
    torch::optim::serialize<MuonState, MuonOptions>(archive, *this);
  }
  void load(torch::serialize::InputArchive& archive) override {
    torch::optim::serialize<MuonState, MuonOptions>(archive, *this);
  }

 private:
  void update(at::Tensor& parameter, const MuonOptions& options) {
    const at::Tensor gradient = parameter.grad();
    auto& state = state_[parameter.unsafeGetTensorImpl()];
    if (!state) {
      auto fresh = std::make_unique<MuonState>();
      fresh->momentum_buffer(at::zeros_like(gradient));
      state = std::move(fresh);
    }
    at::Tensor buffer = static_cast<MuonState&>(*state).momentum_buffer();
    const at::Tensor direction = muon_direction(gradient, buffer, options);
    parameter.mul_(1 - options.lr() * options.weight_decay());
    parameter.add_(direction, -options.lr());
  }
};

}  // namespace refine
