#pragma once

#include <string_view>

#include <refine/training/recipe.hpp>

namespace refine::recipes {

/// A published victim's own recipe, by the network's name (`backbones::network_names()`): SGD at 0.1, but
/// 0.01 for VGG16 and 0.001 for ViT; 150 epochs.
constexpr ClassifierRecipe paper_classifier_of(std::string_view network) {
  ClassifierRecipe recipe = paper_classifier;
  if (network == "VGG16") recipe.optimization.lr = 0.01;
  if (network == "ViT") recipe.optimization.lr = 0.001;
  return recipe;
}

/// The same in a tenth of the epochs. A ViT has no kernels that Muon could train: Adam does.
constexpr ClassifierRecipe fast_classifier_of(std::string_view network) {
  ClassifierRecipe recipe = fast_classifier;
  if (network == "ViT") {
    recipe.optimization.optimizer = OptimizerKind::adam;
    recipe.optimization.lr = 0.001;
  }
  return recipe;
}

}  // namespace refine::recipes
