#pragma once

#include <refine/attacks/pgd.hpp>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <optional>
#include <vector>

#include <refine/attacks/detail/input_gradient.hpp>
#include <refine/attacks/detail/perturbed_store.hpp>
#include <refine/core/config.hpp>
#include <refine/core/progress_meter.hpp>
#include <refine/data/dataset.hpp>
#include <refine/nn/device.hpp>

namespace refine::attacks {

REFINE_INLINE at::Tensor Pgd::operator()(const at::Tensor& images, const at::Tensor& labels) const {
  check();
  require_inputs(images, labels);
  if (images.size(0) == 0) return images.clone();
  const at::Device device = default_device();
  model.prepare(device);
  const std::int64_t probe_size = std::min<std::int64_t>(images.size(0), 16);
  const at::Tensor logits = detail::checked_logits("Pgd", model, images.narrow(0, 0, probe_size),
                                                   labels.max().item<std::int64_t>(), device);
  std::optional<detail::PerturbedStore> kept;
  if (!store.empty()) {
    kept.emplace(store, store_key(images, labels), logits);
    if (const auto stored = kept->read(images)) return *stored;
    kept->require_writable();
  }
  const at::Tensor changed = perturb(images, labels, device);
  if (kept) kept->write(changed);
  return changed;
}

REFINE_INLINE void Pgd::check() const {
  detail::require_model("Pgd", model);
  if (!(epsilon >= 0 && epsilon <= 1)) throw Error("Pgd.epsilon must be in [0, 1], got {}", epsilon);
  if (!(step > 0 && step <= 1)) throw Error("Pgd.step must be in (0, 1], got {}", step);
  if (steps < 1) throw Error("Pgd.steps must be at least 1, got {}", steps);
  if (batch_size < 1) throw Error("Pgd.batch_size must be at least 1, got {}", batch_size);
}

REFINE_INLINE at::Tensor Pgd::perturb(const at::Tensor& images, const at::Tensor& labels,
                                      at::Device device) const {
  const std::int64_t batches = (images.size(0) + batch_size - 1) / batch_size;
  ProgressMeter meter("perturbing images", batches * steps, "steps", show ? stderr : nullptr);
  Random random(derived_seed(seed, "pgd start"));
  std::vector<at::Tensor> changed;
  std::int64_t done = 0;
  meter.update(0);
  for (std::int64_t begin = 0; begin < images.size(0); begin += batch_size) {
    const std::int64_t count = std::min(batch_size, images.size(0) - begin);
    const at::Tensor clean =
        data::to_float(images.narrow(0, begin, count), device).contiguous(at::MemoryFormat::ChannelsLast);
    const at::Tensor truth = labels.narrow(0, begin, count).to(device);
    const at::Tensor low = (clean - epsilon).clamp_min_(0), high = (clean + epsilon).clamp_max_(1);
    at::Tensor current = clean, finite = at::ones({}, at::TensorOptions(device).dtype(at::kBool));
    if (random_start) current = at::clamp(clean + draw_start(clean.sizes(), random).to(device), low, high);
    for (int i = 0; i < steps; ++i) {
      current = at::clamp(
          current + detail::input_gradient("Pgd", model, current, truth, finite).sign() * step, low, high);
      meter.update(++done);
    }
    detail::require_finite("Pgd", finite);  // once a batch: every check waits for the device
    changed.push_back(data::to_bytes(current).to(at::kCPU).contiguous());
  }
  meter.finish();
  return at::cat(changed);
}

REFINE_INLINE at::Tensor Pgd::draw_start(at::IntArrayRef sizes, Random& random) const {
  at::Tensor displacements = at::empty(sizes, at::kFloat);
  auto* out = displacements.mutable_data_ptr<float>();
  for (std::int64_t i = 0; i < displacements.numel(); ++i)
    out[i] = static_cast<float>((2 * uniform_unit(random) - 1) * epsilon);
  return displacements;
}

REFINE_INLINE void Pgd::require_inputs(const at::Tensor& images, const at::Tensor& labels) const {
  detail::require_images("Pgd", model, images);
  const std::int64_t n = images.size(0);
  if (!labels.defined() || labels.dim() != 1 || labels.scalar_type() != at::kLong || labels.size(0) != n) {
    throw Error("Pgd: labels must be int64, one for each of the {} images", n);
  }
  if (n > 0 && labels.min().item<std::int64_t>() < 0) {
    throw Error("Pgd: labels must not be negative, got {}; count classes from 0",
                labels.min().item<std::int64_t>());
  }
}

REFINE_INLINE std::string Pgd::store_key(const at::Tensor& images, const at::Tensor& labels) const {
  return fmt::format("{} {} epsilon {} step {} steps {} start {}", detail::hash_of(images),
                     detail::hash_of(labels), epsilon, step, steps,
                     random_start ? std::to_string(seed) : "image");
}

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
