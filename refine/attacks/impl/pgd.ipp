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
#include <vector>

#include <refine/attacks/detail/perturbed_store.hpp>
#include <refine/core/check.hpp>
#include <refine/core/config.hpp>
#include <refine/core/progress_meter.hpp>
#include <refine/data/dataset.hpp>
#include <refine/data/detail/pixels.hpp>
#include <refine/nn/device.hpp>

namespace refine::attacks {

REFINE_INLINE at::Tensor Pgd::operator()(const at::Tensor& images, const at::Tensor& labels) const {
  check();
  require_fitting(images, labels);
  if (images.size(0) == 0) return images.clone();
  const at::Device device = default_device();
  model.prepare(device);
  const std::int64_t first = std::min<std::int64_t>(images.size(0), 16);
  const at::Tensor logits = fitting_logits(images.narrow(0, 0, first), labels, device);
  std::optional<detail::PerturbedStore> kept;
  if (!store.empty()) {
    kept.emplace(store, key(images, labels), logits);
    if (const auto before = kept->read(images)) return *before;
    kept->require_writable();
  }
  const at::Tensor changed = perturbed(images, labels, device);
  if (kept) kept->write(changed);
  return changed;
}

REFINE_INLINE void Pgd::check() const {
  if (!model) {
    throw Error(
        "images can't be perturbed without a model; train one on clean images with "
        "train_classifier(backbone, train) and give it as .model");
  }
  if (!(epsilon >= 0 && epsilon <= 1)) throw Error("epsilon is {}; it is 0 to 1", epsilon);
  if (!(step > 0 && step <= 1)) throw Error("a step is {}; it is above 0, at most 1", step);
  if (steps < 1) throw Error("{} steps were asked for; take 1 or more", steps);
  if (batch_size < 1) throw Error("the batch size is {}; it is 1 or more", batch_size);
}

REFINE_INLINE at::Tensor Pgd::perturbed(const at::Tensor& images, const at::Tensor& labels,
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
    const at::Tensor wanted = labels.narrow(0, begin, count).to(device);
    const at::Tensor low = (clean - epsilon).clamp_min_(0), high = (clean + epsilon).clamp_max_(1);
    at::Tensor here = clean, finite = at::ones({}, at::TensorOptions(device).dtype(at::kBool));
    if (random_start) here = at::clamp(clean + start(clean.sizes(), random).to(device), low, high);
    for (int i = 0; i < steps; ++i) {
      here = at::clamp(here + gradient(here, wanted, finite).sign() * step, low, high);
      meter.update(++done);
    }
    require_finite(finite);  // once a batch, so that a device need not be waited for at every step
    changed.push_back(data::to_bytes(here).to(at::kCPU).contiguous());
  }
  meter.finish();
  return at::cat(changed);
}

REFINE_INLINE at::Tensor Pgd::start(at::IntArrayRef sizes, Random& random) const {
  at::Tensor moves = at::empty(sizes, at::kFloat);
  auto* to = moves.mutable_data_ptr<float>();
  for (std::int64_t i = 0; i < moves.numel(); ++i)
    to[i] = static_cast<float>((2 * uniform_unit(random) - 1) * epsilon);
  return moves;
}

REFINE_INLINE at::Tensor Pgd::gradient(const at::Tensor& images, const at::Tensor& labels,
                                       at::Tensor& finite) const {
  c10::AutoGradMode with_gradient(true);
  const at::Tensor at = images.detach().requires_grad_(true);
  const at::Tensor logits = model(at).to(at::kFloat);
  const at::Tensor loss = at::cross_entropy_loss(logits, labels, {}, at::Reduction::Sum);
  at::Tensor slope;
  if (loss.requires_grad()) {
    slope = torch::autograd::grad({loss}, {at}, {}, /*retain_graph=*/std::nullopt, /*create_graph=*/false,
                                  /*allow_unused=*/true)[0];
  }
  if (!slope.defined()) {
    throw Error(
        "the model's logits have no gradient towards its images; give a model that computes "
        "with tensors that carry one");
  }
  finite = finite.logical_and(logits.isfinite().all()).logical_and(slope.isfinite().all());
  return slope;
}

REFINE_INLINE void Pgd::require_finite(const at::Tensor& finite) {
  if (finite.item<bool>()) return;
  throw Error(
      "the model's logits, or their gradient, are not finite; give a model whose training did not "
      "diverge");
}

REFINE_INLINE void Pgd::require_fitting(const at::Tensor& images, const at::Tensor& labels) const {
  if (!images.defined() || images.dim() != 4 || images.scalar_type() != at::kByte) {
    throw Error("images to perturb are bytes, N×C×H×W; convert them with data::to_bytes");
  }
  const std::int64_t n = images.size(0);
  if (!labels.defined() || labels.dim() != 1 || labels.scalar_type() != at::kLong || labels.size(0) != n) {
    throw Error("labels of images to perturb are one int64 an image; give {} of them", n);
  }
  if (n > 0 && labels.min().item<std::int64_t>() < 0) {
    throw Error("a label of the images to perturb is {}; count from 0", labels.min().item<std::int64_t>());
  }
  const ImageShape wanted = model.task().image, shape = data::image_of(images);
  Message why;
  if (!compatible(wanted, shape)) {
    why << "the model takes " << wanted << " images, these are " << shape
        << "; give one that was trained on such";
  }
  require_agreement(why);
}

REFINE_INLINE at::Tensor Pgd::fitting_logits(const at::Tensor& images, const at::Tensor& labels,
                                             at::Device device) const {
  c10::NoGradGuard no_gradient;
  const at::Tensor logits = model(data::to_float(images, device).contiguous(at::MemoryFormat::ChannelsLast));
  const auto largest = labels.max().item<std::int64_t>();
  if (!logits.defined() || logits.dim() != 2 || logits.size(0) != images.size(0) ||
      logits.size(1) <= largest) {
    throw Error(
        "the model gives no logit to class {} of each image; give one of the data's classes "
        "[pgd]",
        largest);
  }
  require_finite(logits.isfinite().all());
  return logits.to(at::kCPU);
}

REFINE_INLINE std::string Pgd::key(const at::Tensor& images, const at::Tensor& labels) const {
  return fmt::format("{} {} epsilon {} step {} steps {} start {}", detail::hash_of(images),
                     detail::hash_of(labels), epsilon, step, steps,
                     random_start ? std::to_string(seed) : "image");
}

}  // namespace refine::attacks
