#pragma once

#include <nlohmann/json.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

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

  void read(std::string_view text);

  const std::map<std::string, Entry>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  // What the parser calls; false ends it.
  bool null() { return check_supported(); }
  bool boolean(bool) { return check_supported(); }
  bool number_integer(std::int64_t) { return check_supported(); }
  bool number_float(double, const std::string&) { return check_supported(); }
  bool binary(nlohmann::json::binary_t&) { return check_supported(); }

  bool number_unsigned(std::uint64_t number);

  bool string(std::string& text);

  bool key(std::string& name);

  bool start_object(std::size_t);

  bool end_object();

  bool start_array(std::size_t);

  bool end_array();

  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception&) { return false; }

 private:
  static constexpr std::size_t deepest = 3;  // the header, an entry, its shape

  bool in_metadata() const { return keys_[0] == "__metadata__"; }

  bool deeper();

  /// A value of a kind that does not belong where it stands. Fields that the format does not know may hold
  /// anything.
  bool check_supported();

  void malformed();

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

#if !defined(REFINE_COMPILED_LIB)
#include <refine/formats/impl/safetensors.ipp>
#endif
