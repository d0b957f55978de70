#pragma once

#include <refine/training/recipe_json.hpp>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <ostream>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include <refine/core/config.hpp>
#include <refine/core/error.hpp>

namespace refine {

namespace detail {

// The enumerators as they are stored. Files hold these words: do not change them.

constexpr std::array<std::pair<std::string_view, ObjectiveKind>, 3> names_of(ObjectiveKind) {
  return {{{"bce", ObjectiveKind::bce},
           {"nll", ObjectiveKind::nll},
           {"distillation", ObjectiveKind::distillation}}};
}
constexpr std::array<std::pair<std::string_view, TeacherInput>, 2> names_of(TeacherInput) {
  return {{{"views", TeacherInput::augmented}, {"images", TeacherInput::original}}};
}
constexpr std::array<std::pair<std::string_view, OptimizerKind>, 3> names_of(OptimizerKind) {
  return {{{"sgd", OptimizerKind::sgd}, {"adam", OptimizerKind::adam}, {"muon", OptimizerKind::muon}}};
}
constexpr std::array<std::pair<std::string_view, Schedule>, 3> names_of(Schedule) {
  return {{{"constant", Schedule::constant}, {"steps", Schedule::steps}, {"one_cycle", Schedule::one_cycle}}};
}
constexpr std::array<std::pair<std::string_view, Precision>, 3> names_of(Precision) {
  return {{{"float32", Precision::float32},
           {"bfloat16", Precision::bfloat16},
           {"automatic", Precision::automatic}}};
}

template <typename T, typename Expected>
concept Is = std::same_as<std::remove_const_t<T>, Expected>;

/// Calls `visit(name, field)` for each field. The names are the keys of the JSON.
void visit_fields(Is<data::Augmentation> auto& a, auto&& visit) {
  visit("flip", a.flip);
  visit("crop_padding", a.crop_padding);
  visit("resized_crop_min_scale", a.resized_crop_min_scale);
  visit("grayscale", a.grayscale);
  visit("mix", a.mix);
  visit("rotation", a.rotation);
  visit("translate", a.translate);
  visit("scale_min", a.scale_min);
  visit("scale_max", a.scale_max);
  visit("brightness", a.brightness);
}
void visit_fields(Is<Optimization> auto& o, auto&& visit) {
  visit("optimizer", o.optimizer);
  visit("lr", o.lr);
  visit("momentum", o.momentum);
  visit("nesterov", o.nesterov);
  visit("weight_decay", o.weight_decay);
  visit("other_lr", o.adam_lr);
  visit("schedule", o.schedule);
  visit("warmup", o.warmup);
  visit("milestones", o.milestones);
  visit("decay", o.decay);
  visit("batch_size", o.batch_size);
  visit("epochs", o.epochs);
  visit("precision", o.precision);
  visit("sync_batch_norm", o.sync_batch_norm);
}
void visit_fields(Is<Recipe> auto& r, auto&& visit) {
  visit("objective", r.objective);
  visit("teacher", r.teacher);
  visit("temperature", r.temperature);
  visit("head_weight", r.head_weight);
  visit("supcon_weight", r.supcon_weight);
  visit("supcon_temperature", r.supcon_temperature);
  visit("optimization", r.optimization);
  visit("augmentation", r.augmentation);
  visit("seed", r.seed);
}
void visit_fields(Is<ClassifierRecipe> auto& r, auto&& visit) {
  visit("label_smoothing", r.label_smoothing);
  visit("optimization", r.optimization);
  visit("augmentation", r.augmentation);
  visit("seed", r.seed);
}

template <typename T>
concept RecipePart =
    Is<T, Recipe> || Is<T, ClassifierRecipe> || Is<T, Optimization> || Is<T, data::Augmentation>;

template <typename Json>
Json recipe_to_json(const RecipePart auto& part) {
  Json json;
  visit_fields(part, [&](const char* name, const auto& field) {
    using Field = std::remove_cvref_t<decltype(field)>;
    if constexpr (RecipePart<Field>) {
      json[name] = recipe_to_json<Json>(field);
    } else if constexpr (std::is_enum_v<Field>) {
      constexpr auto names = names_of(Field{});
      json[name] = std::ranges::find(names, field, [](const auto& n) { return n.second; })->first;
    } else {
      json[name] = field;
    }
  });
  return json;
}

/// Returns a value of the wrong type as text for a message, without the elements of arrays and
/// objects, which may be nested deeply.
template <typename Json>
std::string describe_value(const Json& value) {
  return value.is_structured() ? std::string("an ") + value.type_name() : value.dump();
}

/// Returns the values that a field takes as text for a message.
inline std::string expected_values(bool) {
  return "true or false";
}
inline std::string expected_values(double) {
  return "a number";
}
template <std::integral Number>
std::string expected_values(Number) {
  return fmt::format("a whole number from {} to {}", std::numeric_limits<Number>::min(),
                     std::numeric_limits<Number>::max());
}
template <typename Element, std::size_t count>
std::string expected_values(const std::array<Element, count>&) {
  return fmt::format("an array of {} elements, each {}", count, expected_values(Element{}));
}

/// Assigns a JSON value to a field if nothing is lost: a fraction does not become a whole number,
/// nor a number true or false.
/// \return false if the value does not fit; the field may then be changed in part
template <typename Json>
bool read_exactly(const Json& value, bool& field) {
  if (value.is_boolean()) field = value.template get<bool>();
  return value.is_boolean();
}
template <typename Json>
bool read_exactly(const Json& value, double& field) {
  if (value.is_number()) field = value.template get<double>();
  return value.is_number();
}
template <typename Json, std::integral Number>
bool read_exactly(const Json& value, Number& field) {
  return refine::detail::read_integer(value, field);
}
template <typename Json, typename Element, std::size_t count>
bool read_exactly(const Json& value, std::array<Element, count>& field) {
  if (!value.is_array() || value.size() != count) return false;
  for (std::size_t i = 0; i < count; ++i) {
    if (!read_exactly(value[i], field[i])) return false;
  }
  return true;
}

template <RecipePart Part, typename Json>
Part recipe_from_json(const Json& json) {
  Part part;
  std::size_t known = 0;
  if (!json.is_object()) {
    throw Error("cannot read a recipe: each part must be a JSON object (got {}); write {{\"lr\": 0.05, …}}",
                describe_value(json));
  }
  visit_fields(part, [&](const char* name, auto& field) {
    using Field = std::remove_cvref_t<decltype(field)>;
    if (!json.contains(name)) return;
    ++known;
    const auto& value = json[name];
    if constexpr (RecipePart<Field>) {
      field = recipe_from_json<Field>(value);
    } else if constexpr (std::is_enum_v<Field>) {
      constexpr auto names = names_of(Field{});
      const auto found = value.is_string() ? std::ranges::find(names, value.template get<std::string>(),
                                                               [](const auto& n) { return n.first; })
                                           : names.end();
      if (found == names.end()) {
        std::string all(names.front().first);
        for (std::size_t i = 1; i < names.size(); ++i) {
          all += i + 1 < names.size() ? ", " : " or ";
          all += names[i].first;
        }
        throw Error("cannot read a recipe: unknown value of '{}' (got {}, expected {})", name,
                    describe_value(value), all);
      }
      field = found->second;
    } else {
      if (!read_exactly(value, field)) {
        throw Error("cannot read a recipe: '{}' has the wrong type or is out of range (got {}, expected {})",
                    name, describe_value(value), expected_values(field));
      }
    }
  });
  if (known != json.size()) {
    for (const auto& item : json.items()) {
      bool found = false;
      visit_fields(part, [&](const char* name, auto&) { found = found || item.key() == name; });
      if (!found)
        throw Error("cannot read a recipe: unknown field '{}'; remove it, or check its spelling", item.key());
    }
  }
  return part;
}

}  // namespace detail

REFINE_INLINE void to_json(nlohmann::json& json, const Recipe& recipe) {
  json = detail::recipe_to_json<nlohmann::json>(recipe);
}

REFINE_INLINE void to_json(nlohmann::json& json, const ClassifierRecipe& recipe) {
  json = detail::recipe_to_json<nlohmann::json>(recipe);
}

REFINE_INLINE void to_json(nlohmann::ordered_json& json, const Recipe& recipe) {
  json = detail::recipe_to_json<nlohmann::ordered_json>(recipe);
}

REFINE_INLINE void to_json(nlohmann::ordered_json& json, const ClassifierRecipe& recipe) {
  json = detail::recipe_to_json<nlohmann::ordered_json>(recipe);
}

REFINE_INLINE void from_json(const nlohmann::json& json, Recipe& recipe) {
  recipe = detail::recipe_from_json<Recipe>(json);
}

REFINE_INLINE void from_json(const nlohmann::json& json, ClassifierRecipe& recipe) {
  recipe = detail::recipe_from_json<ClassifierRecipe>(json);
}

REFINE_INLINE void from_json(const nlohmann::ordered_json& json, Recipe& recipe) {
  recipe = detail::recipe_from_json<Recipe>(json);
}

REFINE_INLINE void from_json(const nlohmann::ordered_json& json, ClassifierRecipe& recipe) {
  recipe = detail::recipe_from_json<ClassifierRecipe>(json);
}

REFINE_INLINE std::ostream& operator<<(std::ostream& out, const Recipe& recipe) {
  return out << detail::recipe_to_json<nlohmann::ordered_json>(recipe).dump();
}

REFINE_INLINE std::ostream& operator<<(std::ostream& out, const ClassifierRecipe& recipe) {
  return out << detail::recipe_to_json<nlohmann::ordered_json>(recipe).dump();
}

}  // namespace refine
