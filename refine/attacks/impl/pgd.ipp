#pragma once

#include <refine/attacks/pgd.hpp>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cstdio>
#include <optional>
#include <string_view>
#include <vector>

#include <refine/attacks/detail/input_gradient.hpp>
#include <refine/attacks/detail/perturbed_store.hpp>
#include <refine/core/check.hpp>
#include <refine/core/config.hpp>
#include <refine/core/progress_meter.hpp>
#include <refine/data/dataset.hpp>
#include <refine/nn/device.hpp>

namespace refine::attacks {

namespace detail {

REFINE_INLINE at::Tensor input_gradient(std::string_view name, const Surrogate& model,
                                        const at::Tensor& images, const at::Tensor& labels,
                                        at::Tensor& finite) {
  c10::AutoGradMode with_gradient(true);
  const at::Tensor input = images.detach().requires_grad_(true);
  const at::Tensor logits = model(input).to(at::kFloat);
  const at::Tensor loss = at::cross_entropy_loss(logits, labels, {}, at::Reduction::Sum);
  at::Tensor result;
  if (loss.requires_grad()) {
    result = torch::autograd::grad({loss}, {input}, {}, /*retain_graph=*/std::nullopt, /*create_graph=*/false,
                                   /*allow_unused=*/true)[0];
  }
  if (!result.defined()) {
    throw Error(
        "{}.model: its logits have no gradient with respect to the images; use a model that computes with "
        "differentiable operations",
        name);
  }
  finite = finite.logical_and(logits.isfinite().all()).logical_and(result.isfinite().all());
  return result;
}

REFINE_INLINE void require_finite(std::string_view name, const at::Tensor& finite) {
  if (finite.item<bool>()) return;
  throw Error(
      "{}.model: its logits or their gradient are not finite; use a model whose training did not diverge",
      name);
}

REFINE_INLINE void require_model(std::string_view name, const Surrogate& model) {
  if (model) return;
  throw Error(
      "{}.model is not set; train a model on clean images with train_classifier(backbone, train) and set it as "
      ".model",
      name);
}

REFINE_INLINE void require_images(std::string_view name, const Surrogate& model, const at::Tensor& images) {
  if (!images.defined() || images.dim() != 4 || images.scalar_type() != at::kByte) {
    throw Error("{}: images must be uint8 N×C×H×W; convert them with data::to_bytes", name);
  }
  const ImageShape expected = model.task().image, shape = data::image_shape_of(images);
  Message why;
  if (!compatible(expected, shape)) {
    why << name << ".model: wrong image shape (got " << shape << ", expected " << expected
        << "); use a model that was trained on images of that shape";
  }
  require_agreement(why);
}

REFINE_INLINE at::Tensor checked_logits(std::string_view name, const Surrogate& model,
                                        const at::Tensor& images, std::int64_t max_label, at::Device device) {
  c10::NoGradGuard no_gradient;
  const at::Tensor logits = model(data::to_float(images, device).contiguous(at::MemoryFormat::ChannelsLast));
  if (!logits.defined() || logits.dim() != 2 || logits.size(0) != images.size(0) ||
      logits.size(1) <= max_label) {
    throw Error(
        "{}.model: it returns no logit of class {} for each image; use a model for the classes of the data",
        name, max_label);
  }
  require_finite(name, logits.isfinite().all());
  return logits.to(at::kCPU);
}

}  // namespace detail

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

}  // namespace refine::attacks
