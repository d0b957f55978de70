#pragma once

// What pickle_machine.hpp declares.

#include <refine/formats/pickle_machine.hpp>

#include <fmt/core.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <refine/core/compiled.hpp>

namespace refine::formats::detail {

REFINE_DEFINITION const PickleMachine::Node& PickleMachine::run() {
  if (take(1) != "\x80") fail("it is no pickle of protocol 2 or newer");
  if (const unsigned protocol = byte(); protocol < 2 || protocol > 5) {
    fail(fmt::format("its pickle has the unknown protocol {}", protocol));
  }
  for (unsigned char code; (code = static_cast<unsigned char>(byte())) != '.';) step(code);
  return *pop();
}

REFINE_DEFINITION void PickleMachine::step(unsigned char code) {
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
      if (callee->kind != Kind::opaque || named->kind != Kind::dict) fail("its pickle calls what is no function");
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

REFINE_DEFINITION std::string_view PickleMachine::take(std::uint64_t n) {
  if (n > rest_.size()) fail("its pickle is cut");
  const std::string_view bytes = rest_.substr(0, n);
  rest_.remove_prefix(n);
  return bytes;
}

REFINE_DEFINITION std::string_view PickleMachine::line() {
  const std::size_t end = rest_.find('\n');
  if (end == std::string_view::npos) fail("its pickle is cut");
  const std::string_view text = take(end);
  take(1);
  return text;
}

REFINE_DEFINITION void PickleMachine::push_integer(std::int64_t value) {
  Node* node = make(Kind::integer);
  node->integer = value;
  push(node);
}

REFINE_DEFINITION void PickleMachine::push_long(std::uint64_t size) {
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

REFINE_DEFINITION void PickleMachine::push_real() {
  std::uint64_t bits = 0;
  for (const char c : take(sizeof bits)) bits = bits << 8 | static_cast<unsigned char>(c);
  Node* node = make(Kind::real);
  node->real = std::bit_cast<double>(bits);
  push(node);
}

REFINE_DEFINITION void PickleMachine::push_text(Kind kind, std::uint64_t size) {
  Node* node = make(kind);
  node->text = take(size);
  push(node);
}

REFINE_DEFINITION PickleMachine::Node* PickleMachine::make_pushed(Kind kind, std::vector<Node*> items) {
  Node* node = make(kind);
  node->items = std::move(items);
  push(node);
  return node;
}

}  // namespace refine::formats::detail
