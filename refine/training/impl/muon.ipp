#pragma once

#include <refine/training/muon.hpp>

#include <ATen/ops/full.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>

#include <memory>

#include <refine/core/config.hpp>
#include <refine/training/detail/muon_step.hpp>

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
  detail::muon_update(parameter, buffer, at::full({}, options.lr(), parameter.options()),
                      options.weight_decay(),
                      {.momentum = options.momentum(),
                       .nesterov = options.nesterov(),
                       .ns_steps = options.ns_steps(),
                       .eps = options.eps(),
                       .ns_dtype = options.ns_dtype()});
}

}  // namespace refine
