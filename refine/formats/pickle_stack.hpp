#pragma once

#include <refine/formats/pickle_names.hpp>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <string_view>
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
    numpy_dtype,  // text: "f4"; empty where it is none that a tensor has
    opaque,       // text: the class, or the function that would make it; items: what it would be made of
  };
  Kind kind = Kind::none;
  std::int64_t integer = 0;
  double real = 0;
  std::string_view text = {};  // of the pickle itself, or of the machine's own copies
  const PickleName* name = nullptr;
  PickleNode* entries = nullptr;  // of an opaque object: a dict of the items that were set
  std::vector<PickleNode*> items = {};
};

/// What stands for an integer of more than 64 bits, which is as opaque as an unknown class.
inline constexpr std::string_view large_integer = "int";

/// Where a pickle puts its things, with limits. All nodes live as long as the stack, so what refers to itself
/// does no harm here; `PickleBuilder` refuses it.
class PickleStack {
 public:
  using Node = PickleNode;
  using Kind = PickleNode::Kind;

  /// \param path where the pickle comes from, for messages
  explicit PickleStack(const std::filesystem::path& path) : path_(path) {}
  PickleStack(const PickleStack&) = delete;

  /// Every name that the pickle asks for and this reader does not know; none is looked up or called.
  const std::set<std::string>& unknown_names() const { return unknown_names_; }

  [[noreturn]] void fail(std::string_view why) const;
  [[noreturn]] void refuse(std::string_view name) const;

 protected:
  // A checkpoint with a record of every image of its data set has some millions.
  static constexpr std::size_t most_objects = 5'000'000, most_references = 4 * most_objects;
  static constexpr std::size_t deepest_stack = 1'000'000;

  /// Nothing but the instruction that looks for a mark goes below it.
  std::size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }
  Node* make(Kind kind);
  void push(Node* node);
  Node* top() const;
  Node* pop();
  std::vector<Node*> pop_many(std::size_t n);
  void mark();
  std::vector<Node*> pop_to_mark();
  void drop();
  void remember(std::uint64_t key);
  void remember() { remember(memo_.size()); }
  void recall(std::uint64_t key);

  /// A few bytes can ask to copy a long list again and again.
  void count(std::size_t references);
  void append(const std::vector<Node*>& items);
  void set_items(Node* dict, const std::vector<Node*>& items);
  Node* make_opaque(const std::string& name, std::vector<Node*> items = {});
  void set_items_below(const std::vector<Node*>& items) { set_items(top(), items); }

 private:
  Node* boolean(std::int64_t value);

  const std::filesystem::path path_;
  std::set<std::string> unknown_names_;
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

#if !defined(REFINE_COMPILED)
#include <refine/formats/pickle_stack_definitions.hpp>
#endif
