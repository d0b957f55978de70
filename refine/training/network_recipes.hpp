#pragma once

#include <string_view>

#include <refine/backbones/network_names.hpp>
#include <refine/training/recipe.hpp>

namespace refine::recipes {

/// A published victim's own recipe, by the network's name in any spelling that `backbones::network_by_name`
/// takes: SGD at 0.1, but 0.01 for the VGGs and 0.001 for ViT; 150 epochs. \throws Error for an unknown name
inline ClassifierRecipe paper_classifier_of(std::string_view network) {
  const std::string_view name = backbones::canonical_network_name(network);
  ClassifierRecipe recipe = paper_classifier;
  if (name == "VGG16" || name == "VGG19") recipe.optimization.lr = 0.01;
  if (name == "ViT") recipe.optimization.lr = 0.001;
  return recipe;
}

/// The same in a tenth of the epochs. A ViT has no kernels that Muon could train: Adam does. \throws Error
/// for an unknown name
inline ClassifierRecipe fast_classifier_of(std::string_view network) {
  ClassifierRecipe recipe = fast_classifier;
  if (backbones::canonical_network_name(network) == "ViT") {
    recipe.optimization.optimizer = OptimizerKind::adam;
    recipe.optimization.lr = 0.001;
  }
  return recipe;
}

}  // namespace refine::recipes
