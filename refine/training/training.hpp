#pragma once

#include <refine/training/fit.hpp>
#include <refine/training/muon.hpp>
#include <refine/training/observers.hpp>
#include <refine/training/recipe.hpp>
#include <refine/training/recipe_json.hpp>
#include <refine/training/train_classifier.hpp>
