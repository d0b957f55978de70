#pragma once

#include <refine/formats/pickle_stack.hpp>

#include <cstdint>
#include <deque>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace refine::formats::detail {

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

}  // namespace refine::formats::detail

#if !defined(REFINE_COMPILED)
#include <refine/formats/pickle_calls_definitions.hpp>
#endif
