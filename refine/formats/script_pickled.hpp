#pragma once

#include <torch/csrc/jit/frontend/tree.h>
#include <torch/csrc/jit/frontend/tree_views.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <refine/formats/script_source.hpp>

namespace refine::formats::detail::script {

/// What a pickle would build, as far as it must be known to tell that it fits.
struct Pickled {
  enum class Kind {
    none,
    boolean,
    integer,
    real,
    text,
    device,
    tuple,
    list,
    dict,
    name,
    blank,
    object,
    storage,
    tensor
  };
  using Ref = std::shared_ptr<Pickled>;

  Kind kind = Kind::none;
  std::string text = {};    ///< a string, a name, an object's class, the type that a list or dict was given
  std::int64_t number = 0;  ///< an integer; of a storage its elements
  std::vector<Ref> parts = {};      ///< of a dict keys and values in turn
  std::size_t depth = 0, size = 1;  ///< levels below; values in it, on all paths
  bool is_shared = false;           ///< the memo has it: it must not change any more
};

/// Whether LibTorch may believe that the value is of the type, which it does without a look.
inline bool fits(const Pickled& value, const torch::jit::TreeRef& type) {
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
  const auto fits_one = [&](const TreeRef& each) { return fits(value, each); };
  if (container == "Optional")
    return value.kind == Kind::none || (arguments.size() == 1 && fits_one(arguments[0]));
  if (container == "Union") return std::ranges::any_of(arguments, fits_one);
  if (container == "Tuple") {
    const bool is_unit = arguments.size() == 1 && spelled(arguments[0]) == "()";
    if (value.kind != Kind::tuple || value.parts.size() != (is_unit ? 0 : arguments.size())) return false;
    for (std::size_t i = 0; i < value.parts.size(); ++i) {
      if (!fits(*value.parts[i], arguments[i])) return false;
    }
    return true;
  }
  const bool is_dict = container == "Dict";
  if (value.kind != (is_dict ? Kind::dict : Kind::list) || arguments.size() != (is_dict ? 2 : 1))
    return false;
  if (value.text != spelled(type)) return false;
  for (std::size_t i = 0; i < value.parts.size(); ++i) {
    if (!fits(*value.parts[i], arguments[is_dict ? i % 2 : 0])) return false;
  }
  return true;
}

}  // namespace refine::formats::detail::script
