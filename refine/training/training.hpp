#pragma once

// Not <refine/training/checkpoint.hpp>, which needs libcrypto.

#include <refine/training/fit.hpp>
#include <refine/training/observers.hpp>
#include <refine/training/optimization.hpp>
#include <refine/training/recipe.hpp>
#include <refine/training/recipe_json.hpp>
#include <refine/training/stop_on_signal.hpp>
#include <refine/training/train_classifier.hpp>

/// \file
/// All of training, except the optimizer `Muon` by itself (`muon.hpp`), which needs
/// `torch::optim`. `train_classifier` trains a victim on labelled images; `fit` trains the
/// transform of a `Pipeline` on images alone, with the frozen victim as teacher. Both take a recipe
/// of plain values (`Recipe`, `ClassifierRecipe`, namespace `refine::recipes`) and any number of
/// observers (concept `Observer`); `fit` also takes an objective (concept `objectives::Objective`).
///
///     auto victim = train_classifier(backbones::ResNet18<task>{}, train, recipes::fast_classifier);
///     Pipeline defense{transforms::UNet<task>{}, freeze(victim), remaps::Derangement<task>{}};
///     History history;
///     fit(defense, train.images, recipes::fast, ProgressBar{}, history);
