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

#include <refine/formats/detail/pickle_names.hpp>
#include <refine/formats/value.hpp>

namespace refine::formats {

/// Returns the bytes of the storage with this key; empty if the file lacks it. The bytes must
/// outlive the reading.
using Storages = std::function<std::optional<std::string_view>(std::string_view key)>;

}  // namespace refine::formats

namespace refine::formats::detail {

/// An object that a pickle describes. A tensor is only a description here: nothing is allocated
/// yet.
struct PickleNode {
  /// What the node is.
  enum class Kind {
    none,         ///< None
    boolean,      ///< `integer` is 0 or 1
    integer,      ///< `integer`
    real,         ///< `real`
    text,         ///< `text` in UTF-8
    bytes,        ///< `text`
    list,         ///< `items`
    tuple,        ///< `items`
    dict,         ///< `items`: key, value, key, value, …
    name,         ///< `name`
    storage,      ///< `name`; items: key, number of elements
    tensor,       ///< `name` has the dtype; items: the arguments of `_rebuild_tensor`
    array,        ///< items, once built: shape, dtype, whether in Fortran order, bytes
    numpy_dtype,  ///< `text`: "f4"; empty for a dtype that PyTorch lacks
    opaque,       ///< `text`: the class, or the function that would build it; items: its arguments and state
  };

  Kind kind = Kind::none;               ///< the kind
  std::int64_t integer = 0;             ///< an integer or bool
  double real = 0;                      ///< a float
  std::string_view text = {};           ///< part of the pickle, or of the machine's copies
  const PickleName* name = nullptr;     ///< a known name
  PickleNode* entries = nullptr;        ///< of an opaque object: a dict of the items that were set
  std::vector<PickleNode*> items = {};  ///< the parts
};

/// The name of the opaque object that stands for an integer of more than 64 bits.
inline constexpr std::string_view large_integer = "int";

/// Throws the ProgramError for a file that names a function which runs programs.
/// \param path the file
/// \param name the function
/// \throws ProgramError always
[[noreturn]] void refuse_program(const std::filesystem::path& path, std::string_view name);

/// The stack and the memo of a pickle, with limits. All nodes live as long as the stack, so a node
/// may contain itself here; `PickleBuilder` refuses it.
class PickleStack {
 public:
  using Node = PickleNode;        ///< shorthand
  using Kind = PickleNode::Kind;  ///< shorthand

  /// \param path where the pickle comes from, for messages
  explicit PickleStack(const std::filesystem::path& path) : path_(path) {}
  PickleStack(const PickleStack&) = delete;

  /// Returns the names that the pickle uses and the reader does not know. None is looked up or
  /// called.
  const std::set<std::string>& unknown_names() const { return unknown_names_; }

  /// Throws the Error for a damaged pickle.
  /// \param why a clause that names the problem
  /// \throws ProgramError if the pickle has named a function that runs programs, else Error
  [[noreturn]] void fail(std::string_view why) const;

  /// Throws the Error for a pickle that needs an unknown name.
  /// \throws ProgramError if `name` runs programs, else Error
  [[noreturn]] void refuse(std::string_view name) const;

 protected:
  /// Forgets all objects and names. The limits on copies hold for all pickles together.
  void clear();

  // A checkpoint that records every image of its dataset has some millions of objects.
  static constexpr std::size_t max_objects = 5'000'000, max_references = 4 * max_objects;
  static constexpr std::size_t max_stack = 1'000'000;
  static constexpr std::size_t constants = 3;  // None, True and False, which every pickle has

  /// Returns the height of the topmost mark. Only the instructions that look for a mark go below
  /// it.
  std::size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }
  Node* make(Kind kind);
  void push(Node* node);
  Node* top() const;
  Node* pop();
  std::vector<Node*> pop_many(std::size_t n);
  void mark();
  std::vector<Node*> pop_to_mark();
  void drop();
  void memoize(std::uint64_t key);
  void memoize() { memoize(memo_.size()); }
  void recall(std::uint64_t key);

  /// Limits the references in all containers: a few bytes can copy a long list again and again.
  void count(std::size_t references);
  void append(const std::vector<Node*>& items);
  void set_items(Node* dict, const std::vector<Node*>& items);
  Node* make_opaque(const std::string& name, std::vector<Node*> items = {});
  void set_items_of_top(const std::vector<Node*>& items) { set_items(top(), items); }

 private:
  Node* make_boolean(std::int64_t value);

  const std::filesystem::path path_;
  std::set<std::string> unknown_names_;
  std::deque<Node> nodes_;
  std::uint64_t references_ = 0;
  std::vector<Node*> stack_;
  std::vector<std::size_t> marks_;
  std::map<std::uint64_t, Node*> memo_;

 protected:
  Node* const none_ = make(Kind::none);
  Node* const true_ = make_boolean(1);
  Node* const false_ = make_boolean(0);
};

/// The calls that a pickle asks for. Nothing is called: each known name is a case here, and any
/// other name makes an opaque object, which consists of that name and its arguments.
class PickleCalls : public PickleStack {
 public:
  /// \param path where the pickle comes from, for messages
  /// \param max_encoded total bytes of text that the pickle may ask to encode
  PickleCalls(const std::filesystem::path& path, std::uint64_t max_encoded)
      : PickleStack(path), max_encoded_(max_encoded) {}

  /// Returns all storages that the pickle names: `name` has the dtype; items: key, number of
  /// elements.
  const std::vector<const Node*>& storages() const { return storages_; }

 protected:
  void clear();

  /// Pushes what a name stands for. Longer names than Python code has are refused: they would be copied for each use.
  void push_name(std::string_view module, std::string_view name);

  Node* call(const Node& callee, const Node& arguments);

  /// Performs `object.__setstate__` for objects that need no code for it. Of an opaque object, the
  /// state is kept as an item.
  void build();

  /// Returns the storage that a persistent id names.
  Node* make_storage(const Node& id);

 private:
  /// Encodes UTF-8 with characters up to U+00FF as one byte each. The total is limited by the size
  /// of the pickle: a file that stores a text once and encodes it often could otherwise allocate
  /// any amount.
  std::string_view encode_latin1(std::string_view utf8);

  const std::uint64_t max_encoded_;
  std::uint64_t encoded_size_ = 0;
  std::deque<std::string> encoded_;
  std::vector<const Node*> storages_;
};

/// Interprets a pickle of protocol 0 to 5 and calls nothing.
class PickleMachine : public PickleCalls {
 public:
  /// \param path where the pickle comes from, for messages
  /// \param bytes begin with the pickle; must outlive the machine
  PickleMachine(const std::filesystem::path& path, std::string_view bytes)
      : PickleCalls(path, bytes.size()), rest_(bytes), total_size_(bytes.size()) {}

  /// Interprets the pickle.
  /// \return what it describes; only its form has been checked
  /// \throws Error if the pickle is malformed
  const Node& run();

  /// Interprets the pickle after the last one, which is forgotten. Another machine would take longer.
  /// \throws Error as `run`
  const Node& run_next();

  /// Returns the bytes after the pickle.
  std::string_view rest() const { return rest_; }

  /// Returns the size of the pickle in bytes.
  std::size_t size() const { return total_size_ - rest_.size(); }

  /// Returns true if the pickle was refused because the bytes end in the middle of it.
  bool is_truncated() const { return truncated_; }

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
  [[noreturn]] void fail_truncated();

  void check_protocol();

  // Instructions of protocol 0, whose arguments are lines of text.
  void push_decimal_integer(std::string_view digits);
  void push_decimal_real();
  void push_quoted_text();
  void push_escaped_text();
  std::uint64_t read_key();
  void push_decoded(std::string text);

  /// Pushes the result of a call, for the instructions INST and OBJ.
  void push_instance(const Node* callee, std::vector<Node*> arguments);

  void push_integer(std::int64_t value);
  void push_long(std::uint64_t size);
  void push_real();
  void push_text(Kind kind, std::uint64_t size);
  Node* make_pushed(Kind kind, std::vector<Node*> items);
  void push_collection(Kind kind, std::vector<Node*> items) { make_pushed(kind, std::move(items)); }

  std::string_view rest_;
  const std::size_t total_size_;
  std::size_t frame_end_ = 0;  // of the current frame; 0 outside a frame
  bool truncated_ = false;
  std::deque<std::string> decoded_;  // texts with escapes; together no longer than the pickle
};

/// Sizes and strides that a file claims, in elements.
struct Layout {
  std::vector<std::int64_t> sizes = {};    ///< extent of each dimension
  std::vector<std::int64_t> strides = {};  ///< stride of each dimension
  std::int64_t offset = 0;                 ///< index of the first element in the storage

  /// Returns true if the elements lie in row-major order without gaps.
  bool is_contiguous() const;
};

/// Builds values from what a `PickleMachine` has interpreted. What a tensor claims is compared with
/// the bytes of its storage before memory is allocated.
class PickleBuilder {
 public:
  /// \param machine has run; must outlive the builder
  /// \param storages the bytes of the storages; must outlive the builder
  PickleBuilder(const PickleMachine& machine, const Storages& storages);

  /// Builds the value of a node.
  /// \param node the node
  /// \param keep_opaque whether the whole may be one opaque object; otherwise it is refused by its
  ///        name
  /// \throws Error if the value is malformed or exceeds a limit
  Value build(const PickleNode& node, bool keep_opaque = false);

 private:
  using Kind = PickleNode::Kind;
  struct Built {
    Value value;
    std::uint64_t weight = 1;  // values in it; a shared one counts as often as it is referenced
  };

  // Shared and expanded data takes few bytes of the file and much memory, therefore the limits.
  static constexpr std::uint64_t copies_per_byte = 16, max_weight = 10'000'000;
  static constexpr int max_depth = 64;

  Built build_node(const PickleNode& node, int depth);

  Built build_container(const PickleNode& node, int depth);

  /// Refuses a duplicate text key: two readers would take two values.
  Dict build_dict(List& items) const;

  Built build_opaque(std::string_view name, const PickleNode& node);

  bool reaches_tensors(const PickleNode& node);

  std::vector<std::int64_t> read_extents(const PickleNode& tuple) const;

  Value build_tensor(const PickleNode& node);

  Value build_array(const PickleNode& node);

  /// Copies the elements that `layout` selects from `data` into a contiguous tensor.
  at::Tensor copy_tensor(std::string_view data, at::ScalarType type, const Layout& layout);

  void spend_tensor_bytes(std::uint64_t bytes);

  /// Counts the bytes of the text, and returns it.
  std::string_view spend_text(std::string_view text);

  [[noreturn]] void fail(std::string_view why) const { machine_.fail(why); }

  const PickleMachine& machine_;
  const Storages& storages_;
  std::size_t visits_left_ = 2'000'000;  // of `reaches_tensors`: objects and references to them
  std::uint64_t tensor_bytes_ = 0, max_tensor_bytes_ = std::uint64_t{64} << 20;
  std::uint64_t text_bytes_ = 0, max_text_bytes_ = std::uint64_t{1} << 20;
  std::set<std::string> counted_storages_;
  std::map<const PickleNode*, Built> done_;
};

}  // namespace refine::formats::detail

namespace refine::formats {

/// Reads a Python pickle of protocol 0 to 5 as data. No name in it is looked up or called.
///
/// torch.Tensor, nn.Parameter and NumPy arrays of little-endian numbers (bool, 8 to 64 bits, signed
/// or uint8) become contiguous tensors on the CPU, each with its own memory. An OrderedDict becomes
/// a dict without its attributes, torch.Size a tuple, torch.device and a dtype text. An object of
/// an unknown class becomes `Opaque`; it must not be the whole.
///
/// Limits: 5,000,000 objects, 64 levels of nesting, and for all tensors together 64 MiB plus 16
/// times the bytes of the storages and the pickle, so that views and expanded tensors cannot
/// allocate any amount.
///
/// \param bytes begin with the pickle; what follows it is ignored
/// \param path where the bytes come from, for messages
/// \param storages the bytes of the tensors, by key; may be empty if the pickle has no tensors
/// \return the content
/// \throws Error naming the file if the pickle is truncated or malformed, is one opaque object as a
///        whole (named in the message), contains itself, or has a tensor that exceeds its storage
/// \throws ProgramError if that object's name, or a name in a damaged pickle, runs programs
inline Value read_pickle(std::string_view bytes, const std::filesystem::path& path,
                         const Storages& storages = {}) {
  detail::PickleMachine machine(path, bytes);
  const detail::PickleNode& whole = machine.run();  // before the builder, which asks for the pickle's size
  return detail::PickleBuilder(machine, storages).build(whole);
}

}  // namespace refine::formats

#if !defined(REFINE_COMPILED_LIB)
#include <refine/formats/impl/pickle_machine.ipp>
#endif
