#pragma once

// What value.hpp declares.

#include <refine/formats/value.hpp>

#include <memory>
#include <string>
#include <string_view>
#include <variant>

#include <refine/core/compiled.hpp>

namespace refine::formats {

REFINE_DEFINITION const Dict* Value::as_dict() const {
  const auto* dict = std::get_if<std::shared_ptr<const Dict>>(&content);
  return dict ? dict->get() : nullptr;
}

REFINE_DEFINITION const List* Value::as_list() const {
  if (const auto* list = std::get_if<std::shared_ptr<const List>>(&content)) return list->get();
  if (const auto* tuple = std::get_if<std::shared_ptr<const Tuple>>(&content)) return &(*tuple)->items;
  return nullptr;
}

REFINE_DEFINITION const Value* Value::find(std::string_view key) const {
  const Dict* dict = as_dict();
  if (!dict) return nullptr;
  for (const auto& [name, value] : *dict) {
    const std::string* text = name.as_text();
    if (text && *text == key) return &value;
  }
  return nullptr;
}

}  // namespace refine::formats
