#pragma once

#include <refine/training/detail/optimizers.hpp>

#include <ATen/ops/_fused_adam.h>
#include <ATen/ops/_fused_sgd.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>
#include <set>

#include <refine/core/config.hpp>
#include <refine/training/muon.hpp>

namespace refine {

REFINE_INLINE void Optimization::validate() const {
  const auto require = [](bool fine, const char* field, double value, const char* range) {
    if (!fine) throw Error("the recipe's {} is {}; it is {}", field, value, range);
  };
  require(lr > 0 && std::isfinite(lr), "lr", lr, "above 0");
  require(adam_lr > 0 && std::isfinite(adam_lr), "other_lr", adam_lr, "above 0");
  require(momentum >= 0 && momentum < 1, "momentum", momentum, "0 to below 1");
  require(!nesterov || optimizer != OptimizerKind::sgd || momentum > 0, "momentum", momentum,
          "above 0 with nesterov");
  require(weight_decay >= 0 && std::isfinite(weight_decay), "weight_decay", weight_decay, "0 or more");
  require(warmup >= 0 && warmup < 1, "warmup", warmup, "0 to below 1");
  require(decay > 0 && std::isfinite(decay), "decay", decay, "above 0");
  require(batch_size >= 2, "batch_size", batch_size,
          "2 or more, since BatchNorm learns nothing from one image");
  require(epochs >= 1, "epochs", epochs, "1 or more");
}

REFINE_INLINE double Optimization::rate_factor(std::int64_t step, std::int64_t steps, int epoch) const {
  if (schedule == Schedule::steps) {
    double factor = 1;
    for (int milestone : milestones) {
      if (milestone > 0 && epoch >= milestone) factor *= decay;
    }
    return factor;
  }
  if (schedule == Schedule::constant) return 1;
  constexpr double start = 1.0 / 25, end = 1e-4 / 25;  // as in torch.optim.lr_scheduler.OneCycleLR
  const double last = static_cast<double>(std::max<std::int64_t>(steps - 1, 1));
  const double peak = std::max(warmup * static_cast<double>(steps) - 1, 0.0);
  const double at = static_cast<double>(step);
  const auto cosine = [](double from, double to, double share) {
    return to + (from - to) / 2 * (1 + std::cos(std::numbers::pi * share));
  };
  if (at < peak) return cosine(start, 1, at / peak);
  return last > peak ? cosine(1, end, (at - peak) / (last - peak)) : 1;
}

REFINE_INLINE Optimizers::Optimizers(const torch::nn::Module& module, const Optimization& how) : how_(how) {
  const bool muon = how.optimizer == OptimizerKind::muon;
  std::set<const at::TensorImpl*> seen;  // one that two modules share is trained once
  for (const auto& [name, parameter] : module.named_parameters().pairs()) {
    if (!parameter.requires_grad() || !seen.insert(parameter.unsafeGetTensorImpl()).second) continue;
    require_plain(name, parameter);
    const bool kernel = parameter.dim() == 4 && parameter.size(2) * parameter.size(3) > 1;
    (muon && kernel ? kernels_ : others_).parameters.push_back(parameter);
  }
  kernels_.prepare(how.lr);
  if (!kernels_.empty()) kernel_lanes_.emplace(kernels_.rate.device());
  others_.prepare(muon ? how.adam_lr : how.lr);
  if (!others_.empty() && how.optimizer != OptimizerKind::sgd) {
    for (const at::Tensor& parameter : others_.parameters) squares_.push_back(at::zeros_like(parameter));
    taken_ = at::zeros({}, others_.rate.options());
  }
}

REFINE_INLINE void Optimizers::set_rate_factor(double factor) {
  for (Part* part : {&kernels_, &others_})
    if (!part->empty()) part->rate.fill_(part->lr * factor);
}

REFINE_INLINE void Optimizers::zero_grad() {
  for (Part* part : {&kernels_, &others_})
    for (at::Tensor& parameter : part->parameters) parameter.mutable_grad().reset();
}

REFINE_INLINE void Optimizers::step() {
  const c10::NoGradGuard no_grad;
  if (!kernels_.empty()) muon();
  if (others_.empty()) return;
  if (how_.optimizer == OptimizerKind::sgd) {
    sgd();
  } else {
    adam();
  }
}

REFINE_INLINE void Optimizers::require_plain(const std::string& name, const at::Tensor& parameter) {
  if (parameter.scalar_type() == at::kFloat && parameter.is_non_overlapping_and_dense()) return;
  throw Error(
      "the parameter {} can't be trained, it is of type {} or a view; keep parameters in float32, "
      "Precision::bfloat16 computes in bfloat16",
      name, c10::toString(parameter.scalar_type()));
}

REFINE_INLINE void Optimizers::Part::prepare(double learning_rate) {
  lr = learning_rate;
  if (empty()) return;
  for (const at::Tensor& parameter : parameters) momenta.push_back(at::zeros_like(parameter));
  rate = at::full({}, lr, at::TensorOptions(parameters.front().device()).dtype(at::kFloat));
}

REFINE_INLINE Optimizers::Lists Optimizers::lists() const {
  Lists lists;
  for (std::size_t i = 0; i < others_.parameters.size(); ++i) {
    const at::Tensor &parameter = others_.parameters[i], &gradient = parameter.grad();
    if (!gradient.defined()) continue;
    lists.parameters.push_back(parameter);
    lists.gradients.push_back(laid_out_as(parameter, gradient));
    lists.momenta.push_back(others_.momenta[i]);
    if (!squares_.empty()) lists.squares.push_back(squares_[i]);
  }
  return lists;
}

REFINE_INLINE at::Tensor Optimizers::laid_out_as(const at::Tensor& parameter, const at::Tensor& gradient) {
  if (gradient.strides() == parameter.strides()) return gradient;
  return at::empty_strided(parameter.sizes(), parameter.strides(), gradient.options()).copy_(gradient);
}

REFINE_INLINE void Optimizers::sgd() {
  const Lists all = lists();
  if (all.parameters.empty()) return;
  // A buffer of zeros takes up the first gradient whole, as dampening is 0.
  at::_fused_sgd_(all.parameters, all.gradients, how_.momentum > 0 ? all.momenta : std::vector<at::Tensor>{},
                  how_.weight_decay, how_.momentum, others_.rate, /*dampening=*/0, how_.nesterov,
                  /*maximize=*/false, /*is_first_step=*/false);
}

REFINE_INLINE void Optimizers::adam() {
  const Lists all = lists();
  if (all.parameters.empty()) return;
  constexpr double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;  // LibTorch's defaults
  const double decay = how_.optimizer == OptimizerKind::muon ? 0 : how_.weight_decay;
  taken_.add_(1);
  at::_fused_adam_(all.parameters, all.gradients, all.momenta, all.squares, /*max_exp_avg_sqs=*/{},
                   std::vector<at::Tensor>(all.parameters.size(), taken_), others_.rate, beta1, beta2, decay,
                   eps,
                   /*amsgrad=*/false, /*maximize=*/false);
}

REFINE_INLINE void Optimizers::muon() {
  // A processor may have no bfloat16 arithmetic; these matrices are small.
  const auto dtype = kernels_.parameters.front().is_cuda() ? at::kBFloat16 : at::kFloat;
  const MuonOptions options = MuonOptions().momentum(how_.momentum).ns_dtype(dtype);
  kernel_lanes_->each(kernels_.parameters.size(), [&](std::size_t i) {
    at::Tensor& parameter = kernels_.parameters[i];
    if (!parameter.grad().defined()) return;
    const at::Tensor direction = muon_direction(parameter.grad(), kernels_.momenta[i], options);
    if (how_.weight_decay > 0) parameter.mul_(1 - kernels_.rate * how_.weight_decay);
    parameter.addcmul_(direction, kernels_.rate, -1);
  });
}

}  // namespace refine
