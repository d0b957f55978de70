#pragma once

#include <refine/core/error.hpp>
#include <refine/formats/pickle_names.hpp>
#include <refine/formats/zip_directory.hpp>

#include <fmt/core.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <map>
#include <string_view>
#include <utility>
#include <vector>

namespace refine::formats::detail {

/// Something that a pickle built, or is about to: no tensor yet, only what was said of it.
struct PickleNode {
  enum class Kind {
    none,
    boolean,
    integer,
    real,
    text,
    bytes,
    list,
    tuple,
    dict,         // items: key, value, key, value
    name,         // `name`
    storage,      // `name`; items: key, number of elements
    tensor,       // items: the arguments of _rebuild_tensor
    array,        // items: once built, shape, dtype, whether Fortran's order, bytes
    numpy_dtype,  // text: "f4"
  };
  Kind kind = Kind::none;
  std::int64_t integer = 0;
  double real = 0;
  std::string_view text = {};  // of the pickle itself, or of the machine's own copies
  const PickleName* name = nullptr;
  std::vector<PickleNode*> items = {};
};

/// Where a pickle puts its things, with limits. All nodes live as long as the stack, so what refers to itself
/// does no harm here; `PickleBuilder` refuses it.
class PickleStack {
 public:
  using Node = PickleNode;
  using Kind = PickleNode::Kind;

  /// \param path where the pickle comes from, for messages
  explicit PickleStack(const std::filesystem::path& path) : path_(path) {}
  PickleStack(const PickleStack&) = delete;

  [[noreturn]] void fail(std::string_view why) const {
    throw Error("cannot load {}: {}; the file is damaged or hostile, get it again from whom you trust",
                path_.string(), why);
  }
  [[noreturn]] void refuse(std::string_view name) const {
    throw Error(
        "cannot load {}: it asks for {}, which is no tensor and no container, and could be any program; "
        "save plain tensors, as model.state_dict() has them",
        path_.string(), shown(name));
  }

 protected:
  static constexpr std::size_t most_objects = 1'000'000, most_references = 4 * most_objects;

  /// Nothing but the instruction that looks for a mark goes below it.
  std::size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }
  Node* make(Kind kind) {
    if (nodes_.size() >= most_objects) fail(fmt::format("its pickle has more than {} objects", most_objects));
    nodes_.push_back({.kind = kind});
    return &nodes_.back();
  }
  void push(Node* node) {
    if (stack_.size() >= most_objects) fail("its pickle's stack is too deep");
    stack_.push_back(node);
  }
  Node* top() const {
    if (stack_.size() <= floor()) fail("its pickle takes more than it gave");
    return stack_.back();
  }
  Node* pop() {
    Node* node = top();
    stack_.pop_back();
    return node;
  }
  std::vector<Node*> pop_many(std::size_t n) {
    if (stack_.size() - floor() < n) fail("its pickle takes more than it gave");
    std::vector<Node*> items(stack_.end() - static_cast<std::ptrdiff_t>(n), stack_.end());
    stack_.resize(stack_.size() - n);
    return items;
  }
  void mark() {
    if (marks_.size() >= most_objects) fail("its pickle's stack is too deep");
    marks_.push_back(stack_.size());
  }
  std::vector<Node*> pop_to_mark() {
    if (marks_.empty()) fail("its pickle lacks a mark");
    auto items = pop_many(stack_.size() - floor());
    marks_.pop_back();
    return items;
  }
  void drop() {
    if (!marks_.empty() && stack_.size() == floor()) {
      marks_.pop_back();
    } else {
      pop();
    }
  }
  void remember(std::uint64_t key) {
    if (memo_.size() >= most_objects) fail("its pickle remembers too much");
    memo_[key] = top();
  }
  void remember() { remember(memo_.size()); }
  void recall(std::uint64_t key) {
    const auto at = memo_.find(key);
    if (at == memo_.end()) fail("its pickle recalls what it never had");
    push(at->second);
  }

  /// A few bytes can ask to copy a long list again and again.
  void count(std::size_t references) {
    references_ += references;
    if (references_ > most_references) fail("its pickle copies the same things over and over");
  }
  void append(const std::vector<Node*>& items) {
    Node* list = top();
    if (list->kind != Kind::list) fail("its pickle appends to what is no list");
    count(items.size());
    list->items.insert(list->items.end(), items.begin(), items.end());
  }
  void set_items(Node* dict, const std::vector<Node*>& items) {
    if (dict->kind != Kind::dict) fail("its pickle sets an item of what is no dict");
    count(items.size());
    dict->items.insert(dict->items.end(), items.begin(), items.end());
    if (dict->items.size() % 2 != 0) fail("its pickle has a key without a value");
  }
  void set_items_below(const std::vector<Node*>& items) { set_items(top(), items); }

 private:
  Node* boolean(std::int64_t value) {
    Node* node = make(Kind::boolean);
    node->integer = value;
    return node;
  }

  const std::filesystem::path path_;
  std::deque<Node> nodes_;
  std::uint64_t references_ = 0;
  std::vector<Node*> stack_;
  std::vector<std::size_t> marks_;
  std::map<std::uint64_t, Node*> memo_;

 protected:
  Node* const none_ = make(Kind::none);
  Node* const true_ = boolean(1);
  Node* const false_ = boolean(0);
};

}  // namespace refine::formats::detail
