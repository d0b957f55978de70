#pragma once

#include <c10/core/ScalarType.h>
#include <torch/csrc/jit/frontend/tree.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <refine/formats/detail/script_code.hpp>

namespace refine::formats::detail::script {

/// What a pickle of a TorchScript file would build, in as much detail as the check of its types
/// needs.
struct PickleItem {
  /// What the item is.
  enum class Kind {
    none,     ///< None
    boolean,  ///< a bool
    integer,  ///< an int64
    real,     ///< a float
    text,     ///< a string
    device,   ///< a `torch.device`
    tuple,    ///< a tuple
    list,     ///< a list; `text` is its type
    dict,     ///< a dict; `text` is its type
    name,     ///< a class or function
    blank,    ///< an object whose attributes are not set yet
    object,   ///< an object
    storage,  ///< a storage
    tensor    ///< a tensor
  };
  using Ref = std::shared_ptr<PickleItem>;  ///< a shared item

  Kind kind = Kind::none;       ///< the kind
  std::string text = {};        ///< a string, a name, the class of an object, the type of a list or dict
  std::int64_t number = 0;      ///< an integer; the number of elements of a storage
  std::vector<Ref> parts = {};  ///< the elements; of a dict, keys and values in turn
  std::size_t depth = 0;        ///< levels of containers, its own included
  std::size_t size = 1;         ///< values in it, on all paths
  bool is_shared = false;       ///< the memo refers to it, so it must not change any more
};

/// Returns true if a value has the type that LibTorch will assume for it without a check.
/// \param value the value
/// \param type the type that the source declares
/// \param untyped true if lists and dicts carry no type (formats 1 and 2). LibTorch then gives them
///        the type by which it first reaches them, and so does this function: a second, different
///        type does not match
bool matches_type(PickleItem& value, const torch::jit::TreeRef& type, bool untyped = false);

/// Reports a tensor of a kind that refine does not compute with, in a well-formed file.
struct UnsupportedTensorError : std::runtime_error {
  /// \param why a clause that names the tensor's kind
  /// \param is_quantized true for quantised tensors
  UnsupportedTensorError(const std::string& why, bool is_quantized)
      : std::runtime_error(why), quantized(is_quantized) {}

  bool quantized;  ///< true for quantised tensors
};

/// Interprets data.pkl or constants.pkl of a TorchScript file as LibTorch's reader does, builds
/// nothing, and accepts only what LibTorch's writer produces.
///
/// LibTorch's reader verifies little: it assumes that a storage has the claimed bytes, that an
/// attribute has the type that its class declares, that a memo index is small, and in older
/// releases that a tensor lies within its storage.
class PickleCheck {
 public:
  using Entries = std::map<std::string, std::string>;  ///< the content of an archive, by path

  /// \param bytes the pickle
  /// \param entries the archive
  /// \param folder where the storages lie: "data/"
  /// \param code the checked source
  /// \param untyped true if lists and dicts carry no type (formats 1 and 2)
  PickleCheck(std::string_view bytes, const Entries& entries, std::string folder, const CodeCheck& code,
              bool untyped = false)
      : rest_(bytes), entries_(entries), folder_(std::move(folder)), code_(code), untyped_(untyped) {}

  /// Checks the pickle.
  /// \return what it would build
  /// \throws UnsupportedTensorError if it has a tensor of a kind that refine does not compute with
  /// \throws std::runtime_error, with a clause as its text, if it is malformed or refers to
  ///        something forbidden
  PickleItem::Ref run();

  /// Returns the classes that the pickle has named so far, permitted or not.
  const std::set<std::string>& classes() const { return named_classes_; }

 private:
  using Kind = PickleItem::Kind;
  using Ref = PickleItem::Ref;
  using TreeRef = torch::jit::TreeRef;

  [[noreturn]] static void fail(std::string_view why) { throw std::runtime_error(std::string(why)); }
  static void require(bool condition, std::string_view otherwise = "is malformed") {
    if (!condition) fail(otherwise);
  }

  // --- reading -------------------------------------------------------------------------------------------

  std::string_view take(std::size_t n);

  std::uint8_t byte() { return static_cast<std::uint8_t>(take(1).front()); }

  template <typename T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }

  std::string line();

  // --- the stack -----------------------------------------------------------------------------------------

  static Ref make(Kind kind, std::string text = {}, std::int64_t number = 0);

  void push(Ref value);

  Ref pop();

  std::vector<Ref> pop_to_mark();

  /// Adds parts to a container. A container is complete before another contains it, so none
  /// contains itself.
  static void add(const Ref& whole, std::vector<Ref> parts);

  void push_container(Kind kind, std::vector<Ref> parts);

  void push_tuple(std::size_t size);

  void add_to_top(Kind kind, std::vector<Ref> parts);

  void memoize(std::size_t index);

  void recall(std::size_t index);

  bool step();

  // --- names ---------------------------------------------------------------------------------------------

  void push_name(const std::string& module, const std::string& last);

  static const std::map<std::string, at::ScalarType>& storage_types();

  // --- objects -------------------------------------------------------------------------------------------

  void build_object();

  void call();

  /// Gives a list or dict its type, once: with two types, LibTorch could assume one that was
  /// checked against the other.
  void set_type(const Ref& value, const std::string& text);

  void push_storage();

  void push_tensor(const std::vector<Ref>& parts);

  static std::vector<std::int64_t> read_extents(const PickleItem& value);

  std::string_view rest_;
  const Entries& entries_;
  const std::string folder_;
  const CodeCheck& code_;
  const bool untyped_;
  std::vector<Ref> stack_, memo_;
  std::vector<std::size_t> marks_;
  std::set<std::string> named_classes_;
};

}  // namespace refine::formats::detail::script

#if !defined(REFINE_COMPILED_LIB)
#include <refine/formats/impl/script_pickle.ipp>
#endif
