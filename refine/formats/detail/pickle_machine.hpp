#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <refine/formats/detail/pickle_value.hpp>

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

/// What a pickle may ask to be called. Nothing is: each known name is a case here, and any other makes an
/// opaque object, which has a name and is never more than that.
class PickleCalls : public PickleStack {
 public:
  /// \param most_encoded the bytes that texts may have which the pickle asks to encode, together
  PickleCalls(const std::filesystem::path& path, std::uint64_t most_encoded)
      : PickleStack(path), most_encoded_(most_encoded) {}

  /// All storages that the pickle names: `name` has the type; items: key, number of elements.
  const std::vector<const Node*>& storages() const { return storages_; }

 protected:
  void push_name(std::string_view module, std::string_view name);

  Node* call(const Node& callee, const Node& arguments);

  /// `object.__setstate__`, for those that need no code for it; of an opaque object the state is kept.
  void build();

  /// What a persistent id stands for.
  Node* storage(const Node& id);

 private:
  /// UTF-8 of characters up to U+00FF → one byte each. All that is made so is no longer than the pickle,
  /// since a file that says a text once and encodes it often would otherwise take any memory.
  std::string_view latin1(std::string_view utf8);

  const std::uint64_t most_encoded_;
  std::uint64_t encoded_size_ = 0;
  std::deque<std::string> encoded_;
  std::vector<const Node*> storages_;
};

/// Runs a pickle (protocols 2 to 5) on a stack of its own, and calls nothing.
class PickleMachine : public PickleCalls {
 public:
  /// \param path where it comes from, for messages
  /// \param bytes begin with the pickle; must outlive the machine
  PickleMachine(const std::filesystem::path& path, std::string_view bytes)
      : PickleCalls(path, bytes.size()), rest_(bytes), all_(bytes.size()) {}

  /// What the pickle builds. Nothing of it was checked but that it is well-formed.
  const Node& run();

  /// What follows the pickle.
  std::string_view rest() const { return rest_; }
  std::size_t size() const { return all_ - rest_.size(); }

 private:
  void step(unsigned char code);

  std::string_view take(std::uint64_t n);
  template <typename Number>
  Number number() {
    Number value = 0;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }
  unsigned byte() { return number<std::uint8_t>(); }
  std::string_view line();

  void push_integer(std::int64_t value);
  void push_long(std::uint64_t size);
  void push_real();
  void push_text(Kind kind, std::uint64_t size);
  Node* make_pushed(Kind kind, std::vector<Node*> items);
  void push_collection(Kind kind, std::vector<Node*> items) { make_pushed(kind, std::move(items)); }

  std::string_view rest_;
  const std::size_t all_;
};

}  // namespace refine::formats::detail

namespace refine::formats {

/// The bytes of the storage of that key; none when the file lacks it. They must outlive the reading.
using Storages = std::function<std::optional<std::string_view>(std::string_view key)>;

namespace detail {

/// Sizes and strides that a file claims, in elements.
struct Layout {
  std::vector<std::int64_t> sizes = {}, strides = {};
  std::int64_t offset = 0;

  bool contiguous() const;
};

/// Makes values of what a `PickleMachine` has; nothing that a tensor claims is believed before it was
/// compared with the bytes that are there.
class PickleBuilder {
 public:
  PickleBuilder(const PickleMachine& machine, const Storages& storages);

  /// \param keep_opaque whether the whole may be one opaque object; else it is refused by its name
  Value build(const PickleNode& node, bool keep_opaque = false);

 private:
  using Kind = PickleNode::Kind;
  struct Built {
    Value value;
    std::uint64_t weight = 1;  // how much is under it, what is shared counted as often as it is named
  };

  // What is shared or expanded takes a little of the file and much of the memory, so there is a limit.
  static constexpr std::uint64_t copies = 16, most_weight = 10'000'000;
  static constexpr int deepest = 64;

  Built built(const PickleNode& node, int depth);

  Built container(const PickleNode& node, int depth);

  /// Refuses a text that is a key twice: two readers would take two values.
  Dict dict(List& items) const;

  Built opaque(std::string_view name, const PickleNode& node);

  bool reaches_tensors(const PickleNode& node);

  std::vector<std::int64_t> extents(const PickleNode& tuple) const;

  Value tensor(const PickleNode& node);

  Value array(const PickleNode& node);

  /// The numbers that `layout` takes from `data`, in memory of their own, contiguous.
  at::Tensor copied(std::string_view data, at::ScalarType type, const Layout& layout);

  void spend(std::uint64_t bytes);
  std::string_view counted(std::string_view text);

  [[noreturn]] void fail(std::string_view why) const { machine_.fail(why); }

  const PickleMachine& machine_;
  const Storages& storages_;
  std::size_t visits_left_ = 1'000'000;  // of `reaches_tensors`
  std::uint64_t tensor_budget_ = std::uint64_t{64} << 20, text_budget_ = std::uint64_t{1} << 20;
  std::set<std::string> counted_storages_;
  std::map<const PickleNode*, Built> done_;
};

}  // namespace detail

/// Reads a Python pickle of protocol 2 to 5 as data: nothing that it names is looked up or called. What an
/// unknown name would make comes as `Opaque`; it must not be the whole. Else it holds what `Value` says; torch.Tensor, nn.Parameter and NumPy arrays of little-endian numbers (bool, 8 to
/// 64 bits, signed or uint8) come as contiguous tensors on the host with memory of their own, an OrderedDict
/// as a dict without its attributes, torch.Size as a tuple, torch.device and a dtype as text.
///
/// Limits: 5,000,000 objects, nesting of 64, and for all tensors together 64 MiB plus 16 times the bytes of
/// the storages and the pickle, so that views and expanded tensors can't ask for any amount of memory.
///
/// \param bytes begin with the pickle; what follows it is not looked at
/// \param path where it comes from, for messages
/// \param storages the bytes of tensors, by key, when the pickle has tensors
/// \throws Error naming the file, when the pickle is cut or malformed, is an opaque object as a whole (whose
/// name the message has), contains itself, or has a tensor that reaches beyond its storage
inline Value read_pickle(std::string_view bytes, const std::filesystem::path& path,
                         const Storages& storages = {}) {
  detail::PickleMachine machine(path, bytes);
  return detail::PickleBuilder(machine, storages).build(machine.run());
}

}  // namespace refine::formats

#if !defined(REFINE_COMPILED_LIB)
#include <refine/formats/impl/pickle_machine.ipp>
#endif
