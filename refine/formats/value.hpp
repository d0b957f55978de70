#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace refine::formats {

struct Value;

/// Python's `bytes`; its `str` is a `std::string` in UTF-8.
struct Bytes {
  std::string bytes;
};
using List = std::vector<Value>;
struct Tuple {
  List items;
};
using Dict = std::vector<std::pair<Value, Value>>;  // in the order of insertion

/// Something that this reader does not make: an object of a class of Python's, which would need its code, or a
/// tensor of another kind (quantised, sparse, complex, of 8-bit numbers).
struct Opaque {
  std::string name;         ///< the class, or the function that would make it; of a tensor its type
  bool is_tensor = false;   ///< it is one tensor of another kind
  bool has_tensors = false; ///< tensors lie in it
};

/// What a pickle may hold: None, a truth value, an int64, a float, text, bytes, a tensor on the host, what is
/// opaque, and containers of those. Two places that name one container share it; no container holds itself.
struct Value {
  std::variant<std::monostate, bool, std::int64_t, double, std::string, Bytes, at::Tensor, Opaque,
               std::shared_ptr<const List>, std::shared_ptr<const Tuple>, std::shared_ptr<const Dict>>
      content = {};

  bool is_none() const { return std::holds_alternative<std::monostate>(content); }

  /// The content when it is of that kind, else null.
  const bool* as_boolean() const { return std::get_if<bool>(&content); }
  const std::int64_t* as_integer() const { return std::get_if<std::int64_t>(&content); }
  const std::string* as_text() const { return std::get_if<std::string>(&content); }
  const at::Tensor* as_tensor() const { return std::get_if<at::Tensor>(&content); }
  const Opaque* as_opaque() const { return std::get_if<Opaque>(&content); }
  const Dict* as_dict() const;
  /// Of a list or a tuple.
  const List* as_list() const;
  /// What a dict has under that text; null when it has none, or when this is no dict.
  const Value* find(std::string_view key) const;
};

}  // namespace refine::formats

#if !defined(REFINE_COMPILED)
#include <refine/formats/value_definitions.hpp>
#endif
