#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>

#include <concepts>
#include <cstdint>
#include <map>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <refine/backbones/backbone.hpp>
#include <refine/core/check.hpp>
#include <refine/core/error.hpp>
#include <refine/data/dataset.hpp>
#include <refine/nn/autocast.hpp>
#include <refine/nn/cuda_graph.hpp>
#include <refine/nn/device.hpp>
#include <refine/nn/module.hpp>
#include <refine/objectives/objectives.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/training/detail/loop.hpp>
#include <refine/training/observers.hpp>
#include <refine/training/recipe.hpp>
#include <refine/training/recipe_json.hpp>

namespace refine {

namespace detail {

/// The built-in objective that a recipe names.
struct RecipeObjective {
  static constexpr bool cuda_graph_safe = true;

  ObjectiveKind kind;
  double temperature;

  at::Tensor operator()(const at::Tensor& remapped, const at::Tensor& teacher) const {
    switch (kind) {
      case ObjectiveKind::nll:
        return objectives::Nll{}(remapped, teacher);
      case ObjectiveKind::distillation:
        return objectives::Distillation{temperature}(remapped, teacher);
      case ObjectiveKind::bce:
        break;
    }
    return objectives::Bce{}(remapped, teacher);
  }
};

/// Checks what a user's objective returned.
inline void check_loss(const at::Tensor& loss) {
  if (!loss.defined()) throw Error("objective: must return a loss (got an undefined tensor)");
  if (loss.dim() != 0) {
    throw Error(
        "objective: the loss must have no dimensions (got {}); reduce it to one number with .mean() or .sum()",
        loss.dim());
  }
  if (!loss.requires_grad())
    throw Error(
        "objective: the loss has no gradient; compute it from the remapped logits, the first argument");
}

/// Trains the transform of a pipeline towards an objective; see `fit`.
template <typename T, typename B, typename R, objectives::Objective O, typename... Observers>
void fit_transform(Pipeline<T, B, R>& defense, const at::Tensor& images, const O& objective,
                   const Recipe& recipe, Observers&... observers) {
  recipe.validate();
  if (images.dim() != 4 || images.scalar_type() != at::kByte)
    throw Error("fit: images must be uint8 N×C×H×W; convert float images with data::to_bytes");
  const ImageShape data_shape = data::image_shape_of(images), pipeline_shape = defense.task().image;
  if (!compatible(pipeline_shape, data_shape)) {
    Message why;
    require_agreement(why << "fit: the image shapes differ (the pipeline takes " << pipeline_shape
                          << ", the data has " << data_shape
                          << "); resize the data, or give the pipeline its task");
  }
  const at::Device device = default_device();
  defense.to(device);

  const objectives::SupCon supcon{.temperature = recipe.supcon_temperature,
                                  .base_temperature = recipe.supcon_temperature};
  const bool bfloat16 = uses_bfloat16(recipe.optimization.precision, device);
  const BatchAugmentation augmentation(recipe.augmentation);
  TeacherAnswers answers(recipe, images.size(0));
  const auto teacher = [&](const at::Tensor& x) { return defense.undefended(x); };
  const auto targets = [&](const Batch& batch) {
    const nn::Autocast autocast(device, bfloat16);
    return answers(batch, augmentation, teacher);
  };
  const auto learn = [&](const at::Tensor& batch, const at::Tensor& answer) -> BatchResult {
    at::Tensor rewritten, remapped;
    {
      const nn::Autocast autocast(device, bfloat16);
      rewritten = defense.transformed(batch).to(at::kFloat);
      remapped = defense.classify_transformed(rewritten).to(at::kFloat);
    }
    const at::Tensor teacher_classes = answer.argmax(1), predicted = remapped.detach().argmax(1);
    at::Tensor loss = objective(remapped, answer);
    check_loss(loss);
    if (recipe.supcon_weight > 0) loss = loss + recipe.supcon_weight * supcon(rewritten, teacher_classes);
    return {loss, predicted.eq(teacher_classes).sum(), predicted};
  };
  const bool graph_safe = nn::is_replayable(defense.transform()) && nn::is_replayable(defense.backbone()) &&
                          nn::is_replayable(objective);
  TrainingRun run{
      .info = {.name = "defense", .accuracy_of = "agreement"},
      .identity =
          [&] {
            std::map<std::string, at::Tensor> victim = nn::state_dict(*defense.backbone().module, "module.");
            for (const auto& [name, constant] : backbones::constants_of(defense.backbone()))
              victim["constant." + name] = constant;
            const std::vector<std::int64_t> permutation(defense.remap().permutation.begin(),
                                                        defense.remap().permutation.end());
            victim["permutation"] = at::tensor(permutation);
            return RunIdentity{.run = "defense",
                               .recipe = (std::ostringstream() << recipe).str(),
                               .objective = std::same_as<O, RecipeObjective> ? "recipe" : "caller",
                               .data = {{"images", images}},
                               .victim = std::move(victim)};
          },
      .chance = [&] { return 1 / static_cast<double>(defense.remap().permutation.size()); },
      .after_warning = "check how the victim's images are normalised, or lower the learning rate"};
  if (recipe.teacher == TeacherInput::original) {
    run.recall = [&](const Batch& batch) {
      const nn::Autocast autocast(device, bfloat16);
      answers.remember(batch, teacher);
    };
  }
  train(run, *defense.transform().module, device, images, recipe.optimization, augmentation, recipe.seed,
        targets, learn, graph_safe, observers...);
}

}  // namespace detail

/// Trains the transform of a pipeline on clean images, without labels (Chen et al., 2025,
/// `chen2025refine`). The teacher is the frozen victim, as `Recipe::teacher` has it. Training takes
/// place on `default_device()`, to which the pipeline is moved.
///
/// *Determinism*: on the CPU, the same seeds and number of threads give bitwise the same weights.
///
/// \param defense the pipeline; its transform is trained in place and left in evaluation mode
/// \param images uint8 N×C×H×W, two or more, of the pipeline's image shape
/// \param recipe the objective, the optimizer and the augmentation
/// \param observers follow the run, taken by reference, see `Observer`
/// \throws Error if the images do not fit the pipeline, a field of the recipe is out of range, the
///   transform has no parameters, the loss is not finite, or the transform has collapsed: it makes
///   the victim predict one class for all images
/// \throws Stopped if an observer requests it
template <typename T, typename B, typename R, Observer... Observers>
void fit(Pipeline<T, B, R>& defense, const at::Tensor& images, const Recipe& recipe = recipes::fast,
         Observers&&... observers) {
  const detail::RecipeObjective objective{recipe.objective, recipe.temperature};
  detail::fit_transform(defense, images, objective, recipe, observers...);
}

/// Trains the transform of a pipeline towards an objective of the caller's. It takes the place of
/// the one that the recipe names: `Recipe::objective` and `Recipe::temperature` have no effect. All
/// else is as in the other overload; in particular, SupCon is added with `Recipe::supcon_weight`
/// unless that is 0.
///
///     struct Margin {  // hinge loss: the teacher's class must lead by 1
///       at::Tensor operator()(const at::Tensor& remapped, const at::Tensor& teacher) const {
///         return at::multi_margin_loss(remapped, teacher.argmax(1));
///       }
///     };
///     fit(defense, images, Margin{}, recipes::fast, ProgressBar{});
///
/// \param defense the pipeline; its transform is trained in place and left in evaluation mode
/// \param images uint8 N×C×H×W, two or more, of the pipeline's image shape
/// \param objective called once per step, see `objectives::Objective`; also a lambda
/// \param recipe the optimizer and the augmentation
/// \param observers follow the run, taken by reference, see `Observer`
/// \throws Error as the other overload, and if the objective does not return a loss without
///   dimensions that depends on the remapped logits
template <typename T, typename B, typename R, objectives::Objective O, Observer... Observers>
void fit(Pipeline<T, B, R>& defense, const at::Tensor& images, const O& objective,
         const Recipe& recipe = recipes::fast, Observers&&... observers) {
  detail::fit_transform(defense, images, objective, recipe, observers...);
}

}  // namespace refine
