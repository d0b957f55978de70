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

/// The longest name of a tensor in a file of weights, in bytes.
inline constexpr std::size_t max_tensor_name = 1024;

/// Parses the header of a safetensors file from the events of the JSON parser, so that no JSON tree
/// of an untrusted file is held in memory. It refuses what a JSON library accepts but the format
/// does not: a duplicate name, deeper nesting, a number that is not an extent.
class SafeTensorsHeader {
 public:
  /// The largest size that the format's own library accepts.
  static constexpr std::uint64_t max_bytes = 100'000'000;

  using Extents = std::vector<std::uint64_t>;  ///< a list of unsigned numbers

  /// The entry of one tensor.
  struct Entry {
    std::string dtype;     ///< "F32"
    Extents shape;         ///< extent of each dimension
    Extents data_offsets;  ///< first byte and end in the data
  };

  /// \param fail is called with the problem, and throws
  explicit SafeTensorsHeader(std::function<void(const std::string&)> fail) : fail_(std::move(fail)) {}

  /// Parses the header.
  /// \param text the JSON text
  void read(std::string_view text);

  /// Returns the entry of each tensor.
  const std::map<std::string, Entry>& tensors() const { return tensors_; }

  /// Returns the metadata.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  /// \name Events of nlohmann::json's SAX parser
  /// Each returns false to stop the parser.
  /// \{
  bool null() { return check_supported(); }                                    ///< a null
  bool boolean(bool) { return check_supported(); }                             ///< a bool
  bool number_integer(std::int64_t) { return check_supported(); }              ///< a negative integer
  bool number_float(double, const std::string&) { return check_supported(); }  ///< a float
  bool binary(nlohmann::json::binary_t&) { return check_supported(); }  ///< does not occur in JSON text
  bool number_unsigned(std::uint64_t number);                           ///< an element of a list
  bool string(std::string& text);                                       ///< a text
  bool key(std::string& name);                                          ///< the key of the next value
  bool start_object(std::size_t);                                       ///< `{`
  bool end_object();                                                    ///< `}`
  bool start_array(std::size_t);                                        ///< `[`
  bool end_array();                                                     ///< `]`
  /// Stops the parser; `read` reports the error.
  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception&) { return false; }
  /// \}

 private:
  static constexpr std::size_t max_depth = 3;  // the header, an entry, its shape

  bool in_metadata() const { return keys_[0] == "__metadata__"; }

  bool enter();

  /// Fails if a value of a kind other than a number list or a text belongs here. Fields that the
  /// format does not define may hold anything.
  bool check_supported();

  void fail_malformed();

  std::function<void(const std::string&)> fail_;
  std::map<std::string, Entry> tensors_;
  std::map<std::string, std::string> metadata_;
  Entry entry_;                              // the entry being parsed
  Extents* extents_ = nullptr;               // its list being parsed
  std::size_t depth_ = 0;                    // number of open objects and arrays
  std::array<std::string, max_depth> keys_;  // the last key at each depth
  std::array<std::set<std::string>, max_depth> names_;
};

}  // namespace refine::formats::detail

#if !defined(REFINE_COMPILED_LIB)
#include <refine/formats/impl/safetensors.ipp>
#endif
