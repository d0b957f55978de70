#pragma once

#include <refine/training/recipe.hpp>

#include <string_view>

#include <refine/backbones/zoo.hpp>
#include <refine/core/config.hpp>

namespace refine::recipes {

REFINE_INLINE ClassifierRecipe paper_classifier_of(std::string_view network) {
  const std::string_view name = backbones::canonical_network_name(network);
  ClassifierRecipe recipe = paper_classifier;
  if (name == "VGG16" || name == "VGG19") recipe.optimization.lr = 0.01;
  if (name == "ViT") recipe.optimization.lr = 0.001;
  return recipe;
}

REFINE_INLINE ClassifierRecipe fast_classifier_of(std::string_view network) {
  ClassifierRecipe recipe = fast_classifier;
  if (backbones::canonical_network_name(network) == "ViT") {
    recipe.optimization.optimizer = OptimizerKind::adam;
    recipe.optimization.lr = 0.001;
  }
  return recipe;
}

}  // namespace refine::recipes
