#pragma once

#include <refine/formats/detail/pickle_machine.hpp>

#include <ATen/ops/as_strided.h>
#include <ATen/ops/empty.h>
#include <fmt/core.h>

#include <algorithm>
#include <bit>
#include <memory>

#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/formats/detail/objection.hpp>
#include <refine/formats/detail/zip_directory.hpp>

namespace refine::formats::detail {

REFINE_INLINE void PickleStack::fail(std::string_view why) const {
  // Python runs a pickle as it reads it: that the rest is broken does not make it harmless.
  for (const std::string& name : unknown_names_) {
    if (runs_programs(name)) refuse(name);
  }
  throw Error("cannot load {}: {}; the file is damaged or hostile, get it again from whom you trust",
              path_.string(), why);
}

REFINE_INLINE void PickleStack::refuse(std::string_view name) const {
  if (runs_programs(name)) {
    throw ProgramError(
        "cannot load {}: it asks for {}, which is no tensor but a way to run any program: Python would run it "
        "while it loads the file; get the weights again from whom you trust",
        path_.string(), shown(name));
  }
  throw Error(
      "cannot load {}: it asks for {}, which is no tensor and no container, and could be any program; "
      "save plain tensors, as model.state_dict() has them",
      path_.string(), shown(name));
}

REFINE_INLINE PickleStack::Node* PickleStack::make(Kind kind) {
  if (nodes_.size() >= most_objects) fail(fmt::format("its pickle has more than {} objects", most_objects));
  nodes_.push_back({.kind = kind});
  return &nodes_.back();
}

REFINE_INLINE void PickleStack::push(Node* node) {
  if (stack_.size() >= deepest_stack) fail("its pickle's stack is too deep");
  stack_.push_back(node);
}

REFINE_INLINE PickleStack::Node* PickleStack::top() const {
  if (stack_.size() <= floor()) fail("its pickle takes more than it gave");
  return stack_.back();
}

REFINE_INLINE PickleStack::Node* PickleStack::pop() {
  Node* node = top();
  stack_.pop_back();
  return node;
}

REFINE_INLINE std::vector<PickleStack::Node*> PickleStack::pop_many(std::size_t n) {
  if (stack_.size() - floor() < n) fail("its pickle takes more than it gave");
  std::vector<Node*> items(stack_.end() - static_cast<std::ptrdiff_t>(n), stack_.end());
  stack_.resize(stack_.size() - n);
  return items;
}

REFINE_INLINE void PickleStack::mark() {
  if (marks_.size() >= deepest_stack) fail("its pickle's stack is too deep");
  marks_.push_back(stack_.size());
}

REFINE_INLINE std::vector<PickleStack::Node*> PickleStack::pop_to_mark() {
  if (marks_.empty()) fail("its pickle lacks a mark");
  auto items = pop_many(stack_.size() - floor());
  marks_.pop_back();
  return items;
}

REFINE_INLINE void PickleStack::drop() {
  if (!marks_.empty() && stack_.size() == floor()) {
    marks_.pop_back();
  } else {
    pop();
  }
}

REFINE_INLINE void PickleStack::remember(std::uint64_t key) {
  if (memo_.size() >= most_objects) fail("its pickle remembers too much");
  memo_[key] = top();
}

REFINE_INLINE void PickleStack::recall(std::uint64_t key) {
  const auto at = memo_.find(key);
  if (at == memo_.end()) fail("its pickle recalls what it never had");
  push(at->second);
}

REFINE_INLINE void PickleStack::count(std::size_t references) {
  references_ += references;
  if (references_ > most_references) fail("its pickle copies the same things over and over");
}

REFINE_INLINE void PickleStack::append(const std::vector<Node*>& items) {
  Node* list = top();
  if (list->kind != Kind::list && list->kind != Kind::opaque) fail("its pickle appends to what is no list");
  count(items.size());
  list->items.insert(list->items.end(), items.begin(), items.end());
}

REFINE_INLINE void PickleStack::set_items(Node* dict, const std::vector<Node*>& items) {
  if (dict->kind == Kind::opaque) {
    if (dict->entries == nullptr) dict->entries = make(Kind::dict);
    dict = dict->entries;
  }
  if (dict->kind != Kind::dict) fail("its pickle sets an item of what is no dict");
  count(items.size());
  dict->items.insert(dict->items.end(), items.begin(), items.end());
  if (dict->items.size() % 2 != 0) fail("its pickle has a key without a value");
}

REFINE_INLINE PickleStack::Node* PickleStack::make_opaque(const std::string& name, std::vector<Node*> items) {
  Node* node = make(Kind::opaque);
  node->text = *unknown_names_.insert(name).first;
  count(items.size());
  node->items = std::move(items);
  return node;
}

REFINE_INLINE PickleStack::Node* PickleStack::boolean(std::int64_t value) {
  Node* node = make(Kind::boolean);
  node->integer = value;
  return node;
}

REFINE_INLINE void PickleCalls::push_name(std::string_view module, std::string_view name) {
  const std::string full = std::string(module) + "." + std::string(name);
  const PickleName* known = find_pickle_name(full);
  if (known == nullptr) return push(make_opaque(full));
  Node* node = make(Kind::name);
  node->name = known;
  push(node);
}

REFINE_INLINE PickleCalls::Node* PickleCalls::call(const Node& callee, const Node& arguments) {
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

REFINE_INLINE void PickleCalls::build() {
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

REFINE_INLINE PickleCalls::Node* PickleCalls::storage(const Node& id) {
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

REFINE_INLINE std::string_view PickleCalls::latin1(std::string_view utf8) {
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

REFINE_INLINE const PickleMachine::Node& PickleMachine::run() {
  if (take(1) != "\x80") fail("it is no pickle of protocol 2 or newer");
  if (const unsigned protocol = byte(); protocol < 2 || protocol > 5) {
    fail(fmt::format("its pickle has the unknown protocol {}", protocol));
  }
  for (unsigned char code; (code = static_cast<unsigned char>(byte())) != '.';) step(code);
  return *pop();
}

REFINE_INLINE void PickleMachine::step(unsigned char code) {
  switch (code) {
    case 'N':
      return push(none_);
    case 0x88:
      return push(true_);
    case 0x89:
      return push(false_);
    case 'K':
      return push_integer(byte());
    case 'M':
      return push_integer(number<std::uint16_t>());
    case 'J':
      return push_integer(number<std::int32_t>());
    case 0x8a:
      return push_long(byte());
    case 0x8b:
      return push_long(number<std::uint32_t>());
    case 'G':
      return push_real();
    case 'U':
    case 0x8c:
      return push_text(Kind::text, byte());
    case 'T':
    case 'X':
      return push_text(Kind::text, number<std::uint32_t>());
    case 0x8d:
      return push_text(Kind::text, number<std::uint64_t>());
    case 'C':
      return push_text(Kind::bytes, byte());
    case 'B':
      return push_text(Kind::bytes, number<std::uint32_t>());
    case 0x8e:
    case 0x96:
      return push_text(Kind::bytes, number<std::uint64_t>());
    case ')':
      return push(make(Kind::tuple));
    case ']':
      return push(make(Kind::list));
    case '}':
      return push(make(Kind::dict));
    case 0x85:
    case 0x86:
    case 0x87:
      return push_collection(Kind::tuple, pop_many(code - 0x84u));
    case 't':
      return push_collection(Kind::tuple, pop_to_mark());
    case 'l':
      return push_collection(Kind::list, pop_to_mark());
    case 'd':
      return set_items(make_pushed(Kind::dict, pop_to_mark()), {});
    case 'a':
      return append(pop_many(1));
    case 'e':
      return append(pop_to_mark());
    case 's':
      return set_items_below(pop_many(2));
    case 'u':
      return set_items_below(pop_to_mark());
    case '(':
      return mark();
    case '0':
      return drop();
    case '1':
      return void(pop_to_mark());
    case '2':
      return push(top());
    case 'q':
      return remember(byte());
    case 'r':
      return remember(number<std::uint32_t>());
    case 0x94:
      return remember();
    case 'h':
      return recall(byte());
    case 'j':
      return recall(number<std::uint32_t>());
    case 0x95: {  // a frame: only a hint for readers of streams
      if (number<std::uint64_t>() > rest_.size()) fail("its pickle is cut");
      return;
    }
    case 'c': {
      const std::string module(line());
      return push_name(module, line());
    }
    case 'i': {  // an instance, as protocol 0 has it
      const std::string module(line());
      refuse(module + "." + std::string(line()));
    }
    case 0x93: {
      const Node* name = pop();
      const Node* module = pop();
      if (name->kind != Kind::text || module->kind != Kind::text) fail("its pickle is malformed");
      return push_name(module->text, name->text);
    }
    case 'R':
    case 0x81: {
      const Node* arguments = pop();
      const Node* callee = pop();
      return push(call(*callee, *arguments));
    }
    case 0x92: {  // with arguments by name
      const Node* named = pop();
      const Node* arguments = pop();
      const Node* callee = pop();
      if (callee->kind != Kind::opaque || named->kind != Kind::dict)
        fail("its pickle calls what is no function");
      Node* made = call(*callee, *arguments);
      count(named->items.size());
      made->items.insert(made->items.end(), named->items.begin(), named->items.end());
      return push(made);
    }
    case 0x8f:
      return push(make_opaque("builtins.set"));
    case 0x90:
      return append(pop_to_mark());
    case 0x91:
      return push(make_opaque("builtins.frozenset", pop_to_mark()));
    case 'b':
      return build();
    case 'Q':
      return push(storage(*pop()));
    default:
      fail(fmt::format("its pickle has the instruction {:#04x}, which no weights need", code));
  }
}

REFINE_INLINE std::string_view PickleMachine::take(std::uint64_t n) {
  if (n > rest_.size()) fail("its pickle is cut");
  const std::string_view bytes = rest_.substr(0, n);
  rest_.remove_prefix(n);
  return bytes;
}

REFINE_INLINE std::string_view PickleMachine::line() {
  const std::size_t end = rest_.find('\n');
  if (end == std::string_view::npos) fail("its pickle is cut");
  const std::string_view text = take(end);
  take(1);
  return text;
}

REFINE_INLINE void PickleMachine::push_integer(std::int64_t value) {
  Node* node = make(Kind::integer);
  node->integer = value;
  push(node);
}

REFINE_INLINE void PickleMachine::push_long(std::uint64_t size) {
  const std::string_view bytes = take(size);
  if (size > sizeof(std::int64_t)) {  // the state of a random generator has some
    Node* node = make(Kind::opaque);
    node->text = large_integer;
    return push(node);
  }
  std::uint64_t value = size > 0 && (bytes.back() & 0x80) ? ~std::uint64_t{0} : 0;
  std::memcpy(&value, bytes.data(), size);
  push_integer(static_cast<std::int64_t>(value));
}

REFINE_INLINE void PickleMachine::push_real() {
  std::uint64_t bits = 0;
  for (const char c : take(sizeof bits)) bits = bits << 8 | static_cast<unsigned char>(c);
  Node* node = make(Kind::real);
  node->real = std::bit_cast<double>(bits);
  push(node);
}

REFINE_INLINE void PickleMachine::push_text(Kind kind, std::uint64_t size) {
  Node* node = make(kind);
  node->text = take(size);
  push(node);
}

REFINE_INLINE PickleMachine::Node* PickleMachine::make_pushed(Kind kind, std::vector<Node*> items) {
  Node* node = make(kind);
  node->items = std::move(items);
  push(node);
  return node;
}

REFINE_INLINE bool Layout::contiguous() const {
  std::int64_t expected = 1;
  for (std::size_t i = sizes.size(); i-- > 0;) {
    if (sizes[i] != 1 && strides[i] != expected) return false;
    expected *= sizes[i];
  }
  return true;
}

REFINE_INLINE PickleBuilder::PickleBuilder(const PickleMachine& machine, const Storages& storages)
    : machine_(machine), storages_(storages) {
  tensor_budget_ += machine.size() * copies;
  text_budget_ += machine.size() * copies;
}

REFINE_INLINE Value PickleBuilder::build(const PickleNode& node, bool keep_opaque) {
  Value value = built(node, 0).value;
  if (const Opaque* whole = value.as_opaque(); whole && !keep_opaque) {
    if (whole->name == large_integer) fail("it has an integer of more than 64 bits");
    machine_.refuse(whole->name);
  }
  return value;
}

REFINE_INLINE PickleBuilder::Built PickleBuilder::built(const PickleNode& node, int depth) {
  if (depth > deepest) fail(fmt::format("it is nested deeper than {}, or contains itself", deepest));
  switch (node.kind) {
    case Kind::none:
      return {};
    case Kind::boolean:
      return {{node.integer != 0}};
    case Kind::integer:
      return {{node.integer}};
    case Kind::real:
      return {{node.real}};
    case Kind::text:
      return {{std::string(counted(node.text))}};
    case Kind::bytes:
      return {{Bytes{std::string(counted(node.text))}}};
    case Kind::name: {
      if (node.name->callee == Callee::dtype) return {{std::string(node.name->name)}};
      if (depth > 0) return opaque(node.name->name, node);
      fail(fmt::format("it has {} where a value should be", node.name->name));
    }
    case Kind::storage:
      if (depth > 0) return opaque(node.name->name, node);
      fail("it has a storage without a tensor");
    case Kind::numpy_dtype:
      if (depth > 0) return opaque("numpy.dtype", node);
      fail("it has a NumPy type without an array");
    case Kind::opaque:
      if (node.entries == nullptr || !reaches_tensors(node)) return opaque(node.text, node);
      return built(*node.entries, depth);  // a dict of a class of its own
    case Kind::list:
    case Kind::tuple:
    case Kind::dict:
    case Kind::tensor:
    case Kind::array:
      break;
  }
  if (const auto at = done_.find(&node); at != done_.end()) return at->second;
  Built made;
  if (node.kind == Kind::tensor) {
    made.value = tensor(node);
  } else if (node.kind == Kind::array) {
    made.value = array(node);
  } else {
    made = container(node, depth);
  }
  return done_.emplace(&node, std::move(made)).first->second;
}

REFINE_INLINE PickleBuilder::Built PickleBuilder::container(const PickleNode& node, int depth) {
  Built made;
  List items;
  items.reserve(node.items.size());
  for (const PickleNode* item : node.items) {
    Built one = built(*item, depth + 1);
    made.weight += one.weight;
    if (made.weight > most_weight) fail("it names the same things over and over");
    items.push_back(std::move(one.value));
  }
  if (node.kind == Kind::list) {
    made.value.content = std::make_shared<const List>(std::move(items));
  } else if (node.kind == Kind::tuple) {
    made.value.content = std::make_shared<const Tuple>(Tuple{std::move(items)});
  } else {
    made.value.content = std::make_shared<const Dict>(dict(items));
  }
  return made;
}

REFINE_INLINE PickleBuilder::Built PickleBuilder::opaque(std::string_view name, const PickleNode& node) {
  Opaque made{.name = std::string(counted(name))};
  made.is_tensor = name.starts_with("torch._utils._rebuild_");
  made.has_tensors = made.is_tensor || reaches_tensors(node);
  Built result;
  result.value.content = std::move(made);
  return result;
}

/// What it has is walked without recursion, since nobody knows how deep it is.
REFINE_INLINE bool PickleBuilder::reaches_tensors(const PickleNode& node) {
  std::set<const PickleNode*> seen = {&node};
  for (std::vector<const PickleNode*> open = {&node}; !open.empty();) {
    const PickleNode* next = open.back();
    open.pop_back();
    if (next->kind == Kind::tensor || next->kind == Kind::storage) return true;
    if (visits_left_ == 0) return true;
    --visits_left_;
    for (const PickleNode* item : next->items) {
      if (seen.insert(item).second) open.push_back(item);
    }
    if (next->entries != nullptr && seen.insert(next->entries).second) open.push_back(next->entries);
  }
  return false;
}

REFINE_INLINE Dict PickleBuilder::dict(List& items) const {
  Dict result;
  std::set<std::string_view> keys;
  result.reserve(items.size() / 2);
  for (std::size_t i = 0; i + 1 < items.size(); i += 2) {
    result.emplace_back(std::move(items[i]), std::move(items[i + 1]));
    const std::string* key = result.back().first.as_text();
    if (key && !keys.insert(*key).second) fail(fmt::format("a dict has the key '{}' twice", shown(*key)));
  }
  return result;
}

REFINE_INLINE std::vector<std::int64_t> PickleBuilder::extents(const PickleNode& tuple) const {
  constexpr std::size_t most = 64;  // as LibTorch has it
  std::vector<std::int64_t> result;
  for (const PickleNode* item : tuple.items) {
    if (item->kind != Kind::integer || item->integer < 0) {
      fail("a tensor has a size or a stride that is no natural number");
    }
    if (result.size() == most) fail(fmt::format("a tensor has more than {} dimensions", most));
    result.push_back(item->integer);
  }
  return result;
}

REFINE_INLINE Value PickleBuilder::tensor(const PickleNode& node) {
  const PickleNode& storage = *node.items[0];
  const std::string_view key = storage.items[0]->text;
  const std::optional<std::string_view> data = storages_ ? storages_(key) : std::nullopt;
  if (!data) fail(fmt::format("it has no storage '{}'", shown(key)));
  const std::int64_t claimed = storage.items[1]->integer;
  std::int64_t bytes = 0;
  if (claimed < 0 ||
      __builtin_mul_overflow(claimed, std::int64_t(c10::elementSize(storage.name->type)), &bytes) ||
      static_cast<std::uint64_t>(bytes) > data->size()) {
    fail(fmt::format("storage '{}' claims {} numbers and has {} bytes", shown(key), claimed, data->size()));
  }
  if (counted_storages_.insert(std::string(key)).second) tensor_budget_ += data->size() * copies;
  Layout layout{
      .sizes = extents(*node.items[2]), .strides = extents(*node.items[3]), .offset = node.items[1]->integer};
  if (layout.sizes.size() != layout.strides.size() || layout.offset < 0) {
    fail("a tensor has not as many strides as sizes");
  }
  if (!is_readable(node.name->type)) {
    return {Opaque{.name = std::string(node.name->name), .is_tensor = true, .has_tensors = true}};
  }
  return {copied(data->substr(0, static_cast<std::size_t>(bytes)), node.name->type, layout)};
}

REFINE_INLINE Value PickleBuilder::array(const PickleNode& node) {
  if (node.items.empty()) fail("it has a NumPy array without content");
  const auto type = std::ranges::find(numpy_types, node.items[1]->text, &NumpyType::name);
  if (type == numpy_types.end()) return {Opaque{.name = "numpy.ndarray"}};  // of texts, dates, uint32 ...
  Layout layout{.sizes = extents(*node.items[0])};
  layout.strides.resize(layout.sizes.size());
  std::int64_t stride = 1;
  for (std::size_t i = 0; i < layout.sizes.size(); ++i) {
    const std::size_t at = node.items[2]->integer != 0 ? i : layout.sizes.size() - 1 - i;
    layout.strides[at] = stride;
    if (__builtin_mul_overflow(stride, std::max<std::int64_t>(layout.sizes[at], 1), &stride)) {
      fail("a tensor claims more bytes than there are");
    }
  }
  return {copied(node.items[3]->text, type->type, layout)};
}

REFINE_INLINE at::Tensor PickleBuilder::copied(std::string_view data, at::ScalarType type,
                                               const Layout& layout) {
  const std::int64_t width = static_cast<std::int64_t>(c10::elementSize(type));
  const auto too_large = [&] { fail("a tensor claims more bytes than there are"); };
  // Bytes, had it no extent of 0: strides are computed of those too, and must not overflow.
  std::int64_t span = width;
  std::int64_t last = layout.offset;  // the index of the last number
  bool empty = false;
  for (std::size_t i = 0; i < layout.sizes.size(); ++i) {
    const std::int64_t n = layout.sizes[i];
    std::int64_t reach = 0;
    empty = empty || n == 0;
    if (__builtin_mul_overflow(span, std::max<std::int64_t>(n, 1), &span)) too_large();
    if (n > 0 && (__builtin_mul_overflow(n - 1, layout.strides[i], &reach) ||
                  __builtin_add_overflow(last, reach, &last))) {
      too_large();
    }
  }
  if (empty) return at::empty(layout.sizes, type);
  const auto there = static_cast<std::int64_t>(data.size()) / width;
  if (last >= there) too_large();
  // A copy of what is reached: the file's bytes need not lie where numbers of that type may.
  const char* from = data.data() + layout.offset * width;
  const bool contiguous = layout.contiguous();
  const std::int64_t reached = last - layout.offset + 1;
  spend(static_cast<std::uint64_t>(span));
  if (!contiguous) spend(static_cast<std::uint64_t>(reached * width));
  at::Tensor numbers = contiguous ? at::empty(layout.sizes, type) : at::empty({reached}, type);
  std::memcpy(numbers.mutable_data_ptr(), from, numbers.nbytes());
  if (type == at::kBool &&
      std::any_of(from, from + numbers.nbytes(), [](char c) { return c != 0 && c != 1; })) {
    fail("a tensor of truth values has others than 0 and 1");
  }
  return contiguous
             ? numbers
             : at::as_strided(numbers, layout.sizes, layout.strides).clone(at::MemoryFormat::Contiguous);
}

REFINE_INLINE void PickleBuilder::spend(std::uint64_t bytes) {
  if (bytes > tensor_budget_) {
    fail("its tensors repeat the same numbers so often that they need far more memory than the file has");
  }
  tensor_budget_ -= bytes;
}

REFINE_INLINE std::string_view PickleBuilder::counted(std::string_view text) {
  if (text.size() > text_budget_) fail("it names the same text over and over");
  text_budget_ -= text.size();
  return text;
}

}  // namespace refine::formats::detail
