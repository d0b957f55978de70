#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <refine/attacks/perturbed_store.hpp>
#include <refine/attacks/surrogate.hpp>
#include <refine/core/agreement.hpp>
#include <refine/core/error.hpp>
#include <refine/core/message.hpp>
#include <refine/core/progress_meter.hpp>
#include <refine/core/random.hpp>
#include <refine/core/seed.hpp>
#include <refine/data/dataset.hpp>
#include <refine/data/pixels.hpp>
#include <refine/nn/device.hpp>

namespace refine::attacks {

/// Projected gradient descent (Madry et al., 2018, `madry2018pgd`): changes images within ±epsilon so that a
/// model no longer sees their class. Each step goes along the sign of the gradient of the cross-entropy with
/// the true label, then back into the ball and into [0, 1]; the last is rounded to bytes.
///
/// *Determinism*: the same fields and images on the same device, with the same number of threads, give the
/// same bytes on the CPU.
struct Pgd {
  Surrogate model = {};        ///< trained on clean images; moved to `default_device()`, in evaluation mode
  double epsilon = 8.0 / 255;  ///< of the largest change of a value in [0, 1]
  double step = 1.5 / 255;     ///< above 0
  int steps = 100;             ///< 1 or more
  std::int64_t batch_size = 128;
  bool random_start = false;          ///< from anywhere in the ball rather than from the image
  std::uint64_t seed = default_seed;  ///< of the random start
  std::filesystem::path store = {};   ///< a file that keeps the result for the next run; empty: none
  bool show = false;                  ///< a progress line on standard error

  /// uint8 N×C×H×W and their int64 labels N → uint8 of the same shape, on the host. \throws Error when there
  ///   is no model, it does not fit the images, its logits or their gradient are not finite, images or labels
  ///   are others than said, a field is out of range, or the store is damaged or can't be written to
  at::Tensor operator()(const at::Tensor& images, const at::Tensor& labels) const {
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

  /// \throws Error when there is no model, or a field is out of its range
  void check() const {
    if (!model) {
      throw Error(
          "refine: images can't be perturbed without a model; train one on clean images with "
          "train_classifier(backbone, train) and give it as .model [pgd]");
    }
    if (!(epsilon >= 0 && epsilon <= 1)) throw Error("refine: epsilon is {}; it is 0 to 1 [pgd]", epsilon);
    if (!(step > 0 && step <= 1)) throw Error("refine: a step is {}; it is above 0, at most 1 [pgd]", step);
    if (steps < 1) throw Error("refine: {} steps were asked for; take 1 or more [pgd]", steps);
    if (batch_size < 1) throw Error("refine: the batch size is {}; it is 1 or more [pgd]", batch_size);
  }

 private:
  at::Tensor perturbed(const at::Tensor& images, const at::Tensor& labels, at::Device device) const {
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

  at::Tensor start(at::IntArrayRef sizes, Random& random) const {
    at::Tensor moves = at::empty(sizes, at::kFloat);
    auto* to = moves.mutable_data_ptr<float>();
    for (std::int64_t i = 0; i < moves.numel(); ++i)
      to[i] = static_cast<float>((2 * uniform_unit(random) - 1) * epsilon);
    return moves;
  }

  /// Of the summed cross-entropy with respect to the images alone. `finite` stays true while all is.
  at::Tensor gradient(const at::Tensor& images, const at::Tensor& labels, at::Tensor& finite) const {
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
          "refine: the model's logits have no gradient towards its images; give a model that computes "
          "with tensors that carry one [pgd]");
    }
    finite = finite.logical_and(logits.isfinite().all()).logical_and(slope.isfinite().all());
    return slope;
  }

  /// The sign of NaN is 0: without this, images that the model says nothing of would stay as they are.
  static void require_finite(const at::Tensor& finite) {
    if (finite.item<bool>()) return;
    throw Error(
        "refine: the model's logits, or their gradient, are not finite; give a model whose training did not "
        "diverge [pgd]");
  }

  void require_fitting(const at::Tensor& images, const at::Tensor& labels) const {
    if (!images.defined() || images.dim() != 4 || images.scalar_type() != at::kByte) {
      throw Error("refine: images to perturb are bytes, N×C×H×W; convert them with data::to_bytes [pgd]");
    }
    const std::int64_t n = images.size(0);
    if (!labels.defined() || labels.dim() != 1 || labels.scalar_type() != at::kLong || labels.size(0) != n) {
      throw Error("refine: labels of images to perturb are one int64 an image; give {} of them [pgd]", n);
    }
    if (n > 0 && labels.min().item<std::int64_t>() < 0) {
      throw Error("refine: a label of the images to perturb is {}; count from 0 [pgd]",
                  labels.min().item<std::int64_t>());
    }
    const ImageShape wanted = model.task().image, shape = data::image_of(images);
    Message why;
    if (!compatible(wanted, shape)) {
      why << "refine: the model takes " << wanted << " images, these are " << shape
          << "; give one that was trained on such [pgd]";
    }
    require_agreement(why);
  }

  at::Tensor fitting_logits(const at::Tensor& images, const at::Tensor& labels, at::Device device) const {
    c10::NoGradGuard no_gradient;
    const at::Tensor logits =
        model(data::to_float(images, device).contiguous(at::MemoryFormat::ChannelsLast));
    const auto largest = labels.max().item<std::int64_t>();
    if (!logits.defined() || logits.dim() != 2 || logits.size(0) != images.size(0) ||
        logits.size(1) <= largest) {
      throw Error(
          "refine: the model gives no logit to class {} of each image; give one of the data's classes "
          "[pgd]",
          largest);
    }
    require_finite(logits.isfinite().all());
    return logits.to(at::kCPU);
  }

  std::string key(const at::Tensor& images, const at::Tensor& labels) const {
    return fmt::format("{} {} epsilon {} step {} steps {} start {}", detail::hash_of(images),
                       detail::hash_of(labels), epsilon, step, steps,
                       random_start ? std::to_string(seed) : "image");
  }
};

}  // namespace refine::attacks
