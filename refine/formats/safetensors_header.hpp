#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/core.h>

namespace refine::formats::detail {

/// The header of a safetensors file, an event of the JSON parser at a time: no tree of a stranger's JSON is
/// ever held. Refuses what a JSON library lets pass: a name given twice, nesting deeper than the format has,
/// a number that is no extent.
class SafeTensorsHeader {
 public:
  using Extents = std::vector<std::uint64_t>;

  /// What the header says of one tensor.
  struct Entry {
    std::string dtype;
    Extents shape, data_offsets;
  };

  /// \param fail throws, given what is wrong
  explicit SafeTensorsHeader(std::function<void(const std::string&)> fail) : fail_(std::move(fail)) {}

  void read(std::string_view text) {
    if (!nlohmann::json::sax_parse(text, this)) fail_("its header is not a JSON object");
  }

  const std::map<std::string, Entry>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  // What the parser calls; false ends it.
  bool null() { return unfit(); }
  bool boolean(bool) { return unfit(); }
  bool number_integer(std::int64_t) { return unfit(); }
  bool number_float(double, const std::string&) { return unfit(); }
  bool binary(nlohmann::json::binary_t&) { return unfit(); }

  bool number_unsigned(std::uint64_t number) {
    if (!extents_) return unfit();
    extents_->push_back(number);
    return true;
  }

  bool string(std::string& text) {
    if (depth_ == 2 && in_metadata()) {
      metadata_[keys_[1]] = std::move(text);
    } else if (depth_ == 2 && keys_[1] == "dtype") {
      entry_.dtype = std::move(text);
    } else {
      return unfit();
    }
    return true;
  }

  bool key(std::string& name) {
    const std::size_t level = depth_ - 1;
    if (!names_[level].insert(name).second) fail_(fmt::format("its header has '{}' twice", name));
    keys_[level] = std::move(name);
    return true;
  }

  bool start_object(std::size_t) {
    if (depth_ == 1) entry_ = {};
    return (depth_ < 2 || unfit()) && deeper();
  }

  bool end_object() {
    --depth_;
    if (depth_ != 1 || in_metadata()) return true;
    const auto& said = names_[1];
    if (!said.contains("dtype") || !said.contains("shape") || entry_.data_offsets.size() != 2) malformed();
    tensors_.emplace(keys_[0], std::move(entry_));
    return true;
  }

  bool start_array(std::size_t) {
    if (depth_ == 2 && !in_metadata()) {
      if (keys_[1] == "shape") extents_ = &entry_.shape;
      if (keys_[1] == "data_offsets") extents_ = &entry_.data_offsets;
    }
    return (extents_ || unfit()) && deeper();
  }

  bool end_array() {
    extents_ = nullptr;
    --depth_;
    return true;
  }

  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception&) { return false; }

 private:
  static constexpr std::size_t deepest = 3;  // the header, an entry, its shape

  bool in_metadata() const { return keys_[0] == "__metadata__"; }

  bool deeper() {
    if (depth_ == deepest) fail_("its header is nested too deep");
    names_[depth_++].clear();
    return true;
  }

  /// A value of a kind that does not belong where it stands. Fields that the format does not know may hold
  /// anything.
  bool unfit() {
    if (depth_ == 0) return false;
    if (in_metadata()) {
      fail_(depth_ == 1 ? "its metadata is not an object"
                        : fmt::format("its metadata '{}' is not a string", keys_[1]));
    }
    if (depth_ == 1 || keys_[1] == "dtype" || keys_[1] == "shape" || keys_[1] == "data_offsets") malformed();
    return true;
  }

  void malformed() { fail_(fmt::format("the entry of tensor '{}' is malformed", keys_[0])); }

  std::function<void(const std::string&)> fail_;
  std::map<std::string, Entry> tensors_;
  std::map<std::string, std::string> metadata_;
  Entry entry_;                            // the one that is being read
  Extents* extents_ = nullptr;             // its list that is being read
  std::size_t depth_ = 0;                  // of the objects and arrays that are open
  std::array<std::string, deepest> keys_;  // the last at each depth
  std::array<std::set<std::string>, deepest> names_;
};

}  // namespace refine::formats::detail
