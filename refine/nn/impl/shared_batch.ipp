#pragma once

#include <refine/nn/shared_batch.hpp>

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Generator.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/batch_norm_update_stats.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/full.h>
#include <ATen/ops/native_batch_norm.h>
#include <ATen/ops/native_batch_norm_backward.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <tuple>
#include <vector>

#include <refine/core/config.hpp>

namespace refine::nn::detail {

/// Normalizes by statistics of all processes. The gradient is that of BatchNorm (Ioffe and Szegedy,
/// 2015, `ioffe2015batch`), with its sums over all processes.
struct SynchronizedNorm : torch::autograd::Function<SynchronizedNorm> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x,
                            const at::Tensor& weight, const at::Tensor& bias, const at::Tensor& mean,
                            const at::Tensor& variance, double eps, double count,
                            const StackOverRanks& stack) {
    context->save_for_backward({x, weight, mean, (variance + eps).rsqrt()});
    context->saved_data["count"] = count;
    context->saved_data["stack"] = reinterpret_cast<std::int64_t>(&stack);
    return std::get<0>(at::native_batch_norm(x, weight, bias, mean, variance, /*training=*/false,
                                             /*momentum=*/0, eps));
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], &mean = saved[2], &inverse = saved[3];
    const auto& stack = *reinterpret_cast<const StackOverRanks*>(context->saved_data["stack"].toInt());
    const double count = context->saved_data["count"].toDouble();
    const auto wide = [](const at::Tensor& row) { return row.view({1, -1, 1, 1}); };
    const at::Tensor values = x.to(mean.scalar_type());
    const at::Tensor gradient = gradients[0].to(mean.scalar_type()).contiguous(x.suggest_memory_format());
    // Of this process: Σ gradient · (x − mean) · inverse, and Σ gradient.
    const auto [none, own_weight, own_bias] = at::native_batch_norm_backward(
        gradient, values, weight, {}, {}, mean, inverse, /*train=*/true, /*eps=*/0, {false, true, true});
    const at::Tensor sums = stack(at::cat({own_weight, own_bias})).sum(0) / count;
    const std::int64_t channels = x.size(1);
    // inverse · weight · (gradient − mean of gradients − normal · mean of products), with
    // normal = (x − mean) · inverse, as gradient · scale + x · slope + constant.
    const at::Tensor scale = weight.defined() ? inverse * weight : inverse;
    const at::Tensor slope = -scale * inverse * sums.narrow(0, 0, channels);
    const at::Tensor constant = -scale * sums.narrow(0, channels, channels) - slope * mean;
    const at::Tensor input =
        at::addcmul(at::addcmul(wide(constant), gradient, wide(scale)), values, wide(slope));
    return {input.to(x.scalar_type()),
            weight.defined() ? own_weight : at::Tensor(),
            weight.defined() ? own_bias : at::Tensor(),
            {},
            {},
            {},
            {},
            {}};
  }
};

REFINE_INLINE at::Tensor synchronized_batch_norm(torch::nn::BatchNorm2dImpl& norm, const at::Tensor& x,
                                                 const StackOverRanks& stack) {
  at::Tensor mean, variance;
  double count = 0;
  {
    const c10::NoGradGuard no_grad;
    // In float64: rounding of the means of processes would enter the variance.
    const auto type = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    const auto [own_mean, own_variance] = at::batch_norm_update_stats(x.detach().to(type), {}, {}, 0);
    const auto wide = at::TensorOptions(x.device()).dtype(at::kDouble);
    const at::Tensor own_count = at::full({1}, static_cast<double>(x.numel() / x.size(1)), wide);
    const at::Tensor all = stack(at::cat({own_mean.to(wide), own_variance.to(wide), own_count}));
    // Statistics of parts give those of the whole (Chan et al., 1983).
    const std::int64_t channels = x.size(1);
    const at::Tensor means = all.narrow(1, 0, channels), variances = all.narrow(1, channels, channels),
                     counts = all.narrow(1, 2 * channels, 1);
    count = counts.sum().item<double>();
    const at::Tensor shares = counts / count;
    mean = (means * shares).sum(0);
    variance = ((variances + (means - mean).square()) * shares).sum(0);
    if (norm.running_mean.defined()) {
      norm.num_batches_tracked.add_(1);
      const double momentum = norm.options.momentum()
                                  ? *norm.options.momentum()
                                  : 1 / static_cast<double>(norm.num_batches_tracked.item<std::int64_t>());
      norm.running_mean.mul_(1 - momentum).add_(mean, momentum);
      norm.running_var.mul_(1 - momentum).add_(variance, momentum * count / std::max(count - 1, 1.0));
    }
    mean = mean.to(type);
    variance = variance.to(type);
  }
  return SynchronizedNorm::apply(x, norm.weight, norm.bias, mean, variance, norm.options.eps(), count, stack);
}

/// Returns the state of the default generator of a device.
inline at::Tensor random_state(at::Device device) {
  at::Generator generator = at::globalContext().defaultGenerator(device);
  const std::lock_guard lock(generator.mutex());
  return generator.get_state();
}

REFINE_INLINE at::Tensor shared_dropout(const at::Tensor& x, double share, SharedBatch& batch) {
  const bool is_watched = batch.random_state.defined();
  if (is_watched && !batch.random_state.equal(random_state(x.device()))) batch.has_other_draws = true;
  at::Tensor factors;
  {
    const c10::NoGradGuard no_grad;
    std::vector<std::int64_t> sizes = x.sizes().vec();
    const std::int64_t rows = sizes.front() / batch.count;  // of an image
    sizes.front() = rows * batch.total;
    // With the strides of `x`, the values are drawn in the order in which the whole batch has them.
    factors = at::dropout(at::empty_strided(sizes, x.strides(), x.options()).fill_(1), share, /*train=*/true)
                  .narrow(0, rows * batch.first, x.size(0));
  }
  if (is_watched) batch.random_state = random_state(x.device());
  return x * factors;
}

}  // namespace refine::nn::detail

namespace refine::nn {

REFINE_INLINE void ScopedSharedBatch::watch_draws(at::Device device) {
  batch_.random_state = detail::random_state(device);
  batch_.has_other_draws = false;
}

REFINE_INLINE bool ScopedSharedBatch::has_other_draws(at::Device device) {
  const bool found = batch_.has_other_draws || !batch_.random_state.equal(detail::random_state(device));
  batch_.random_state.reset();
  return found;
}

REFINE_INLINE at::Tensor dropout(const at::Tensor& x, double share) {
  detail::SharedBatch* const batch = detail::shared_batch();
  if (batch == nullptr || batch->total == 0) return at::dropout(x, share, /*train=*/true);
  return detail::shared_dropout(x, share, *batch);
}

}  // namespace refine::nn
