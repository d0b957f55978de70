#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>

#include <utility>

#include <refine/data/dataset.hpp>
#include <refine/nn/autocast.hpp>
#include <refine/nn/cuda_graph.hpp>
#include <refine/nn/device.hpp>
#include <refine/objectives/objectives.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/training/detail/loop.hpp>
#include <refine/training/recipe.hpp>

namespace refine {

/// Trains a pipeline's transform on clean images, in place, on `default_device()` (Chen et al., 2025,
/// `chen2025refine`). It needs no labels: the teacher is the frozen victim itself, asked as the recipe's
/// `teacher` has it.
/// \param images uint8 N×C×H×W
/// \throws Error when the images do not fit the pipeline, a field of the recipe is out of range, or the loss
///   is not finite
///
/// *Determinism*: the same seeds on the same device, with the same number of threads, give bitwise the same
/// weights on the CPU.
template <typename T, typename B, typename R, typename... Observers>
void fit(Pipeline<T, B, R>& defense, const at::Tensor& images, const Recipe& recipe = recipes::fast,
         Observers&&... observers) {
  recipe.validate();
  if (images.dim() != 4 || images.scalar_type() != at::kByte) {
    throw Error("fit takes bytes, N×C×H×W; convert float images with data::to_bytes");
  }
  const ImageShape shape = data::image_of(images);
  const ImageShape wanted = defense.task().image;
  if (!compatible(wanted, shape)) {
    Message why;
    require_agreement(why << "the pipeline takes " << wanted << " images, the data has " << shape
                          << "; resize the data, or give the pipeline its task");
  }
  const at::Device device = default_device();
  defense.to(device);

  const auto objective = [&](const at::Tensor& remapped, const at::Tensor& teacher) {
    switch (recipe.objective) {
      case ObjectiveKind::nll:
        return objectives::Nll{}(remapped, teacher);
      case ObjectiveKind::distillation:
        return objectives::Distillation{recipe.temperature}(remapped, teacher);
      case ObjectiveKind::bce:
        break;
    }
    return objectives::Bce{}(remapped, teacher);
  };
  const objectives::SupCon supcon{.temperature = recipe.supcon_temperature,
                                  .base_temperature = recipe.supcon_temperature};
  const bool bfloat16 = uses_bfloat16(recipe.optimization.precision, device);
  const detail::BatchAugmentation augmented(recipe.augmentation);
  detail::TeacherAnswers answers(recipe, images.size(0));
  const auto teacher_of = [&](const detail::Batch& batch) {
    const nn::Autocast lower(device, bfloat16);
    return answers(batch, augmented, [&](const at::Tensor& x) { return defense.undefended(x); });
  };
  const auto learn = [&](const at::Tensor& batch, const at::Tensor& teacher) -> detail::BatchResult {
    at::Tensor rewritten, remapped;
    {
      const nn::Autocast lower(device, bfloat16);
      rewritten = defense.transformed(batch).to(at::kFloat);
      remapped = defense.classify_transformed(rewritten).to(at::kFloat);
    }
    const at::Tensor named = teacher.argmax(1);
    at::Tensor loss = objective(remapped, teacher);
    if (recipe.supcon_weight > 0) loss = loss + recipe.supcon_weight * supcon(rewritten, named);
    return {loss, remapped.detach().argmax(1).eq(named).sum()};
  };
  detail::train({.name = "defense", .accuracy_of = "agreement"}, *defense.transform().module, device, images,
                recipe.optimization, augmented, recipe.seed, teacher_of, learn,
                nn::is_replayable(defense.transform()) && nn::is_replayable(defense.backbone()),
                observers...);
}

}  // namespace refine
