#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

/// Protobuf's wire format: a message is a list of fields, each a tag and a value.
namespace refine::formats::detail::protobuf {

/// Reports a message that is not valid; the text is a clause.
struct Malformed : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// How the value of a field is encoded.
enum class WireType : std::uint8_t {
  varint = 0,   ///< an integer of variable length
  fixed64 = 1,  ///< 8 bytes, little endian
  bytes = 2,    ///< a length and that many bytes: a text, a message, packed numbers
  fixed32 = 5,  ///< 4 bytes, little endian
};

/// A field of a message.
struct Field {
  std::uint32_t number = 0;          ///< which field of the message, from 1
  WireType type = WireType::varint;  ///< how its value is encoded
  std::uint64_t value = 0;           ///< the value, if it is not bytes
  std::string_view bytes = {};       ///< the value, if it is
  std::string_view encoded = {};     ///< the whole field with its tag
};

/// Reads the fields of a message one after the other. It allocates nothing: bytes are views of the
/// message.
class Reader {
 public:
  /// \param message must outlive the reader and its fields
  explicit Reader(std::string_view message) : rest_(message) {}

  /// Returns the next field; nothing at the end.
  /// \throws Malformed if the message ends within a field, or a field is not valid
  std::optional<Field> next() {
    if (rest_.empty()) return std::nullopt;
    constexpr std::uint64_t max_number = (std::uint64_t{1} << 29) - 1;
    const std::string_view begin = rest_;
    const std::uint64_t tag = varint();
    Field field{.number = static_cast<std::uint32_t>(tag >> 3)};
    if ((tag >> 3) == 0 || (tag >> 3) > max_number) throw Malformed("it has a field without a valid number");
    switch (tag & 7) {
      case 0:
        field.value = varint();
        break;
      case 1:
        field.type = WireType::fixed64;
        field.value = fixed<std::uint64_t>();
        break;
      case 2: {
        field.type = WireType::bytes;
        const std::uint64_t size = varint();
        if (size > rest_.size()) throw Malformed("it ends within a field");
        field.bytes = rest_.substr(0, static_cast<std::size_t>(size));
        rest_.remove_prefix(static_cast<std::size_t>(size));
        break;
      }
      case 5:
        field.type = WireType::fixed32;
        field.value = fixed<std::uint32_t>();
        break;
      default:
        throw Malformed("it has a field of an unknown kind");
    }
    field.encoded = begin.substr(0, begin.size() - rest_.size());
    return field;
  }

  /// Reads a number of variable length, as packed lists contain them.
  /// \throws Malformed if it has more than 64 bits, or the message ends within it
  std::uint64_t varint() {
    constexpr unsigned last_shift = 63;
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift <= last_shift; shift += 7) {
      if (rest_.empty()) throw Malformed("it ends within a number");
      const auto byte = static_cast<std::uint8_t>(rest_.front());
      rest_.remove_prefix(1);
      if (shift == last_shift && byte > 1) break;
      value |= std::uint64_t{byte & 0x7fU} << shift;
      if (byte < 0x80) return value;
    }
    throw Malformed("it has a number of more than 64 bits");
  }

  /// Reads a number of fixed length.
  /// \throws Malformed if the message ends within it
  template <typename Number>
  Number fixed() {
    static_assert(std::endian::native == std::endian::little);
    if (rest_.size() < sizeof(Number)) throw Malformed("it ends within a number");
    Number value;
    std::memcpy(&value, rest_.data(), sizeof(Number));
    rest_.remove_prefix(sizeof(Number));
    return value;
  }

  /// True at the end of the message.
  bool empty() const { return rest_.empty(); }

 private:
  std::string_view rest_;
};

/// Builds a message.
class Writer {
 public:
  /// Appends an integer.
  void integer(std::uint32_t number, std::int64_t value) {
    varint(std::uint64_t{number} << 3);
    varint(static_cast<std::uint64_t>(value));
  }

  /// Appends a float.
  void real(std::uint32_t number, float value) {
    varint(std::uint64_t{number} << 3 | 5);
    char bytes[sizeof value];
    std::memcpy(bytes, &value, sizeof value);
    message_.append(bytes, sizeof value);
  }

  /// Appends a text, bytes or a message.
  void bytes(std::uint32_t number, std::string_view value) {
    begin(number, value.size());
    message_ += value;
  }

  /// Appends the tag and the length of bytes that the caller writes behind them.
  void begin(std::uint32_t number, std::uint64_t size) {
    varint(std::uint64_t{number} << 3 | 2);
    varint(size);
  }

  /// Appends a field as it was read.
  void encoded(std::string_view field) { message_ += field; }

  /// Returns the message.
  const std::string& message() const { return message_; }

 private:
  void varint(std::uint64_t value) {
    for (; value >= 0x80; value >>= 7) message_ += static_cast<char>(value | 0x80);
    message_ += static_cast<char>(value);
  }

  std::string message_;
};

}  // namespace refine::formats::detail::protobuf
