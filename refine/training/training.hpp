#pragma once

#include <refine/training/fit.hpp>
#include <refine/training/history.hpp>
#include <refine/training/json_lines.hpp>
#include <refine/training/muon.hpp>
#include <refine/training/observers.hpp>
#include <refine/training/optimization.hpp>
#include <refine/training/optimizers.hpp>
#include <refine/training/progress_bar.hpp>
#include <refine/training/recipe.hpp>
#include <refine/training/recipe_json.hpp>
#include <refine/training/train_classifier.hpp>
