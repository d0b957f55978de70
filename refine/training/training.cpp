// What this room's headers declare, compiled once for a program (core/compiled.hpp).

#include <refine/training/batch_augmentation_definitions.hpp>
#include <refine/training/json_lines_definitions.hpp>
#include <refine/training/muon_definitions.hpp>
#include <refine/training/optimization_definitions.hpp>
#include <refine/training/optimizers_definitions.hpp>
#include <refine/training/recipe_json_definitions.hpp>
