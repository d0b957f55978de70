#pragma once

#include <nlohmann/json_fwd.hpp>

#include <iosfwd>

#include <refine/training/recipe.hpp>

namespace refine {

/// A recipe as JSON, of either order of keys, each field under its own name, enumerators as words. What is
/// left out on the way back keeps its default; unknown names are refused with an `Error`. Whoever makes JSON
/// of them includes <nlohmann/json.hpp>.
void to_json(nlohmann::json& json, const Recipe& recipe);
void to_json(nlohmann::json& json, const ClassifierRecipe& recipe);
void to_json(nlohmann::ordered_json& json, const Recipe& recipe);
void to_json(nlohmann::ordered_json& json, const ClassifierRecipe& recipe);
void from_json(const nlohmann::json& json, Recipe& recipe);
void from_json(const nlohmann::json& json, ClassifierRecipe& recipe);
void from_json(const nlohmann::ordered_json& json, Recipe& recipe);
void from_json(const nlohmann::ordered_json& json, ClassifierRecipe& recipe);

std::ostream& operator<<(std::ostream& out, const Recipe& recipe);
std::ostream& operator<<(std::ostream& out, const ClassifierRecipe& recipe);

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/training/impl/recipe_json.ipp>
#endif
