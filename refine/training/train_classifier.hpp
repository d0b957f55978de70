#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/bincount.h>
#include <ATen/ops/cross_entropy_loss.h>

#include <cstdint>
#include <sstream>
#include <utility>

#include <refine/backbones/backbone.hpp>
#include <refine/core/check.hpp>
#include <refine/core/error.hpp>
#include <refine/core/task.hpp>
#include <refine/data/dataset.hpp>
#include <refine/data/training_set.hpp>
#include <refine/nn/autocast.hpp>
#include <refine/nn/conv.hpp>
#include <refine/nn/cuda_graph.hpp>
#include <refine/nn/device.hpp>
#include <refine/training/detail/loop.hpp>
#include <refine/training/observers.hpp>
#include <refine/training/recipe.hpp>
#include <refine/training/recipe_json.hpp>

namespace refine {

namespace detail {

/// Returns why a network cannot be trained on these images; empty if it can.
constexpr Message check_training_task(const Task& network, const Task& data) {
  Message why;
  if (!compatible(network.image, data.image)) {
    why << "train_classifier: the image shapes differ (the backbone takes " << network.image
        << ", the data has " << data.image << "); give the backbone the task of the data";
  } else if (!compatible(network.classes, data.classes)) {
    why << "train_classifier: the numbers of classes differ (the backbone predicts " << network.classes
        << ", the data has " << data.classes << "); give the backbone the task of the data";
  }
  return why;
}

}  // namespace detail

/// Trains a classifier on labelled images, with cross-entropy. Training takes place on
/// `default_device()`, to which the network is moved. The augmentation that a `data::TrainingSet`
/// requires, as that of an attack may, comes after the recipe's.
///
/// *Determinism*: on the CPU, the same seeds and number of threads give bitwise the same weights.
///
/// \param backbone the network; its module, which copies share, is trained in place
/// \param dataset two or more labelled images
/// \param recipe the optimizer and the augmentation
/// \param observers follow the run, taken by reference, see `Observer`
/// \return `backbone`, in evaluation mode
/// \throws Error if the data does not fit the backbone, a field of the recipe or of the training
///   set is out of range, the backbone has no parameters to train, or the loss is not finite
/// \throws OutOfMemory if the memory does not suffice for a step
/// \throws Stopped if an observer requests it
template <backbones::Backbone B, Observer... Observers>
B train_classifier(B backbone, const data::TrainingSet& dataset,
                   const ClassifierRecipe& recipe = recipes::fast_classifier, Observers&&... observers) {
  recipe.validate();
  dataset.validate();
  require_agreement(detail::check_training_task(backbone.task, dataset.task()));
  const at::Device device = default_device();
  backbone.module->to(device);
  nn::to_channels_last(*backbone.module);
  const at::Tensor labels = dataset.labels.to(device);
  const bool bfloat16 = detail::uses_bfloat16(recipe.optimization.precision, device);
  const auto targets = [&](const detail::Batch& batch) { return labels.index_select(0, batch.indices); };
  const auto classify = [&](const at::Tensor& images) {
    const nn::Autocast autocast(device, bfloat16);
    return backbone.forward(images).to(at::kFloat);
  };
  const auto learn = [&](const at::Tensor& images, const at::Tensor& truth) -> detail::BatchResult {
    const at::Tensor logits = classify(images);
    return {at::cross_entropy_loss(logits, truth, {}, at::Reduction::Mean, -100, recipe.label_smoothing),
            logits.argmax(1).eq(truth).sum()};
  };
  const detail::TrainingRun run{
      .info = {.name = "victim"},
      .identity =
          [&] {
            const ClassifierRecipe required{.augmentation = dataset.augmentation};
            return detail::RunIdentity{.run = "victim",
                                       .recipe = (std::ostringstream() << recipe).str(),
                                       .objective = "recipe",
                                       .required = (std::ostringstream() << required).str(),
                                       .data = {{"images", dataset.images},
                                                {"labels", dataset.labels},
                                                {"no_augment_mask", dataset.no_augment_mask},
                                                {"no_flip_mask", dataset.no_flip_mask}}};
          },
      .chance =  // of the most frequent class
      [&] {
        const at::Tensor counts = at::bincount(labels);
        return static_cast<double>(counts.max().item<std::int64_t>()) / static_cast<double>(dataset.size());
      },
      .forward = [&](const at::Tensor& batch) { classify(batch); },
      .after_warning = "check the labels, or lower the learning rate"};
  detail::train(run, *backbone.module, device, dataset.images, recipe.optimization,
                detail::BatchAugmentation(recipe.augmentation, dataset, device), recipe.seed, targets, learn,
                nn::is_replayable(backbone), observers...);
  return backbone;
}

/// Trains a classifier on labelled images that require no augmentation beyond the recipe's.
/// \param backbone the network; its module, which copies share, is trained in place
/// \param dataset two or more labelled images
/// \param recipe the optimizer and the augmentation
/// \param observers follow the run, taken by reference, see `Observer`
/// \return `backbone`, in evaluation mode
/// \throws Error as the other overload
template <backbones::Backbone B, Observer... Observers>
B train_classifier(B backbone, const data::Dataset& dataset,
                   const ClassifierRecipe& recipe = recipes::fast_classifier, Observers&&... observers) {
  return train_classifier(std::move(backbone), data::TrainingSet{dataset}, recipe,
                          std::forward<Observers>(observers)...);
}

}  // namespace refine
