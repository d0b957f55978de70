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

/// What a pickle would build, as far as it must be known to tell that it fits.
struct Pickled {
  enum class Kind {
    none,
    boolean,
    integer,
    real,
    text,
    device,
    tuple,
    list,
    dict,
    name,
    blank,
    object,
    storage,
    tensor
  };
  using Ref = std::shared_ptr<Pickled>;

  Kind kind = Kind::none;
  std::string text = {};    ///< a string, a name, an object's class, the type that a list or dict was given
  std::int64_t number = 0;  ///< an integer; of a storage its elements
  std::vector<Ref> parts = {};      ///< of a dict keys and values in turn
  std::size_t depth = 0, size = 1;  ///< levels below; values in it, on all paths
  bool is_shared = false;           ///< the memo has it: it must not change any more
};

/// Whether LibTorch may believe that the value is of the type, which it does without a look.
/// \param untyped whether lists and dicts say no type of their own: LibTorch then gives them the type by which
/// it comes to them, here the first, and another would be believed of what the first let in
bool fits(Pickled& value, const torch::jit::TreeRef& type, bool untyped = false);

/// A tensor of a kind that refine does not compute with, in a file that is well-formed.
struct Unread : std::runtime_error {
  Unread(const std::string& why, bool is_quantized) : std::runtime_error(why), quantized(is_quantized) {}
  bool quantized;
};

/// Goes over data.pkl or constants.pkl of a TorchScript file as LibTorch's reader will, builds nothing, and
/// takes only what that reader's own writer writes. The reader itself looks at little: it believes that a
/// storage has the bytes that are claimed, that an attribute has the type that its class says, that a memo's
/// number is small, and in older releases that a tensor lies within its storage.
class PickleCheck {
 public:
  using Entries = std::map<std::string, std::string>;

  /// \param folder of the storages, "data/"
  /// \param untyped whether lists and dicts do not say their types, as those of versions 1 and 2 do not
  PickleCheck(std::string_view bytes, const Entries& entries, std::string folder, const CodeCheck& code,
              bool untyped = false)
      : rest_(bytes), entries_(entries), folder_(std::move(folder)), code_(code), untyped_(untyped) {}

  /// \throws Unread where a tensor is of a kind that is not read, std::runtime_error saying what is wrong
  Pickled::Ref run();

  /// The classes that were named until now, whether or not they are permitted.
  const std::set<std::string>& classes() const { return named_; }

 private:
  using Kind = Pickled::Kind;
  using Ref = Pickled::Ref;
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

  /// What has parts is finished before another has it, so nothing can lie within itself.
  static void add(const Ref& whole, std::vector<Ref> parts);

  void push_whole(Kind kind, std::vector<Ref> parts);

  void push_tuple(std::size_t size);

  void add_to_top(Kind kind, std::vector<Ref> parts);

  void remember(std::size_t at);

  void recall(std::size_t at);

  bool step();

  // --- names ---------------------------------------------------------------------------------------------

  void name(const std::string& module, const std::string& last);

  static const std::map<std::string, at::ScalarType>& storage_types();

  // --- what is built -------------------------------------------------------------------------------------

  void object();

  void reduce();

  /// A list or dict has one type for good: of two, one could be believed of what the other let in.
  void give_type(const Ref& value, const std::string& text);

  void storage();

  void tensor(const std::vector<Ref>& parts);

  static std::vector<std::int64_t> naturals(const Pickled& value);

  std::string_view rest_;
  const Entries& entries_;
  const std::string folder_;
  const CodeCheck& code_;
  const bool untyped_;
  std::vector<Ref> stack_, memo_;
  std::vector<std::size_t> marks_;
  std::set<std::string> named_;
};

}  // namespace refine::formats::detail::script

#if !defined(REFINE_COMPILED_LIB)
#include <refine/formats/impl/script_pickle.ipp>
#endif
