#pragma once

#include <refine/formats/pickle_calls.hpp>
#include <refine/formats/pickle_stack.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <utility>
#include <vector>

namespace refine::formats::detail {

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

#if !defined(REFINE_COMPILED)
#include <refine/formats/pickle_machine_definitions.hpp>
#endif
