#pragma once

#include <refine/training/muon.hpp>

#include <ATen/ops/full.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>

#include <limits>
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

namespace detail {

inline void check_muon_parameter(const at::Tensor& parameter) {
  TORCH_CHECK(parameter.dim() >= 2, "Muon: a parameter must have 2 or more dimensions, got ",
              parameter.dim());
}

inline void check_muon_options(const MuonOptions& o) {
  constexpr double max = std::numeric_limits<float>::max();
  TORCH_CHECK(o.lr() > 0 && o.lr() <= max, "Muon: lr must be positive and at most 3.4e38, got ", o.lr());
  TORCH_CHECK(o.momentum() >= 0 && o.momentum() < 1, "Muon: momentum must be in [0, 1), got ", o.momentum());
  TORCH_CHECK(o.weight_decay() >= 0 && o.weight_decay() <= max,
              "Muon: weight_decay must be in [0, 3.4e38], got ", o.weight_decay());
  TORCH_CHECK(o.ns_steps() >= 0, "Muon: ns_steps must be 0 or more, got ", o.ns_steps());
  TORCH_CHECK(o.eps() > 0 && o.eps() <= max, "Muon: eps must be positive and at most 3.4e38, got ", o.eps());
  TORCH_CHECK(at::isFloatingType(o.ns_dtype()), "Muon: ns_dtype must be a floating-point type, got ",
              o.ns_dtype());
}

}  // namespace detail

REFINE_INLINE Muon::Muon(const std::vector<torch::optim::OptimizerParamGroup>& groups, MuonOptions defaults)
    : Optimizer(std::vector<torch::optim::OptimizerParamGroup>{}, std::make_unique<MuonOptions>(defaults)) {
  detail::check_muon_options(defaults);
  for (const auto& group : groups) add_param_group(group);
}

REFINE_INLINE void Muon::add_param_group(const torch::optim::OptimizerParamGroup& group) {
  for (const auto& parameter : group.params()) detail::check_muon_parameter(parameter);
  if (group.has_options()) detail::check_muon_options(dynamic_cast<const MuonOptions&>(group.options()));
  Optimizer::add_param_group(group);
  if (group.has_options()) param_groups_.back().set_options(group.options().clone());
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
  detail::check_muon_parameter(parameter);  // `Optimizer::add_param_group` does not check it
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
