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

/// Python's `bytes`. Python's `str` is a `std::string` in UTF-8.
struct Bytes {
  std::string bytes;  ///< the content
};

/// Python's `list`.
using List = std::vector<Value>;

/// Python's `tuple`.
struct Tuple {
  List items;  ///< the elements
};

/// Python's `dict`, in the order of insertion. A text key occurs once.
using Dict = std::vector<std::pair<Value, Value>>;

/// An object that refine does not build: an instance of a Python class, which would need the
/// class's code, or a tensor of an unsupported kind (quantised, sparse, complex, 8-bit floating
/// point, …).
struct Opaque {
  std::string name;          ///< the class, or the function that would build it; the dtype of a tensor
  bool is_tensor = false;    ///< true for a tensor of an unsupported kind
  bool has_tensors = false;  ///< true if tensors are nested inside it
};

/// What a pickle may contain: None, a bool, an int64, a float, text, bytes, a tensor on the CPU, an
/// opaque object, and containers of those. A container that the pickle references twice is shared;
/// no container contains itself.
///
/// \code{.cpp}
/// const formats::Value file = formats::read_torch_file("checkpoint.pth");
/// const formats::Value* epoch = file.find("epoch");  // null if absent
/// if (epoch && epoch->as_integer()) fmt::print("epoch {}\n", *epoch->as_integer());
/// \endcode
struct Value {
  /// The content; `std::monostate` is Python's None.
  std::variant<std::monostate, bool, std::int64_t, double, std::string, Bytes, at::Tensor, Opaque,
               std::shared_ptr<const List>, std::shared_ptr<const Tuple>, std::shared_ptr<const Dict>>
      content = {};

  /// Returns true for None.
  bool is_none() const { return std::holds_alternative<std::monostate>(content); }

  /// Returns the content if it is a bool, or null.
  const bool* as_boolean() const { return std::get_if<bool>(&content); }

  /// Returns the content if it is an integer, or null.
  const std::int64_t* as_integer() const { return std::get_if<std::int64_t>(&content); }

  /// Returns the content if it is text, or null.
  const std::string* as_text() const { return std::get_if<std::string>(&content); }

  /// Returns the content if it is a tensor of a supported kind, or null.
  const at::Tensor* as_tensor() const { return std::get_if<at::Tensor>(&content); }

  /// Returns the content if it is an opaque object, or null.
  const Opaque* as_opaque() const { return std::get_if<Opaque>(&content); }

  /// Returns the content if it is a dict, or null.
  const Dict* as_dict() const {
    const auto* dict = std::get_if<std::shared_ptr<const Dict>>(&content);
    return dict ? dict->get() : nullptr;
  }

  /// Returns the elements if the content is a list or a tuple, or null.
  const List* as_list() const {
    if (const auto* list = std::get_if<std::shared_ptr<const List>>(&content)) return list->get();
    if (const auto* tuple = std::get_if<std::shared_ptr<const Tuple>>(&content)) return &(*tuple)->items;
    return nullptr;
  }

  /// Returns the value of a text key.
  /// \param key the key
  /// \return the value; null if the content is not a dict or does not contain the key
  const Value* find(std::string_view key) const;
};

inline const Value* Value::find(std::string_view key) const {
  const Dict* dict = as_dict();
  if (!dict) return nullptr;
  for (const auto& [name, value] : *dict) {
    const std::string* text = name.as_text();
    if (text && *text == key) return &value;
  }
  return nullptr;
}

}  // namespace refine::formats
