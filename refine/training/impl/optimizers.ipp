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
#include <cstddef>
#include <set>

#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/training/detail/muon_step.hpp>

namespace refine::detail {

REFINE_INLINE Optimizers::Optimizers(const torch::nn::Module& module, const Optimization& optimization)
    : optimization_(optimization) {
  const bool muon = optimization.optimizer == OptimizerKind::muon;
  std::set<const at::TensorImpl*> seen;  // a parameter that two modules share is trained once
  for (const auto& [name, parameter] : module.named_parameters().pairs()) {
    if (!parameter.requires_grad() || !seen.insert(parameter.unsafeGetTensorImpl()).second) continue;
    check_parameter(name, parameter);
    const bool kernel = parameter.dim() == 4 && parameter.size(2) * parameter.size(3) > 1;
    Part& part = muon && kernel ? kernels_ : others_;
    part.names.push_back(name);
    part.places.push_back(seen.size() - 1);
    part.parameters.push_back(parameter);
  }
  kernels_.prepare(optimization.lr);
  if (!kernels_.empty()) kernel_streams_.emplace(kernels_.rate.device());
  others_.prepare(muon ? optimization.adam_lr : optimization.lr);
  if (!others_.empty() && optimization.optimizer != OptimizerKind::sgd) {
    for (const at::Tensor& parameter : others_.parameters) squares_.push_back(at::zeros_like(parameter));
    steps_taken_ = at::zeros({}, others_.rate.options());
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

REFINE_INLINE void Optimizers::divide_kernels(std::int64_t rank, std::int64_t size) {
  rank_ = rank;
  const std::size_t n = kernels_.parameters.size();
  std::vector<double> costs, sums(static_cast<std::size_t>(size));
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < n; ++i) {
    const at::Tensor& kernel = kernels_.parameters[i];
    const auto rows = static_cast<double>(kernel.size(0)),
               columns = static_cast<double>(kernel.numel()) / rows;
    costs.push_back(rows * columns * std::min(rows, columns));
    order.push_back(i);
  }
  // The largest first, each to the rank that has least to do.
  std::ranges::stable_sort(order, [&](std::size_t a, std::size_t b) { return costs[a] > costs[b]; });
  kernel_owners_.assign(n, 0);
  for (const std::size_t i : order) {
    const auto least = std::ranges::min_element(sums);
    *least += costs[i];
    kernel_owners_[i] = least - sums.begin();
  }
}

REFINE_INLINE std::vector<at::Tensor> Optimizers::parameters() const {
  std::vector<at::Tensor> all(kernels_.parameters.size() + others_.parameters.size());
  for (const Part* part : {&kernels_, &others_}) {
    for (std::size_t i = 0; i < part->places.size(); ++i) all[part->places[i]] = part->parameters[i];
  }
  return all;
}

REFINE_INLINE std::vector<std::int64_t> Optimizers::owners() const {
  std::vector<std::int64_t> all(kernels_.parameters.size() + others_.parameters.size(), -1);
  for (std::size_t i = 0; i < kernel_owners_.size(); ++i) all[kernels_.places[i]] = kernel_owners_[i];
  return all;
}

REFINE_INLINE void Optimizers::step() {
  const c10::NoGradGuard no_grad;
  if (!kernels_.empty()) step_muon();
  if (others_.empty()) return;
  if (optimization_.optimizer == OptimizerKind::sgd) {
    step_sgd();
  } else {
    step_adam();
  }
}

REFINE_INLINE std::map<std::string, at::Tensor> Optimizers::state() const {
  std::map<std::string, at::Tensor> state;
  for (const Part* part : {&kernels_, &others_}) {
    for (std::size_t i = 0; i < part->names.size(); ++i)
      state["momentum." + part->names[i]] = part->momenta[i];
  }
  for (std::size_t i = 0; i < squares_.size(); ++i) state["square." + others_.names[i]] = squares_[i];
  if (steps_taken_.defined()) state["steps"] = steps_taken_;
  return state;
}

REFINE_INLINE void Optimizers::check_parameter(const std::string& name, const at::Tensor& parameter) {
  if (parameter.scalar_type() == at::kFloat && parameter.is_non_overlapping_and_dense()) return;
  throw Error(
      "parameter '{}' cannot be trained: must be float32, dense and non-overlapping (got {}, {}); "
      "keep parameters in float32, Precision::bfloat16 computes in bfloat16",
      name, c10::toString(parameter.scalar_type()),
      parameter.is_non_overlapping_and_dense() ? "dense" : "with gaps or overlaps");
}

REFINE_INLINE void Optimizers::Part::prepare(double learning_rate) {
  lr = learning_rate;
  if (empty()) return;
  for (const at::Tensor& parameter : parameters) momenta.push_back(at::zeros_like(parameter));
  rate = at::full({}, lr, at::TensorOptions(parameters.front().device()).dtype(at::kFloat));
}

REFINE_INLINE Optimizers::Lists Optimizers::make_lists() const {
  Lists lists;
  for (std::size_t i = 0; i < others_.parameters.size(); ++i) {
    const at::Tensor &parameter = others_.parameters[i], &gradient = parameter.grad();
    if (!gradient.defined()) continue;
    lists.parameters.push_back(parameter);
    lists.gradients.push_back(match_strides(parameter, gradient));
    lists.momenta.push_back(others_.momenta[i]);
    if (!squares_.empty()) lists.squares.push_back(squares_[i]);
  }
  return lists;
}

REFINE_INLINE at::Tensor Optimizers::match_strides(const at::Tensor& parameter, const at::Tensor& gradient) {
  if (gradient.strides() == parameter.strides()) return gradient;
  return at::empty_strided(parameter.sizes(), parameter.strides(), gradient.options()).copy_(gradient);
}

REFINE_INLINE void Optimizers::step_sgd() {
  const Lists all = make_lists();
  if (all.parameters.empty()) return;
  // With dampening 0, a momentum buffer of zeros becomes the first gradient, so the first step
  // needs no special treatment.
  at::_fused_sgd_(all.parameters, all.gradients,
                  optimization_.momentum > 0 ? all.momenta : std::vector<at::Tensor>{},
                  optimization_.weight_decay, optimization_.momentum, others_.rate, /*dampening=*/0,
                  optimization_.nesterov,
                  /*maximize=*/false, /*is_first_step=*/false);
}

REFINE_INLINE void Optimizers::step_adam() {
  const Lists all = make_lists();
  if (all.parameters.empty()) return;
  constexpr double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;  // LibTorch's defaults
  const double decay = optimization_.optimizer == OptimizerKind::muon ? 0 : optimization_.weight_decay;
  steps_taken_.add_(1);
  at::_fused_adam_(all.parameters, all.gradients, all.momenta, all.squares, /*max_exp_avg_sqs=*/{},
                   std::vector<at::Tensor>(all.parameters.size(), steps_taken_), others_.rate, beta1, beta2,
                   decay, eps,
                   /*amsgrad=*/false, /*maximize=*/false);
}

REFINE_INLINE void Optimizers::step_muon() {
  // A CPU may lack bfloat16 arithmetic; these matrices are small.
  const auto dtype = kernels_.parameters.front().is_cuda() ? at::kBFloat16 : at::kFloat;
  const MuonStep step{.momentum = optimization_.momentum, .ns_dtype = dtype};
  kernel_streams_->each(kernels_.parameters.size(), [&](std::size_t i) {
    at::Tensor& parameter = kernels_.parameters[i];
    if (!parameter.grad().defined() || (!kernel_owners_.empty() && kernel_owners_[i] != rank_)) return;
    muon_update(parameter, kernels_.momenta[i], kernels_.rate, optimization_.weight_decay, step);
  });
}

}  // namespace refine::detail
