#pragma once

// What pickle_calls.hpp declares.

#include <refine/formats/pickle_calls.hpp>

#include <fmt/core.h>

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <refine/core/compiled.hpp>
#include <refine/formats/pickle_names.hpp>

namespace refine::formats::detail {

REFINE_DEFINITION void PickleCalls::push_name(std::string_view module, std::string_view name) {
  const std::string full = std::string(module) + "." + std::string(name);
  const PickleName* known = find_pickle_name(full);
  if (known == nullptr) return push(make_opaque(full));
  Node* node = make(Kind::name);
  node->name = known;
  push(node);
}

REFINE_DEFINITION PickleCalls::Node* PickleCalls::call(const Node& callee, const Node& arguments) {
  if (callee.kind == Kind::opaque && callee.items.empty() && arguments.kind == Kind::tuple) {
    return make_opaque(std::string(callee.text), arguments.items);
  }
  if (callee.kind != Kind::name || arguments.kind != Kind::tuple)
    fail("its pickle calls what is no function");
  const auto& items = arguments.items;
  const auto require = [&](bool fine) {
    if (!fine) fail(fmt::format("its pickle gives {} what it does not take", callee.name->name));
  };
  const auto is = [&](std::size_t i, Kind kind) { return i < items.size() && items[i]->kind == kind; };
  const auto made = [&](Kind kind, std::vector<Node*> with) {
    Node* node = make(kind);
    count(with.size());
    node->items = std::move(with);
    return node;
  };
  switch (callee.name->callee) {
    case Callee::ordered_dict: {
      Node* dict = make(Kind::dict);
      require(items.empty() || (items.size() == 1 && is(0, Kind::list)));
      if (items.empty()) return dict;
      for (const Node* pair : items[0]->items) {
        require((pair->kind == Kind::list || pair->kind == Kind::tuple) && pair->items.size() == 2);
        set_items(dict, pair->items);
      }
      return dict;
    }
    case Callee::size: {
      require(items.size() == 1 && (is(0, Kind::tuple) || is(0, Kind::list)));
      return made(Kind::tuple, items[0]->items);
    }
    case Callee::device: {
      require(is(0, Kind::text));
      return items[0];
    }
    case Callee::encode: {
      require(is(0, Kind::text) && is(1, Kind::text) && items[1]->text == "latin1");
      Node* node = make(Kind::bytes);
      node->text = latin1(items[0]->text);
      return node;
    }
    case Callee::empty_bytes: {
      require(items.empty());
      return make(Kind::bytes);
    }
    case Callee::tensor:
    case Callee::tensor_of_type: {
      const bool typed = callee.name->callee == Callee::tensor_of_type;
      require(is(0, Kind::storage) && is(1, Kind::integer) && is(2, Kind::tuple) && is(3, Kind::tuple));
      require(!typed || (is(6, Kind::name) && items[6]->name->callee == Callee::dtype));
      Node* node = made(Kind::tensor, {items.begin(), items.begin() + 4});
      node->name = typed ? items[6]->name : items[0]->name;
      return node;
    }
    case Callee::parameter: {
      require(is(0, Kind::tensor) || is(0, Kind::opaque));
      return items[0];
    }
    case Callee::of_class: {  // function, class, arguments, attributes
      require(items.size() == 4 && is(2, Kind::tuple));
      const bool known = is(0, Kind::name) && items[0]->name->callee != Callee::of_class;
      require(known || is(0, Kind::opaque));
      return call(*items[0], *items[2]);
    }
    case Callee::array: {
      require(is(0, Kind::name) && items[0]->name->callee == Callee::array_class);
      return make(Kind::array);
    }
    case Callee::array_of_buffer: {
      require(is(0, Kind::bytes) && is(1, Kind::numpy_dtype) && is(2, Kind::tuple) && is(3, Kind::text));
      return made(Kind::array, {items[2], items[1], items[3]->text == "F" ? true_ : false_, items[0]});
    }
    case Callee::scalar: {
      require(is(0, Kind::numpy_dtype) && (is(1, Kind::bytes) || is(1, Kind::text)));
      return made(Kind::array, {make(Kind::tuple), items[0], false_, items[1]});
    }
    case Callee::numpy_dtype: {
      require(is(0, Kind::text));
      Node* node = make(Kind::numpy_dtype);
      node->text = items[0]->text;
      return node;
    }
    case Callee::storage:
      if (!is_readable(callee.name->type)) return make_opaque(std::string(callee.name->name), items);
      break;
    case Callee::dtype:
    case Callee::array_class:
      break;
  }
  fail(fmt::format("its pickle calls {}, which is no function", callee.name->name));
}

REFINE_DEFINITION void PickleCalls::build() {
  Node* state = pop();
  Node* object = top();
  const auto& items = state->items;
  const auto is = [&](std::size_t i, Kind kind) { return i < items.size() && items[i]->kind == kind; };
  if (object->kind == Kind::dict) return;  // an OrderedDict's attributes: nn.Module's _metadata
  if (object->kind == Kind::opaque) {
    count(1);
    object->items.push_back(state);
    return;
  }
  if (object->kind == Kind::numpy_dtype && state->kind == Kind::tuple) {
    const bool plain = is(1, Kind::text) && is(2, Kind::none) && is(3, Kind::none) && is(4, Kind::none);
    if (!plain || (items[1]->text != "<" && items[1]->text != "|" && items[1]->text != "=")) {
      object->text = {};  // big-endian, or of several fields
    }
    return;
  }
  if (object->kind == Kind::array && state->kind == Kind::tuple) {
    const bool fortran = is(3, Kind::boolean) || is(3, Kind::integer);
    if (items.size() == 5 && is(2, Kind::numpy_dtype) && is(4, Kind::list)) {  // of Python objects
      static const std::string array = "numpy.ndarray";
      object->kind = Kind::opaque;
      object->text = array;
      return;
    }
    if (items.size() != 5 || !is(1, Kind::tuple) || !is(2, Kind::numpy_dtype) || !fortran ||
        !(is(4, Kind::bytes) || is(4, Kind::text))) {
      fail("it has a NumPy array of something else than numbers");
    }
    object->items = {items[1], items[2], items[3]->integer != 0 ? true_ : false_, items[4]};
    return;
  }
  fail("its pickle sets the state of what has none");
}

REFINE_DEFINITION PickleCalls::Node* PickleCalls::storage(const Node& id) {
  const auto& items = id.items;
  const bool five = items.size() == 5 || (items.size() == 6 && items[5]->kind == Kind::none);
  if (id.kind == Kind::tuple && items.size() > 1 && items[0]->text == "module") {
    fail("it has a whole module's source; save model.state_dict() instead");
  }
  if (id.kind != Kind::tuple || !five || items[0]->text != "storage" || items[1]->kind != Kind::name ||
      items[1]->name->callee != Callee::storage || items[2]->kind != Kind::text ||
      items[4]->kind != Kind::integer) {
    fail("a tensor's storage is named in an unknown way");
  }
  Node* node = make(Kind::storage);
  node->name = items[1]->name;
  node->items = {items[2], items[4]};
  storages_.push_back(node);
  return node;
}

REFINE_DEFINITION std::string_view PickleCalls::latin1(std::string_view utf8) {
  encoded_size_ += utf8.size();
  if (encoded_size_ > most_encoded_) fail("its pickle encodes the same text over and over");
  std::string bytes;
  bytes.reserve(utf8.size());
  for (std::size_t i = 0; i < utf8.size(); ++i) {
    const auto c = static_cast<unsigned char>(utf8[i]);
    if (c < 0x80) {
      bytes += static_cast<char>(c);
      continue;
    }
    const bool two = (c == 0xc2 || c == 0xc3) && i + 1 < utf8.size();
    const unsigned next = two ? static_cast<unsigned char>(utf8[++i]) : 0;
    if ((next & 0xc0) != 0x80) fail("it has bytes that are not written as Latin-1");
    bytes += static_cast<char>((c & 3) << 6 | (next & 0x3f));
  }
  return encoded_.emplace_back(std::move(bytes));
}

}  // namespace refine::formats::detail
