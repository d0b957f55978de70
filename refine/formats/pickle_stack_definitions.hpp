#pragma once

// What pickle_stack.hpp declares.

#include <refine/formats/pickle_stack.hpp>

#include <fmt/core.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <refine/core/compiled.hpp>
#include <refine/core/error.hpp>
#include <refine/formats/objection.hpp>
#include <refine/formats/pickle_names.hpp>
#include <refine/formats/zip_directory.hpp>

namespace refine::formats::detail {

REFINE_DEFINITION void PickleStack::fail(std::string_view why) const {
  // Python runs a pickle as it reads it: that the rest is broken does not make it harmless.
  for (const std::string& name : unknown_names_) {
    if (runs_programs(name)) refuse(name);
  }
  throw Error("cannot load {}: {}; the file is damaged or hostile, get it again from whom you trust",
              path_.string(), why);
}

REFINE_DEFINITION void PickleStack::refuse(std::string_view name) const {
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

REFINE_DEFINITION PickleStack::Node* PickleStack::make(Kind kind) {
  if (nodes_.size() >= most_objects) fail(fmt::format("its pickle has more than {} objects", most_objects));
  nodes_.push_back({.kind = kind});
  return &nodes_.back();
}

REFINE_DEFINITION void PickleStack::push(Node* node) {
  if (stack_.size() >= deepest_stack) fail("its pickle's stack is too deep");
  stack_.push_back(node);
}

REFINE_DEFINITION PickleStack::Node* PickleStack::top() const {
  if (stack_.size() <= floor()) fail("its pickle takes more than it gave");
  return stack_.back();
}

REFINE_DEFINITION PickleStack::Node* PickleStack::pop() {
  Node* node = top();
  stack_.pop_back();
  return node;
}

REFINE_DEFINITION std::vector<PickleStack::Node*> PickleStack::pop_many(std::size_t n) {
  if (stack_.size() - floor() < n) fail("its pickle takes more than it gave");
  std::vector<Node*> items(stack_.end() - static_cast<std::ptrdiff_t>(n), stack_.end());
  stack_.resize(stack_.size() - n);
  return items;
}

REFINE_DEFINITION void PickleStack::mark() {
  if (marks_.size() >= deepest_stack) fail("its pickle's stack is too deep");
  marks_.push_back(stack_.size());
}

REFINE_DEFINITION std::vector<PickleStack::Node*> PickleStack::pop_to_mark() {
  if (marks_.empty()) fail("its pickle lacks a mark");
  auto items = pop_many(stack_.size() - floor());
  marks_.pop_back();
  return items;
}

REFINE_DEFINITION void PickleStack::drop() {
  if (!marks_.empty() && stack_.size() == floor()) {
    marks_.pop_back();
  } else {
    pop();
  }
}

REFINE_DEFINITION void PickleStack::remember(std::uint64_t key) {
  if (memo_.size() >= most_objects) fail("its pickle remembers too much");
  memo_[key] = top();
}

REFINE_DEFINITION void PickleStack::recall(std::uint64_t key) {
  const auto at = memo_.find(key);
  if (at == memo_.end()) fail("its pickle recalls what it never had");
  push(at->second);
}

REFINE_DEFINITION void PickleStack::count(std::size_t references) {
  references_ += references;
  if (references_ > most_references) fail("its pickle copies the same things over and over");
}

REFINE_DEFINITION void PickleStack::append(const std::vector<Node*>& items) {
  Node* list = top();
  if (list->kind != Kind::list && list->kind != Kind::opaque) fail("its pickle appends to what is no list");
  count(items.size());
  list->items.insert(list->items.end(), items.begin(), items.end());
}

REFINE_DEFINITION void PickleStack::set_items(Node* dict, const std::vector<Node*>& items) {
  if (dict->kind == Kind::opaque) {
    if (dict->entries == nullptr) dict->entries = make(Kind::dict);
    dict = dict->entries;
  }
  if (dict->kind != Kind::dict) fail("its pickle sets an item of what is no dict");
  count(items.size());
  dict->items.insert(dict->items.end(), items.begin(), items.end());
  if (dict->items.size() % 2 != 0) fail("its pickle has a key without a value");
}

REFINE_DEFINITION PickleStack::Node* PickleStack::make_opaque(const std::string& name,
                                                              std::vector<Node*> items) {
  Node* node = make(Kind::opaque);
  node->text = *unknown_names_.insert(name).first;
  count(items.size());
  node->items = std::move(items);
  return node;
}

REFINE_DEFINITION PickleStack::Node* PickleStack::boolean(std::int64_t value) {
  Node* node = make(Kind::boolean);
  node->integer = value;
  return node;
}

}  // namespace refine::formats::detail
