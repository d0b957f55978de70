#pragma once

#include <refine/formats/detail/pickle_machine.hpp>

#include <ATen/ops/as_strided.h>
#include <ATen/ops/empty.h>
#include <fmt/core.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <memory>
#include <system_error>

#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/formats/detail/objection.hpp>
#include <refine/formats/detail/zip_directory.hpp>
#include <refine/formats/inspect.hpp>

namespace refine::formats::detail {

REFINE_INLINE void refuse_program(const std::filesystem::path& path, std::string_view name) {
  throw ProgramError(
      "cannot load {}: the file asks for {}, which can run any program; "
      "Python would call it while loading the file; get the weights again from a trusted source",
      path.string(), shorten(name));
}

REFINE_INLINE void PickleStack::fail(std::string_view why) const {
  // Python executes a pickle while it reads it: a broken end does not make the beginning harmless.
  for (const std::string& name : unknown_names_) {
    if (runs_programs(name)) refuse(name);
  }
  throw Error("cannot load {}: {}; the file is damaged or malicious, get it again from a trusted source",
              path_.string(), why);
}

REFINE_INLINE void PickleStack::refuse(std::string_view name) const {
  if (runs_programs(name)) refuse_program(path_, name);
  throw Error(
      "cannot load {}: the file asks for {}, which is neither a tensor nor a container and could be any program; "
      "save plain tensors, as in model.state_dict()",
      path_.string(), shorten(name));
}

REFINE_INLINE void PickleStack::clear() {
  unknown_names_.clear();
  nodes_.resize(constants);
  stack_.clear();
  marks_.clear();
  memo_.clear();
}

REFINE_INLINE PickleStack::Node* PickleStack::make(Kind kind) {
  if (nodes_.size() >= max_objects + constants) {
    fail(fmt::format("the pickle has more than {} objects", max_objects));
  }
  nodes_.push_back({.kind = kind});
  return &nodes_.back();
}

REFINE_INLINE void PickleStack::push(Node* node) {
  if (stack_.size() >= max_stack) {
    fail(fmt::format("the stack of the pickle has more than {} objects", max_stack));
  }
  stack_.push_back(node);
}

REFINE_INLINE PickleStack::Node* PickleStack::top() const {
  if (stack_.size() <= floor()) fail("the pickle pops an empty stack");
  return stack_.back();
}

REFINE_INLINE PickleStack::Node* PickleStack::pop() {
  Node* node = top();
  stack_.pop_back();
  return node;
}

REFINE_INLINE std::vector<PickleStack::Node*> PickleStack::pop_many(std::size_t n) {
  if (stack_.size() - floor() < n) fail("the pickle pops an empty stack");
  std::vector<Node*> items(stack_.end() - static_cast<std::ptrdiff_t>(n), stack_.end());
  stack_.resize(stack_.size() - n);
  return items;
}

REFINE_INLINE void PickleStack::mark() {
  if (marks_.size() >= max_stack) {
    fail(fmt::format("the stack of the pickle has more than {} marks", max_stack));
  }
  marks_.push_back(stack_.size());
}

REFINE_INLINE std::vector<PickleStack::Node*> PickleStack::pop_to_mark() {
  if (marks_.empty()) fail("the pickle lacks a mark");
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

REFINE_INLINE void PickleStack::memoize(std::uint64_t key) {
  if (memo_.size() >= max_objects) {
    fail(fmt::format("the memo of the pickle has more than {} entries", max_objects));
  }
  memo_[key] = top();
}

REFINE_INLINE void PickleStack::recall(std::uint64_t key) {
  const auto found = memo_.find(key);
  if (found == memo_.end()) fail("the pickle recalls a memo entry that does not exist");
  push(found->second);
}

REFINE_INLINE void PickleStack::count(std::size_t references) {
  references_ += references;
  if (references_ > max_references) {
    fail(fmt::format("the pickle copies the same objects too often: its containers have more than {} parts",
                     max_references));
  }
}

REFINE_INLINE void PickleStack::append(const std::vector<Node*>& items) {
  Node* list = top();
  if (list->kind != Kind::list && list->kind != Kind::opaque) {
    fail("the pickle appends to an object that is not a list");
  }
  count(items.size());
  list->items.insert(list->items.end(), items.begin(), items.end());
}

REFINE_INLINE void PickleStack::set_items(Node* dict, const std::vector<Node*>& items) {
  if (dict->kind == Kind::opaque) {
    if (dict->entries == nullptr) dict->entries = make(Kind::dict);
    dict = dict->entries;
  }
  if (dict->kind != Kind::dict) fail("the pickle sets an item of an object that is not a dict");
  count(items.size());
  dict->items.insert(dict->items.end(), items.begin(), items.end());
  if (dict->items.size() % 2 != 0) fail("the pickle has a key without a value");
}

REFINE_INLINE PickleStack::Node* PickleStack::make_opaque(const std::string& name, std::vector<Node*> items) {
  Node* node = make(Kind::opaque);
  node->text = *unknown_names_.insert(name).first;
  count(items.size());
  node->items = std::move(items);
  return node;
}

REFINE_INLINE PickleStack::Node* PickleStack::make_boolean(std::int64_t value) {
  Node* node = make(Kind::boolean);
  node->integer = value;
  return node;
}

REFINE_INLINE void PickleCalls::clear() {
  PickleStack::clear();
  encoded_.clear();
  storages_.clear();
}

REFINE_INLINE void PickleCalls::push_name(std::string_view module, std::string_view name) {
  constexpr std::size_t max_name = 1000;
  if (const std::size_t size = module.size() + 1 + name.size(); size > max_name) {
    fail(fmt::format("a name in the pickle has {} bytes, more than the {} allowed", size, max_name));
  }
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
  if (callee.kind != Kind::name || arguments.kind != Kind::tuple) {
    fail("the pickle calls an object that is not a function");
  }
  const auto& items = arguments.items;
  const auto require = [&](bool condition) {
    if (!condition) fail(fmt::format("the pickle calls {} with invalid arguments", callee.name->name));
  };
  const auto is = [&](std::size_t i, Kind kind) { return i < items.size() && items[i]->kind == kind; };
  const auto make_from = [&](Kind kind, std::vector<Node*> parts) {
    Node* node = make(kind);
    count(parts.size());
    node->items = std::move(parts);
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
      return make_from(Kind::tuple, items[0]->items);
    }
    case Callee::device: {
      require(is(0, Kind::text));
      return items[0];
    }
    case Callee::encode: {
      require(is(0, Kind::text) && is(1, Kind::text) && items[1]->text == "latin1");
      Node* node = make(Kind::bytes);
      node->text = encode_latin1(items[0]->text);
      return node;
    }
    case Callee::empty_bytes: {
      require(items.empty());
      return make(Kind::bytes);
    }
    case Callee::tensor:
    case Callee::tensor_of_type: {
      const bool has_dtype = callee.name->callee == Callee::tensor_of_type;
      require(is(0, Kind::storage) && is(1, Kind::integer) && is(2, Kind::tuple) && is(3, Kind::tuple));
      require(!has_dtype || (is(6, Kind::name) && items[6]->name->callee == Callee::dtype));
      const std::size_t metadata = has_dtype ? 7 : 6;  // of a lazy negation or conjugation
      if (metadata < items.size() && !is(metadata, Kind::none) &&
          !(is(metadata, Kind::dict) && items[metadata]->items.empty()))
        fail("a tensor is stored negated or conjugated, save a clone() of it");
      Node* node = make_from(Kind::tensor, {items.begin(), items.begin() + 4});
      node->name = has_dtype ? items[6]->name : items[0]->name;
      return node;
    }
    case Callee::parameter: {
      require(is(0, Kind::tensor) || is(0, Kind::opaque));
      return items[0];
    }
    case Callee::typed_object: {  // items: function, class, arguments, attributes
      require(items.size() == 4 && is(2, Kind::tuple));
      const bool known = is(0, Kind::name) && items[0]->name->callee != Callee::typed_object;
      require(known || is(0, Kind::opaque));
      return call(*items[0], *items[2]);
    }
    case Callee::array: {
      require(is(0, Kind::name) && items[0]->name->callee == Callee::array_class);
      return make(Kind::array);
    }
    case Callee::array_of_buffer: {
      require(is(0, Kind::bytes) && is(1, Kind::numpy_dtype) && is(2, Kind::tuple) && is(3, Kind::text));
      return make_from(Kind::array, {items[2], items[1], items[3]->text == "F" ? true_ : false_, items[0]});
    }
    case Callee::scalar: {
      require(is(0, Kind::numpy_dtype) && (is(1, Kind::bytes) || is(1, Kind::text)));
      return make_from(Kind::array, {make(Kind::tuple), items[0], false_, items[1]});
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
  fail(fmt::format("the pickle calls {}, which is not a function", callee.name->name));
}

REFINE_INLINE void PickleCalls::build() {
  Node* state = pop();
  Node* object = top();
  const auto& items = state->items;
  const auto is = [&](std::size_t i, Kind kind) { return i < items.size() && items[i]->kind == kind; };
  if (object->kind == Kind::dict) return;  // the attributes of an OrderedDict, such as _metadata of nn.Module
  if (object->kind == Kind::opaque) {
    count(1);
    object->items.push_back(state);
    return;
  }
  if (object->kind == Kind::numpy_dtype && state->kind == Kind::tuple) {
    const bool plain = is(1, Kind::text) && is(2, Kind::none) && is(3, Kind::none) && is(4, Kind::none);
    if (!plain || (items[1]->text != "<" && items[1]->text != "|" && items[1]->text != "=")) {
      object->text = {};  // big-endian, or with several fields
    }
    return;
  }
  if (object->kind == Kind::array && state->kind == Kind::tuple) {
    const bool fortran = is(3, Kind::boolean) || is(3, Kind::integer);
    if (items.size() == 5 && is(2, Kind::numpy_dtype) && is(4, Kind::list)) {  // an array of Python objects
      static const std::string array = "numpy.ndarray";
      object->kind = Kind::opaque;
      object->text = array;
      return;
    }
    if (items.size() != 5 || !is(1, Kind::tuple) || !is(2, Kind::numpy_dtype) || !fortran ||
        !(is(4, Kind::bytes) || is(4, Kind::text))) {
      fail("a NumPy array has elements that are not numbers");
    }
    object->items = {items[1], items[2], items[3]->integer != 0 ? true_ : false_, items[4]};
    return;
  }
  fail("the pickle sets the state of an object that has none");
}

REFINE_INLINE PickleCalls::Node* PickleCalls::make_storage(const Node& id) {
  const auto& items = id.items;
  const bool has_five = items.size() == 5 || (items.size() == 6 && items[5]->kind == Kind::none);
  if (id.kind == Kind::tuple && items.size() > 1 && items[0]->text == "module") {
    fail("the file has the source of a whole module, save model.state_dict() instead");
  }
  if (id.kind != Kind::tuple || !has_five || items[0]->text != "storage" || items[1]->kind != Kind::name ||
      items[1]->name->callee != Callee::storage || items[2]->kind != Kind::text ||
      items[4]->kind != Kind::integer) {
    fail("a storage has an unknown kind of persistent id");
  }
  Node* node = make(Kind::storage);
  node->name = items[1]->name;
  node->items = {items[2], items[4]};
  storages_.push_back(node);
  return node;
}

REFINE_INLINE std::string_view PickleCalls::encode_latin1(std::string_view utf8) {
  encoded_size_ += utf8.size();
  if (encoded_size_ > max_encoded_) {
    fail(fmt::format("the pickle encodes the same text too often: {} bytes, more than the {} of the pickle",
                     encoded_size_, max_encoded_));
  }
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
    if ((next & 0xc0) != 0x80) fail("the pickle has bytes that are not written as Latin-1");
    bytes += static_cast<char>((c & 3) << 6 | (next & 0x3f));
  }
  return encoded_.emplace_back(std::move(bytes));
}

REFINE_INLINE const PickleMachine::Node& PickleMachine::run() {
  for (unsigned char code; (code = static_cast<unsigned char>(byte())) != '.';) {
    step(code);
    if (size() == frame_end_) frame_end_ = 0;
  }
  return *pop();
}

REFINE_INLINE const PickleMachine::Node& PickleMachine::run_next() {
  clear();
  decoded_.clear();
  frame_end_ = 0;
  return run();
}

REFINE_INLINE void PickleMachine::step(unsigned char code) {
  switch (code) {
    case 0x80:
      return check_protocol();
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
    case 'I': {
      const std::string_view digits = line();
      if (digits == "00" || digits == "01") return push(digits == "01" ? true_ : false_);
      return push_decimal_integer(digits);
    }
    case 'L': {
      const std::string_view digits = line();
      return push_decimal_integer(digits.substr(0, digits.size() - (digits.ends_with('L') ? 1 : 0)));
    }
    case 'F':
      return push_decimal_real();
    case 'S':
      return push_quoted_text();
    case 'V':
      return push_escaped_text();
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
      return set_items_of_top(pop_many(2));
    case 'u':
      return set_items_of_top(pop_to_mark());
    case '(':
      return mark();
    case '0':
      return drop();
    case '1':
      return void(pop_to_mark());
    case '2':
      return push(top());
    case 'q':
      return memoize(byte());
    case 'r':
      return memoize(number<std::uint32_t>());
    case 'p':
      return memoize(read_key());
    case 0x94:
      return memoize();
    case 'h':
      return recall(byte());
    case 'j':
      return recall(number<std::uint32_t>());
    case 'g':
      return recall(read_key());
    case 0x95: {  // FRAME; at a wrong frame end, stream readers would read other instructions
      const auto bytes = number<std::uint64_t>();
      if (bytes > rest_.size()) fail_truncated();
      if (frame_end_ != 0) fail("the pickle begins a frame inside a frame");
      frame_end_ = size() + static_cast<std::size_t>(bytes);
      return;
    }
    case 'c': {
      const std::string module(line());
      return push_name(module, line());
    }
    case 'i': {  // INST of protocol 0
      const std::string module(line());
      push_name(module, line());
      const Node* callee = pop();
      return push_instance(callee, pop_to_mark());
    }
    case 'o': {  // OBJ of protocol 1
      std::vector<Node*> items = pop_to_mark();
      if (items.empty()) fail("the pickle calls an object that is not a function");
      const Node* callee = items.front();
      items.erase(items.begin());
      return push_instance(callee, std::move(items));
    }
    case 'P':
      line();
      fail("a storage has an unknown kind of persistent id");
    case 0x93: {
      const Node* name = pop();
      const Node* module = pop();
      if (name->kind != Kind::text || module->kind != Kind::text) fail("the pickle is malformed");
      return push_name(module->text, name->text);
    }
    case 'R':
    case 0x81: {
      const Node* arguments = pop();
      const Node* callee = pop();
      return push(call(*callee, *arguments));
    }
    case 0x92: {  // NEWOBJ_EX, with keyword arguments
      const Node* keywords = pop();
      const Node* arguments = pop();
      const Node* callee = pop();
      if (callee->kind != Kind::opaque || keywords->kind != Kind::dict) {
        fail("the pickle calls an object that is not a function");
      }
      Node* object = call(*callee, *arguments);
      count(keywords->items.size());
      object->items.insert(object->items.end(), keywords->items.begin(), keywords->items.end());
      return push(object);
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
      return push(make_storage(*pop()));
    default:
      fail(fmt::format("the pickle has the instruction {:#04x}, which no file of weights needs", code));
  }
}

REFINE_INLINE std::string_view PickleMachine::take(std::uint64_t n) {
  if (n > rest_.size()) fail_truncated();
  if (frame_end_ != 0 && n > frame_end_ - size()) {
    fail("the pickle has an instruction that extends beyond its frame");
  }
  const std::string_view bytes = rest_.substr(0, n);
  rest_.remove_prefix(n);
  return bytes;
}

REFINE_INLINE std::string_view PickleMachine::line() {
  const std::size_t end = rest_.find('\n');
  if (end == std::string_view::npos) fail_truncated();
  const std::string_view text = take(end);
  take(1);
  return text;
}

REFINE_INLINE void PickleMachine::fail_truncated() {
  truncated_ = true;
  fail("the pickle is truncated");
}

REFINE_INLINE void PickleMachine::check_protocol() {
  if (const unsigned protocol = byte(); protocol > 5) {
    fail(fmt::format("the pickle has the unknown protocol {}", protocol));
  }
}

REFINE_INLINE void PickleMachine::push_decimal_integer(std::string_view digits) {
  if (digits.starts_with('+')) digits.remove_prefix(1);
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (digits.empty() || end != digits.data() + digits.size()) fail("the pickle is malformed");
  if (error == std::errc()) return push_integer(value);
  Node* node = make(Kind::opaque);
  node->text = large_integer;
  push(node);
}

REFINE_INLINE void PickleMachine::push_decimal_real() {
  std::string_view digits = line();
  if (digits.starts_with('+')) digits.remove_prefix(1);
  double value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (digits.empty() || end != digits.data() + digits.size() || error == std::errc::invalid_argument) {
    fail("the pickle is malformed");
  }
  Node* node = make(Kind::real);
  node->real = value;
  push(node);
}

/// Removes a number of `digits` hexadecimal digits from the front of `text`.
/// \return the number; empty if the digits are malformed
REFINE_INLINE std::optional<std::uint32_t> take_hexadecimal(std::string_view& text, std::size_t digits) {
  std::uint32_t value = 0;
  if (text.size() < digits) return std::nullopt;
  const auto [end, error] = std::from_chars(text.data(), text.data() + digits, value, 16);
  if (error != std::errc() || end != text.data() + digits) return std::nullopt;
  text.remove_prefix(digits);
  return value;
}

REFINE_INLINE void PickleMachine::push_quoted_text() {
  std::string_view rest = line();
  while (rest.ends_with('\r') || rest.ends_with(' ')) rest.remove_suffix(1);
  if (rest.size() < 2 || (rest.front() != '\'' && rest.front() != '"') || rest.back() != rest.front()) {
    fail("the pickle is malformed");
  }
  rest = rest.substr(1, rest.size() - 2);
  std::string text;
  while (!rest.empty()) {
    char c = rest.front();
    rest.remove_prefix(1);
    if (c == '\\') {
      if (rest.empty()) fail("the pickle is malformed");
      c = rest.front();
      rest.remove_prefix(1);
      constexpr std::string_view letters = "abtnvfr", controls = "\a\b\t\n\v\f\r";
      if (c == 'x') {
        const auto code = take_hexadecimal(rest, 2);
        if (!code) fail("the pickle is malformed");
        c = static_cast<char>(*code);
      } else if (c >= '0' && c <= '7') {
        int code = c - '0';
        for (int i = 0; i < 2 && !rest.empty() && rest.front() >= '0' && rest.front() <= '7'; ++i) {
          code = code * 8 + (rest.front() - '0');
          rest.remove_prefix(1);
        }
        c = static_cast<char>(code);
      } else if (const std::size_t letter = letters.find(c); letter != std::string_view::npos) {
        c = controls[letter];
      } else if (c != '\\' && c != '\'' && c != '"') {
        text += '\\';
      }
    }
    text += c;
  }
  push_decoded(std::move(text));
}

REFINE_INLINE void PickleMachine::push_escaped_text() {  // Python's raw-unicode-escape
  std::string_view rest = line();
  std::string text;
  while (!rest.empty()) {
    std::uint32_t c = static_cast<unsigned char>(rest.front());
    rest.remove_prefix(1);
    if (c == '\\' && (rest.starts_with('u') || rest.starts_with('U'))) {
      const std::size_t digits = rest.front() == 'u' ? 4 : 8;
      rest.remove_prefix(1);
      const auto code = take_hexadecimal(rest, digits);
      if (!code || *code > 0x10ffff) fail("the pickle is malformed");
      c = *code;
    }
    if (c < 0x80) {
      text += static_cast<char>(c);
    } else {
      const int continuations = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
      constexpr unsigned char lead[] = {0, 0xc0, 0xe0, 0xf0};
      text += static_cast<char>(lead[continuations] | c >> (6 * continuations));
      for (int i = continuations - 1; i >= 0; --i) text += static_cast<char>(0x80 | (c >> (6 * i) & 0x3f));
    }
  }
  push_decoded(std::move(text));
}

REFINE_INLINE std::uint64_t PickleMachine::read_key() {
  const std::string_view digits = line();
  std::uint64_t key = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), key);
  if (error != std::errc() || end != digits.data() + digits.size()) fail("the pickle is malformed");
  return key;
}

REFINE_INLINE void PickleMachine::push_decoded(std::string text) {
  Node* node = make(Kind::text);
  node->text = decoded_.emplace_back(std::move(text));
  push(node);
}

REFINE_INLINE void PickleMachine::push_instance(const Node* callee, std::vector<Node*> arguments) {
  Node* tuple = make(Kind::tuple);
  tuple->items = std::move(arguments);
  push(call(*callee, *tuple));
}

REFINE_INLINE void PickleMachine::push_integer(std::int64_t value) {
  Node* node = make(Kind::integer);
  node->integer = value;
  push(node);
}

REFINE_INLINE void PickleMachine::push_long(std::uint64_t size) {
  const std::string_view bytes = take(size);
  if (size > sizeof(std::int64_t)) {  // occurs in the state of a random generator
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

REFINE_INLINE bool Layout::is_contiguous() const {
  std::int64_t expected = 1;
  for (std::size_t i = sizes.size(); i-- > 0;) {
    if (sizes[i] != 1 && strides[i] != expected) return false;
    expected *= sizes[i];
  }
  return true;
}

REFINE_INLINE PickleBuilder::PickleBuilder(const PickleMachine& machine, const Storages& storages)
    : machine_(machine), storages_(storages) {
  max_tensor_bytes_ += machine.size() * copies_per_byte;
  max_text_bytes_ += machine.size() * copies_per_byte;
}

REFINE_INLINE Value PickleBuilder::build(const PickleNode& node, bool keep_opaque) {
  Value value = build_node(node, 0).value;
  if (const Opaque* whole = value.as_opaque(); whole && !keep_opaque) {
    if (whole->name == large_integer) fail("the file has an integer of more than 64 bits");
    machine_.refuse(whole->name);
  }
  return value;
}

REFINE_INLINE PickleBuilder::Built PickleBuilder::build_node(const PickleNode& node, int depth) {
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
      return {{std::string(spend_text(node.text))}};
    case Kind::bytes:
      return {{Bytes{std::string(spend_text(node.text))}}};
    case Kind::name: {
      if (node.name->callee == Callee::dtype) return {{std::string(node.name->name)}};
      if (depth > 0) return build_opaque(node.name->name, node);
      fail(fmt::format("the content is {}, not a value", node.name->name));
    }
    case Kind::storage:
      if (depth > 0) return build_opaque(node.name->name, node);
      fail("the content is a storage without a tensor");
    case Kind::numpy_dtype:
      if (depth > 0) return build_opaque("numpy.dtype", node);
      fail("the content is a NumPy dtype without an array");
    case Kind::opaque:
      if (node.entries == nullptr || !reaches_tensors(node)) return build_opaque(node.text, node);
      return build_node(*node.entries, depth);  // a subclass of dict
    case Kind::list:
    case Kind::tuple:
    case Kind::dict:
    case Kind::tensor:
    case Kind::array:
      break;
  }
  if (const auto found = done_.find(&node); found != done_.end()) return found->second;
  Built result;
  if (node.kind == Kind::tensor) {
    result.value = build_tensor(node);
  } else if (node.kind == Kind::array) {
    result.value = build_array(node);
  } else {
    result = build_container(node, depth);
  }
  return done_.emplace(&node, std::move(result)).first->second;
}

REFINE_INLINE PickleBuilder::Built PickleBuilder::build_container(const PickleNode& node, int depth) {
  if (depth == max_depth) {
    fail(fmt::format("the content is nested deeper than {} levels or contains itself", max_depth));
  }
  Built result;
  List items;
  items.reserve(node.items.size());
  for (const PickleNode* item : node.items) {
    Built part = build_node(*item, depth + 1);
    result.weight += part.weight;
    if (result.weight > max_weight) {
      fail(fmt::format("the content repeats the same objects too often: {} values, more than the {} allowed",
                       result.weight, max_weight));
    }
    items.push_back(std::move(part.value));
  }
  if (node.kind == Kind::list) {
    result.value.content = std::make_shared<const List>(std::move(items));
  } else if (node.kind == Kind::tuple) {
    result.value.content = std::make_shared<const Tuple>(Tuple{std::move(items)});
  } else {
    result.value.content = std::make_shared<const Dict>(build_dict(items));
  }
  return result;
}

REFINE_INLINE PickleBuilder::Built PickleBuilder::build_opaque(std::string_view name,
                                                               const PickleNode& node) {
  Opaque object{.name = std::string(spend_text(name))};
  object.is_tensor = name.starts_with("torch._utils._rebuild_");
  object.has_tensors = object.is_tensor || reaches_tensors(node);
  Built result;
  result.value.content = std::move(object);
  return result;
}

// An iterative walk: the depth is not bounded.
REFINE_INLINE bool PickleBuilder::reaches_tensors(const PickleNode& node) {
  std::set<const PickleNode*> seen = {&node};
  for (std::vector<const PickleNode*> open = {&node}; !open.empty();) {
    const PickleNode* next = open.back();
    open.pop_back();
    if (next->kind == Kind::tensor || next->kind == Kind::storage) return true;
    const std::size_t visits = 1 + next->items.size();
    if (visits_left_ < visits) return true;
    visits_left_ -= visits;
    for (const PickleNode* item : next->items) {
      if (seen.insert(item).second) open.push_back(item);
    }
    if (next->entries != nullptr && seen.insert(next->entries).second) open.push_back(next->entries);
  }
  return false;
}

REFINE_INLINE Dict PickleBuilder::build_dict(List& items) const {
  Dict result;
  std::set<std::string_view> keys;
  result.reserve(items.size() / 2);
  for (std::size_t i = 0; i + 1 < items.size(); i += 2) {
    result.emplace_back(std::move(items[i]), std::move(items[i + 1]));
    const std::string* key = result.back().first.as_text();
    if (key && !keys.insert(*key).second) {
      fail(fmt::format("a dict has the duplicate key '{}'", shorten(*key)));
    }
  }
  return result;
}

REFINE_INLINE std::vector<std::int64_t> PickleBuilder::read_extents(const PickleNode& tuple) const {
  constexpr std::size_t max_dims = 64;  // the limit of LibTorch
  if (tuple.items.size() > max_dims) {
    fail(fmt::format("a tensor has {} dimensions, more than the {} allowed", tuple.items.size(), max_dims));
  }
  std::vector<std::int64_t> result;
  for (const PickleNode* item : tuple.items) {
    if (item->kind != Kind::integer || item->integer < 0) {
      fail("a tensor has a size or a stride that is not a natural number");
    }
    result.push_back(item->integer);
  }
  return result;
}

REFINE_INLINE Value PickleBuilder::build_tensor(const PickleNode& node) {
  const PickleNode& storage = *node.items[0];
  const std::string_view key = storage.items[0]->text;
  const std::optional<std::string_view> data = storages_ ? storages_(key) : std::nullopt;
  if (!data) fail(fmt::format("the file has no storage '{}'", shorten(key)));
  const std::int64_t claimed = storage.items[1]->integer;
  std::int64_t bytes = 0;
  if (claimed < 0 ||
      __builtin_mul_overflow(claimed, std::int64_t(c10::elementSize(storage.name->type)), &bytes) ||
      static_cast<std::uint64_t>(bytes) > data->size()) {
    fail(
        fmt::format("storage '{}' claims {} elements but has {} bytes", shorten(key), claimed, data->size()));
  }
  if (counted_storages_.insert(std::string(key)).second) {
    max_tensor_bytes_ += data->size() * copies_per_byte;
  }
  Layout layout{.sizes = read_extents(*node.items[2]),
                .strides = read_extents(*node.items[3]),
                .offset = node.items[1]->integer};
  if (layout.sizes.size() != layout.strides.size() || layout.offset < 0) {
    fail("a tensor has a negative offset, or a different number of strides and sizes");
  }
  if (!is_readable(node.name->type)) {
    return {Opaque{.name = std::string(node.name->name), .is_tensor = true, .has_tensors = true}};
  }
  return {copy_tensor(data->substr(0, static_cast<std::size_t>(bytes)), node.name->type, layout)};
}

REFINE_INLINE Value PickleBuilder::build_array(const PickleNode& node) {
  if (node.items.empty()) fail("a NumPy array has no content");
  const auto type = std::ranges::find(numpy_types, node.items[1]->text, &NumpyType::name);
  if (type == numpy_types.end()) return {Opaque{.name = "numpy.ndarray"}};  // texts, dates, uint32, …
  Layout layout{.sizes = read_extents(*node.items[0])};
  layout.strides.resize(layout.sizes.size());
  std::int64_t stride = 1;
  for (std::size_t i = 0; i < layout.sizes.size(); ++i) {
    const std::size_t axis = node.items[2]->integer != 0 ? i : layout.sizes.size() - 1 - i;
    layout.strides[axis] = stride;
    if (__builtin_mul_overflow(stride, std::max<std::int64_t>(layout.sizes[axis], 1), &stride)) {
      fail("a tensor claims more bytes than its storage has");
    }
  }
  return {copy_tensor(node.items[3]->text, type->type, layout)};
}

REFINE_INLINE at::Tensor PickleBuilder::copy_tensor(std::string_view data, at::ScalarType type,
                                                    const Layout& layout) {
  const std::int64_t width = static_cast<std::int64_t>(c10::elementSize(type));
  const auto too_large = [&] { fail("a tensor claims more bytes than its storage has"); };
  // Bytes without the extents of 0: strides are products of the others and must not overflow.
  std::int64_t span = width;
  std::int64_t last = layout.offset;  // the index of the last element
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
  const auto available = static_cast<std::int64_t>(data.size()) / width;
  if (last >= available) too_large();
  // The elements are copied first, because the bytes of the file need not be aligned.
  const char* from = data.data() + layout.offset * width;
  const bool contiguous = layout.is_contiguous();
  const std::int64_t reached = last - layout.offset + 1;
  spend_tensor_bytes(static_cast<std::uint64_t>(span));
  if (!contiguous) spend_tensor_bytes(static_cast<std::uint64_t>(reached * width));
  at::Tensor elements = contiguous ? at::empty(layout.sizes, type) : at::empty({reached}, type);
  std::memcpy(elements.mutable_data_ptr(), from, elements.nbytes());
  if (type == at::kBool &&
      std::any_of(from, from + elements.nbytes(), [](char c) { return c != 0 && c != 1; })) {
    fail("a boolean tensor has values other than 0 and 1");
  }
  return contiguous
             ? elements
             : at::as_strided(elements, layout.sizes, layout.strides).clone(at::MemoryFormat::Contiguous);
}

REFINE_INLINE void PickleBuilder::spend_tensor_bytes(std::uint64_t bytes) {
  if (bytes > max_tensor_bytes_ - tensor_bytes_) {
    fail(fmt::format(
        "its tensors repeat the same elements and need far more memory than the file has bytes: {} "
        "bytes, more than the {} allowed",
        tensor_bytes_ + bytes, max_tensor_bytes_));
  }
  tensor_bytes_ += bytes;
}

REFINE_INLINE std::string_view PickleBuilder::spend_text(std::string_view text) {
  text_bytes_ += text.size();
  if (text_bytes_ > max_text_bytes_) {
    fail(fmt::format("the content repeats the same text too often: {} bytes, more than the {} allowed",
                     text_bytes_, max_text_bytes_));
  }
  return text;
}

}  // namespace refine::formats::detail
