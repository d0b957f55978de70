#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <c10/core/MemoryFormat.h>
#include <torch/nn/module.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <refine/core/check.hpp>
#include <refine/core/error.hpp>
#include <refine/core/task.hpp>
#include <refine/data/dataset.hpp>
#include <refine/data/training_set.hpp>
#include <refine/nn/device.hpp>
#include <refine/nn/module.hpp>
#include <refine/training/detail/run_state.hpp>
#include <refine/training/recipe.hpp>
#include <refine/training/train_classifier.hpp>
#include <refine/transforms/transform.hpp>

/// \file
/// What the learning of triggers shares.

namespace refine::attacks::detail {

/// Calls a function with images on the device of a module, and moves the result back.
template <typename Function>
at::Tensor on_device_of(const torch::nn::Module& module, const at::Tensor& images, const Function& function) {
  return function(images.to(nn::device_of(module).value_or(images.device()))).to(images.device());
}

/// Returns for each image a position in [0, count) that depends on its pixels alone.
/// \param images float N×C×H×W in [0, 1]
inline at::Tensor index_of(const at::Tensor& images, std::int64_t count) {
  return data::to_bytes(images).to(at::kLong).sum({1, 2, 3}).remainder(count);
}

/// Throws unless a generator and a classifier can learn a trigger on these images.
template <transforms::Transform T>
void check_learning(std::string_view function, const T& generator, const Task& classifier,
                    const data::Dataset& dataset, int target, const ClassifierRecipe& recipe) {
  recipe.validate();
  dataset.validate();
  require_agreement(refine::detail::check_training_task(function, classifier, dataset.task()));
  if (target < 0 || target >= dataset.task().classes)
    throw Error("{}: target must be a class, in [0, {}), got {}", function, dataset.task().classes, target);
  transforms::require_image_to_image(function, generator, dataset.image_shape());
}

/// Several networks as one, for their training.
class Networks : public torch::nn::Module {
 public:
  explicit Networks(const std::vector<std::shared_ptr<torch::nn::Module>>& parts) {
    for (std::size_t i = 0; i < parts.size(); ++i) register_module(std::to_string(i), parts[i]);
  }
};

/// Trains several networks on labelled images; see `train_labelled`. They end in evaluation mode.
template <typename Classify, typename Loss, typename... Observers>
void learn_together(refine::detail::RunIdentity identity,
                    const std::vector<std::shared_ptr<torch::nn::Module>>& networks,
                    const data::Dataset& dataset, const ClassifierRecipe& recipe, const Classify& classify,
                    const Loss& loss, Observers&... observers) {
  Networks all(networks);
  all.to(default_device());
  for (const auto& network : networks) nn::to_channels_last(*network);
  refine::detail::train_labelled({.identity = std::move(identity)}, all, data::TrainingSet{dataset}, recipe,
                                 classify, loss, observers...);
}

}  // namespace refine::attacks::detail
