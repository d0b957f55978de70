#pragma once

#include <refine/attacks/detail/input_gradient.hpp>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>

#include <optional>

#include <refine/core/check.hpp>
#include <refine/core/config.hpp>
#include <refine/data/dataset.hpp>

namespace refine::attacks::detail {

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

}  // namespace refine::attacks::detail
