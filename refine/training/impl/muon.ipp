#pragma once

#include <refine/training/muon.hpp>

#include <ATen/ops/addmm.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>

#include <cmath>
#include <memory>

#include <refine/core/config.hpp>

namespace refine {

REFINE_INLINE double MuonOptions::get_lr() const {
  return lr();
}

REFINE_INLINE void MuonOptions::set_lr(const double rate) {
  lr(rate);
}

REFINE_INLINE void MuonOptions::serialize(torch::serialize::OutputArchive& archive) const {
  archive.write("lr", lr());
  archive.write("momentum", momentum());
  archive.write("nesterov", nesterov());
  archive.write("weight_decay", weight_decay());
  archive.write("ns_steps", ns_steps());
  archive.write("eps", eps());
  archive.write("ns_dtype", static_cast<int64_t>(ns_dtype()));
}

REFINE_INLINE void MuonOptions::serialize(torch::serialize::InputArchive& archive) {
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

REFINE_INLINE void MuonState::serialize(torch::serialize::InputArchive& archive) {
  at::Tensor buffer;
  archive.read("momentum_buffer", buffer);
  momentum_buffer(buffer);
}

REFINE_INLINE void MuonState::serialize(torch::serialize::OutputArchive& archive) const {
  archive.write("momentum_buffer", momentum_buffer());
}

REFINE_INLINE at::Tensor newton_schulz(const at::Tensor& matrix, std::int64_t steps, double eps) {
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

REFINE_INLINE at::Tensor muon_direction(const at::Tensor& gradient, at::Tensor& buffer,
                                        const MuonOptions& options) {
  buffer.lerp_(gradient, 1 - options.momentum());
  const at::Tensor momentum = options.nesterov() ? gradient.lerp(buffer, options.momentum()) : buffer;
  // Permuting the columns of a matrix only permutes those of the result, so a channels-last kernel
  // keeps its order in memory.
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

REFINE_INLINE Muon::Muon(const std::vector<torch::optim::OptimizerParamGroup>& groups, MuonOptions defaults)
    : Optimizer(groups, std::make_unique<MuonOptions>(defaults)) {
  for (const auto& group : param_groups_) {
    for (const auto& parameter : group.params()) {
      TORCH_CHECK(parameter.dim() >= 2, "Muon: a parameter must have 2 or more dimensions, got ",
                  parameter.dim());
    }
  }
}

REFINE_INLINE at::Tensor Muon::step(LossClosure closure) {
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

REFINE_INLINE void Muon::save(torch::serialize::OutputArchive& archive) const {
  torch::optim::serialize<MuonState, MuonOptions>(archive, *this);
}

REFINE_INLINE void Muon::load(torch::serialize::InputArchive& archive) {
  torch::optim::serialize<MuonState, MuonOptions>(archive, *this);
}

REFINE_INLINE void Muon::update(at::Tensor& parameter, const MuonOptions& options) {
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

}  // namespace refine
