#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>
#include <refine/formats/pickle_machine.hpp>
#include <refine/formats/value.hpp>

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

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
}  // namespace refine::formats

#if !defined(REFINE_COMPILED)
#include <refine/formats/pickle_builder_definitions.hpp>
#endif
