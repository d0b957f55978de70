#pragma once

#include <ATen/ops/cross_entropy_loss.h>

#include <utility>

#include <refine/backbones/backbone.hpp>
#include <refine/data/dataset.hpp>
#include <refine/data/training_set.hpp>
#include <refine/nn/autocast.hpp>
#include <refine/nn/conv.hpp>
#include <refine/nn/cuda_graph.hpp>
#include <refine/nn/device.hpp>
#include <refine/training/detail/loop.hpp>
#include <refine/training/recipe.hpp>

namespace refine {

/// Why a network can't learn these images; empty when it can.
constexpr Message learnable(const Task& network, const Task& data) {
  Message why;
  if (!compatible(network.image, data.image)) {
    why << "the backbone takes " << network.image << " images, the data has " << data.image
        << "; give the backbone the task of the data";
  } else if (!compatible(network.classes, data.classes)) {
    why << "the backbone predicts " << network.classes << " classes, the data has " << data.classes
        << "; give the backbone the task of the data";
  }
  return why;
}

/// Trains `backbone` on labelled images, on `default_device()`, and returns it (its module is the one passed
/// in), in evaluation mode. What a `data::TrainingSet` asks for, as an attack's may, comes after the recipe's
/// own augmentation. \throws Error when the data does not fit the backbone, a field of the recipe or of what
/// is asked for is out of range, or the loss is not finite
///
/// *Determinism*: the same seeds on the same device, with the same number of threads, give bitwise the same
/// weights on the CPU.
template <backbones::Backbone B, typename... Observers>
B train_classifier(B backbone, const data::TrainingSet& dataset,
                   const ClassifierRecipe& recipe = recipes::fast_classifier, Observers&&... observers) {
  recipe.validate();
  dataset.validate();
  require_agreement(learnable(backbone.task, dataset.task()));
  const at::Device device = default_device();
  backbone.module->to(device);
  nn::to_channels_last(*backbone.module);
  const at::Tensor labels = dataset.labels.to(device);
  const bool bfloat16 = uses_bfloat16(recipe.optimization.precision, device);
  const auto labels_of = [&](const detail::Batch& batch) { return labels.index_select(0, batch.indices); };
  const auto learn = [&](const at::Tensor& images, const at::Tensor& wanted) -> detail::BatchResult {
    at::Tensor logits;
    {
      const nn::Autocast lower(device, bfloat16);
      logits = backbone.forward(images).to(at::kFloat);
    }
    return {at::cross_entropy_loss(logits, wanted, {}, at::Reduction::Mean, -100, recipe.label_smoothing),
            logits.argmax(1).eq(wanted).sum()};
  };
  detail::train({.name = "victim"}, *backbone.module, device, dataset.images, recipe.optimization,
                detail::BatchAugmentation(recipe.augmentation, dataset, device), recipe.seed, labels_of,
                learn, nn::is_replayable(backbone), observers...);
  return backbone;
}

/// The same for images that ask for nothing.
template <backbones::Backbone B, typename... Observers>
B train_classifier(B backbone, const data::Dataset& dataset,
                   const ClassifierRecipe& recipe = recipes::fast_classifier, Observers&&... observers) {
  return train_classifier(std::move(backbone), data::TrainingSet{dataset}, recipe,
                          std::forward<Observers>(observers)...);
}

}  // namespace refine
