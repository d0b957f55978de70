#pragma once

#include <nlohmann/json_fwd.hpp>

#include <iosfwd>

#include <refine/training/recipe.hpp>

/// \file
/// Recipes as JSON. Each field is stored under its name (`Optimization::adam_lr` as `other_lr`),
/// each enumerator as a word. To create or parse JSON, include <nlohmann/json.hpp>:
///
///     nlohmann::json json = recipes::fast;
///     Recipe recipe = json.get<Recipe>();

namespace refine {

/// Converts a recipe to JSON.
/// \param json receives an object
/// \param recipe the recipe
void to_json(nlohmann::json& json, const Recipe& recipe);

/// Converts a recipe to JSON.
/// \param json receives an object
/// \param recipe the recipe
void to_json(nlohmann::json& json, const ClassifierRecipe& recipe);

/// Converts a recipe to JSON that keeps the order of the fields.
/// \param json receives an object
/// \param recipe the recipe
void to_json(nlohmann::ordered_json& json, const Recipe& recipe);

/// Converts a recipe to JSON that keeps the order of the fields.
/// \param json receives an object
/// \param recipe the recipe
void to_json(nlohmann::ordered_json& json, const ClassifierRecipe& recipe);

/// Reads a recipe from JSON. Fields that the JSON lacks get their default; `Recipe::validate`
/// checks ranges.
/// \param json an object
/// \param recipe receives the result
/// \throws Error if a field is unknown, or a value has the wrong type or does not fit into its
///   field
void from_json(const nlohmann::json& json, Recipe& recipe);

/// Reads a recipe from JSON. Fields that the JSON lacks get their default;
/// `ClassifierRecipe::validate` checks ranges.
/// \param json an object
/// \param recipe receives the result
/// \throws Error if a field is unknown, or a value has the wrong type or does not fit into its
///   field
void from_json(const nlohmann::json& json, ClassifierRecipe& recipe);

/// Reads a recipe from JSON. Fields that the JSON lacks get their default; `Recipe::validate`
/// checks ranges.
/// \param json an object
/// \param recipe receives the result
/// \throws Error if a field is unknown, or a value has the wrong type or does not fit into its
///   field
void from_json(const nlohmann::ordered_json& json, Recipe& recipe);

/// Reads a recipe from JSON. Fields that the JSON lacks get their default;
/// `ClassifierRecipe::validate` checks ranges.
/// \param json an object
/// \param recipe receives the result
/// \throws Error if a field is unknown, or a value has the wrong type or does not fit into its
///   field
void from_json(const nlohmann::ordered_json& json, ClassifierRecipe& recipe);

/// Prints a recipe as one line of JSON.
/// \param out the stream
/// \param recipe the recipe
/// \return `out`
std::ostream& operator<<(std::ostream& out, const Recipe& recipe);

/// Prints a recipe as one line of JSON.
/// \param out the stream
/// \param recipe the recipe
/// \return `out`
std::ostream& operator<<(std::ostream& out, const ClassifierRecipe& recipe);

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/training/impl/recipe_json.ipp>
#endif
