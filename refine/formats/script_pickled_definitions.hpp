#pragma once

// What script_pickled.hpp declares.

#include <refine/formats/script_pickled.hpp>

#include <torch/csrc/jit/frontend/tree_views.h>

#include <algorithm>
#include <cstddef>
#include <string>

#include <refine/core/compiled.hpp>
#include <refine/formats/script_source.hpp>

namespace refine::formats::detail::script {

REFINE_DEFINITION bool fits(Pickled& value, const torch::jit::TreeRef& type, bool untyped) {
  using Kind = Pickled::Kind;
  using namespace torch::jit;
  if (type->kind() != TK_SUBSCRIPT) {
    const std::string name = spelled(type);
    switch (value.kind) {
      case Kind::none:
        return name == "NoneType";
      case Kind::boolean:
        return name == "bool" || name == "Scalar" || name == "number";
      case Kind::integer:
        return name == "int" || name == "Scalar" || name == "number";
      case Kind::real:
        return name == "float" || name == "Scalar" || name == "number";
      case Kind::text:
        return name == "str";
      case Kind::device:
        return name == "Device";
      case Kind::tensor:
        return name == "Tensor";
      case Kind::object:
        return name == value.text;
      default:
        return false;
    }
  }
  const std::string container = spelled(Subscript(type).value());
  const torch::jit::TreeList& arguments = arguments_of(type);
  const auto fits_one = [&](const TreeRef& each) { return fits(value, each, untyped); };
  if (container == "Optional")
    return value.kind == Kind::none || (arguments.size() == 1 && fits_one(arguments[0]));
  if (container == "Union") return std::ranges::any_of(arguments, fits_one);
  if (container == "Tuple") {
    const bool is_unit = arguments.size() == 1 && spelled(arguments[0]) == "()";
    if (value.kind != Kind::tuple || value.parts.size() != (is_unit ? 0 : arguments.size())) return false;
    for (std::size_t i = 0; i < value.parts.size(); ++i) {
      if (!fits(*value.parts[i], arguments[i], untyped)) return false;
    }
    return true;
  }
  const bool is_dict = container == "Dict";
  if (value.kind != (is_dict ? Kind::dict : Kind::list) || arguments.size() != (is_dict ? 2 : 1))
    return false;
  if (untyped && value.text.empty()) value.text = spelled(type);
  if (value.text != spelled(type)) return false;
  for (std::size_t i = 0; i < value.parts.size(); ++i) {
    if (!fits(*value.parts[i], arguments[is_dict ? i % 2 : 0], untyped)) return false;
  }
  return true;
}

}  // namespace refine::formats::detail::script
