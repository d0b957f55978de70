#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/addmm.h>
#include <c10/core/ScalarType.h>

#include <cmath>
#include <cstdint>

// The step that `fit` and the class `Muon` share.
namespace refine::detail {

/// The constants of a Muon step; see `MuonOptions`.
struct MuonStep {
  double momentum = 0.95;
  bool nesterov = true;
  std::int64_t ns_steps = 5;
  double eps = 1e-7;
  at::ScalarType ns_dtype = at::kBFloat16;
};

/// Returns an approximation of the orthogonal matrix that is nearest to `matrix`, by the quintic
/// Newton–Schulz iteration (Jordan et al., 2024, `jordan2024muon`). For matrix = U·S·Vᵀ, it is
/// U·S'·Vᵀ with singular values S' of 0.7 to 1.2.
/// \param matrix rows×columns, of any floating-point type, which is the type of the arithmetic
/// \param steps number of iterations; 5 is usual
/// \param eps lower bound of the norm that `matrix` is divided by
/// \return a matrix of the same shape and type
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

/// Computes the direction of one Muon step, to be multiplied with the learning rate. The gradient
/// is added to the momentum, which is made orthogonal as a matrix (first dimension × product of the
/// others) and scaled by √max(1, rows / columns).
/// \param gradient the parameter's gradient, of two or more dimensions
/// \param buffer the momentum, of the gradient's shape; updated
/// \param step the constants
/// \return a tensor of the gradient's shape and type
inline at::Tensor muon_direction(const at::Tensor& gradient, at::Tensor& buffer, const MuonStep& step) {
  buffer.lerp_(gradient, 1 - step.momentum);
  const at::Tensor momentum = step.nesterov ? gradient.lerp(buffer, step.momentum) : buffer;
  // Permuting the columns of a matrix only permutes those of the result, so a channels-last kernel
  // keeps its order in memory.
  const bool channels_last =
      gradient.dim() == 4 && gradient.suggest_memory_format() == at::MemoryFormat::ChannelsLast;
  const at::Tensor ordered = channels_last ? momentum.permute({0, 2, 3, 1}) : momentum;
  const at::Tensor matrix = ordered.reshape({ordered.size(0), -1});
  at::Tensor direction = newton_schulz(matrix.to(step.ns_dtype), step.ns_steps, step.eps);
  const double shape = static_cast<double>(matrix.size(0)) / static_cast<double>(matrix.size(1));
  direction = direction.to(gradient.scalar_type()).reshape(ordered.sizes());
  if (shape > 1) direction = direction * std::sqrt(shape);
  return channels_last ? direction.permute({0, 3, 1, 2}) : direction;
}

/// Takes one Muon step with the parameter's gradient.
/// \param parameter of two or more dimensions, with a gradient; updated
/// \param buffer the momentum; updated
/// \param rate the learning rate, a scalar on the parameter's device
/// \param weight_decay decoupled, 0 or more
/// \param step the constants
inline void muon_update(at::Tensor& parameter, at::Tensor& buffer, const at::Tensor& rate,
                        double weight_decay, const MuonStep& step) {
  const at::Tensor direction = muon_direction(parameter.grad(), buffer, step);
  if (weight_decay > 0) parameter.mul_(1 - rate * weight_decay);
  parameter.addcmul_(direction, rate, -1);
}

}  // namespace refine::detail
