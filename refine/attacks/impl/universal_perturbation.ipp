#pragma once

#include <refine/attacks/pgd.hpp>

#include <ATen/TensorOperators.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstdio>

#include <refine/attacks/detail/input_gradient.hpp>
#include <refine/core/config.hpp>
#include <refine/core/progress_meter.hpp>
#include <refine/data/dataset.hpp>
#include <refine/nn/device.hpp>

namespace refine::attacks {

REFINE_INLINE at::Tensor UniversalPerturbation::operator()(const at::Tensor& images) const {
  constexpr const char* name = "UniversalPerturbation";
  check();
  detail::require_images(name, model, images);
  const std::int64_t n = images.size(0);
  if (n == 0) throw Error("UniversalPerturbation: there must be at least one image");
  const at::Device device = default_device();
  model.prepare(device);
  detail::checked_logits(name, model, images.narrow(0, 0, std::min<std::int64_t>(n, 16)), target, device);

  Random random(derived_seed(seed, "universal perturbation"));
  const std::int64_t count = std::min(batch_size, n);
  at::Tensor order;
  std::int64_t next = n;  // the first step draws an order
  ProgressMeter meter("perturbing", steps, "steps", show ? stderr : nullptr);
  at::Tensor change = at::zeros(images.sizes().slice(1), at::TensorOptions(device).dtype(at::kFloat));
  at::Tensor finite = at::ones({}, at::TensorOptions(device).dtype(at::kBool));
  for (int i = 0; i < steps; ++i) {
    if (next + count > n) {
      order = at::tensor(random_permutation(random, n));
      next = 0;
    }
    const at::Tensor clean = data::to_float(images.index_select(0, order.narrow(0, next, count)), device);
    next += count;
    const at::Tensor changed = (clean + change).clamp_(0, 1).contiguous(at::MemoryFormat::ChannelsLast);
    const at::Tensor wanted = at::full({changed.size(0)}, target, at::TensorOptions(device).dtype(at::kLong));
    // Where the sum leaves [0, 1], the change has no effect.
    const at::Tensor inside = (changed == clean + change).to(at::kFloat);
    const at::Tensor gradient = detail::input_gradient(name, model, changed, wanted, finite);
    change = at::clamp(change - (gradient * inside).sum(0).sign() * step, -epsilon, epsilon);
    meter.update(i + 1);
  }
  detail::require_finite(name, finite);
  meter.finish();
  return change.to(at::kCPU);
}

REFINE_INLINE void UniversalPerturbation::check() const {
  detail::require_model("UniversalPerturbation", model);
  if (target < 0) throw Error("UniversalPerturbation.target must not be negative, got {}", target);
  if (!(epsilon >= 0 && epsilon <= 1))
    throw Error("UniversalPerturbation.epsilon must be in [0, 1], got {}", epsilon);
  if (!(step >= 0 && step <= 1)) throw Error("UniversalPerturbation.step must be in [0, 1], got {}", step);
  if (steps < 1) throw Error("UniversalPerturbation.steps must be at least 1, got {}", steps);
  if (batch_size < 1) throw Error("UniversalPerturbation.batch_size must be at least 1, got {}", batch_size);
}

}  // namespace refine::attacks
