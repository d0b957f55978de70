#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/bincount.h>
#include <ATen/ops/cross_entropy_loss.h>

#include <cstdint>
#include <functional>
#include <map>
#include <sstream>
#include <string>
#include <string_view>
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
#include <refine/nn/module.hpp>
#include <refine/training/detail/loop.hpp>
#include <refine/training/observers.hpp>
#include <refine/training/recipe.hpp>
#include <refine/training/recipe_json.hpp>

namespace refine {

namespace detail {

/// Returns why a network cannot be trained on these images; empty if it can.
/// \param function that trains, for the message
constexpr Message check_training_task(std::string_view function, const Task& network, const Task& data) {
  Message why;
  if (!compatible(network.image, data.image)) {
    why << function << ": the image shapes differ (the backbone takes " << network.image << ", the data has "
        << data.image << "); give the backbone the task of the data";
  } else if (!compatible(network.classes, data.classes)) {
    why << function << ": the numbers of classes differ (the backbone predicts " << network.classes
        << ", the data has " << data.classes << "); give the backbone the task of the data";
  }
  return why;
}

/// Returns the share of the most frequent class: the accuracy of always predicting it.
/// \param labels int64 N, N at least 1
inline double share_of_mode(const at::Tensor& labels) {
  return static_cast<double>(at::bincount(labels).max().item<std::int64_t>()) /
         static_cast<double>(labels.size(0));
}

/// Returns the cross-entropy that a recipe asks for.
/// \param logits float N×classes
/// \param truth int64 N
inline at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& truth,
                                const ClassifierRecipe& recipe) {
  return at::cross_entropy_loss(logits, truth, {}, at::Reduction::Mean, -100, recipe.label_smoothing);
}

/// Describes a run of `train_labelled`.
struct LabelledRun {
  RunIdentity identity;  ///< its name, and what a resumed run must have in common beside recipe and data
  bool aims_at_labels = true;    ///< whether it warns if the logits do not come to have the labels
  bool cuda_graph_safe = false;  ///< whether its two functions may be recorded as a CUDA graph
};

/// Trains a module, which is on `default_device()`, on labelled images.
/// \param labelled its name and properties
/// \param module what is trained
/// \param dataset two or more labelled images
/// \param recipe the optimizer and the augmentation
/// \param classify images → logits; may compute in bfloat16
/// \param loss float logits, labels, images → the loss; computes in float32
/// \throws Error, OutOfMemory, Stopped as `train_classifier`
template <typename Classify, typename Loss, typename... Observers>
void train_labelled(const LabelledRun& labelled, torch::nn::Module& module, const data::TrainingSet& dataset,
                    const ClassifierRecipe& recipe, const Classify& classify, const Loss& loss,
                    Observers&... observers) {
  const at::Device device = default_device();
  const at::Tensor labels = dataset.labels.to(device);
  const bool bfloat16 = uses_bfloat16(recipe.optimization.precision, device);
  const auto targets = [&](const Batch& batch) { return labels.index_select(0, batch.indices); };
  const auto logits_of = [&](const at::Tensor& images) {
    const nn::Autocast autocast(device, bfloat16);
    return classify(images).to(at::kFloat);
  };
  const auto learn = [&](const at::Tensor& images, const at::Tensor& truth) -> BatchResult {
    const at::Tensor logits = logits_of(images);
    return {loss(logits, truth, images), logits.argmax(1).eq(truth).sum()};
  };
  std::function<double()> chance;
  if (labelled.aims_at_labels) chance = [&] { return share_of_mode(labels); };
  const auto identity = [&] {
    RunIdentity whole = labelled.identity;
    whole.recipe = (std::ostringstream() << recipe).str();
    whole.objective = "recipe";
    whole.required = (std::ostringstream() << ClassifierRecipe{.augmentation = dataset.augmentation}).str();
    whole.data = {{"images", dataset.images},
                  {"labels", dataset.labels},
                  {"no_augment_mask", dataset.no_augment_mask},
                  {"no_flip_mask", dataset.no_flip_mask}};
    return whole;
  };
  const TrainingRun run{.info = {.name = labelled.identity.run},
                        .identity = identity,
                        .chance = chance,
                        .forward = [&](const at::Tensor& batch) { logits_of(batch); },
                        .after_warning = "check the labels, or lower the learning rate"};
  train(run, module, device, dataset.images, recipe.optimization,
        BatchAugmentation(recipe.augmentation, dataset, device), recipe.seed, targets, learn,
        labelled.cuda_graph_safe, observers...);
}

}  // namespace detail

/// Trains a classifier on labelled images, with cross-entropy. Training takes place on
/// `default_device()`, to which the network is moved. The augmentation that a `data::TrainingSet`
/// requires, as that of an attack may, comes after the recipe's.
///
/// *Determinism*: on the CPU, the same seeds and number of threads give bitwise the same weights. Dropout
/// draws from LibTorch's generator, which belongs to the process and is restored at the end. While another
/// thread trains or draws, the weights of a network with dropout are not determined, and the generator is
/// left in another state.
///
/// \param backbone the network; its module, which copies share, is trained in place
/// \param dataset two or more labelled images
/// \param recipe the optimizer and the augmentation
/// \param observers follow the run, taken by reference, see `Observer`
/// \return `backbone`, in evaluation mode
/// \throws Error if the data does not fit the backbone, a field of the recipe or of the training
///   set is out of range, the backbone has no parameters to train, does not return logits of its task or
///   was made in `c10::InferenceMode`, or the loss is not finite
/// \throws OutOfMemory if the memory does not suffice for a step
/// \throws Stopped if an observer requests it
template <backbones::Backbone B, Observer... Observers>
B train_classifier(B backbone, const data::TrainingSet& dataset,
                   const ClassifierRecipe& recipe = recipes::fast_classifier, Observers&&... observers) {
  detail::refuse_inference_mode("train_classifier");
  recipe.validate();
  dataset.validate();
  backbones::check_members(backbone);
  const std::map<std::string, at::Tensor> constants = backbones::constants_of(backbone);
  detail::refuse_inference_tensors("train_classifier", "backbone", nn::state_dict(*backbone.module));
  detail::refuse_inference_tensors("train_classifier", "backbone", constants);
  require_agreement(detail::check_training_task("train_classifier", backbone.task, dataset.task()));
  backbone.module->to(default_device());
  nn::to_channels_last(*backbone.module);
  bool is_checked = false;
  detail::train_labelled(
      {.identity = {.run = "victim", .network = nn::describe(backbone), .constants = constants},
       .cuda_graph_safe = nn::is_replayable(backbone)},
      *backbone.module, dataset, recipe,
      [&](const at::Tensor& images) {
        const at::Tensor logits = backbone.forward(images);
        if (!std::exchange(is_checked, true))
          backbones::check_logits("train_classifier: the backbone", logits, images.size(0),
                                  Task(backbone.task).classes);
        return logits;
      },
      [&](const at::Tensor& logits, const at::Tensor& truth, const at::Tensor&) {
        return detail::cross_entropy(logits, truth, recipe);
      },
      observers...);
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
