#pragma once

#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <refine/core/error.hpp>

namespace refine::formats::detail {

static_assert(std::endian::native == std::endian::little,
              "ZIP archives are little-endian and need a little-endian machine");

/// Returns a name from a file, shortened for a message. `Error` replaces its control characters.
std::string shorten(std::string_view name);

/// A file with random access, on disk or in memory. Every read must lie within the file.
class SeekableFile {
 public:
  /// Opens the file.
  /// \throws Error if it cannot be opened
  explicit SeekableFile(const std::filesystem::path& path);

  /// Takes bytes in memory, such as an archive in an archive.
  /// \param path a name, for messages
  /// \param bytes must outlive the file
  SeekableFile(const std::filesystem::path& path, std::string_view bytes)
      : path_(path), size_(bytes.size()), file_(nullptr, &std::fclose), bytes_(bytes) {}

  /// Returns the size of the file in bytes.
  std::uint64_t size() const { return size_; }

  /// Returns the path of the file.
  const std::filesystem::path& path() const { return path_; }

  /// Reads `n` bytes at `offset` into `to`.
  /// \throws Error if they cannot be read
  void read(std::uint64_t offset, void* to, std::size_t n);

  /// Returns `n` bytes at `offset`.
  /// \throws Error if they cannot be read
  std::string read(std::uint64_t offset, std::size_t n);

 private:
  [[noreturn]] void fail(int code) const;

  std::filesystem::path path_;
  std::uint64_t size_ = 0;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_;  // null in memory
  std::string_view bytes_ = {};                           // of a file in memory
};

/// An entry in the directory of a ZIP archive.
struct ZipEntry {
  std::string name;              ///< path, including the top folder
  std::uint16_t flags = 0;       ///< general purpose bit flags
  std::uint16_t method = 0;      ///< compression method: 0 stored, 8 DEFLATE
  std::uint16_t made_by = 0;     ///< the writing system in the upper byte
  std::uint32_t crc = 0;         ///< CRC-32 of the uncompressed bytes
  std::uint32_t attributes = 0;  ///< of the file; the Unix mode in the upper 16 bits
  std::uint64_t packed = 0;      ///< size of the compressed data in bytes
  std::uint64_t bytes = 0;       ///< size of the uncompressed data in bytes
  std::uint64_t offset = 0;      ///< position of the local header; after the check, of the data
};

/// Reads the central directory of a ZIP archive. It requires that the local headers agree with it
/// and that no two entries share a byte, so that there is only one way to read the archive.
/// Archives of several volumes, with a comment or with trailing bytes are refused: PyTorch writes
/// none.
class ZipDirectory {
 public:
  /// \param file the archive; must outlive the directory
  /// \param max_entries largest number of entries
  ZipDirectory(SeekableFile& file, std::size_t max_entries) : file_(file), max_entries_(max_entries) {}

  /// Returns the entries in the order of their data in the file.
  /// \throws Error if the archive is malformed
  std::vector<ZipEntry> read();

  /// Throws the Error for a damaged archive.
  /// \param why a clause that names the problem
  /// \throws Error always
  [[noreturn]] void fail(std::string_view why) const;

 private:
  template <typename Number>
  static Number number(std::string_view bytes, std::size_t offset) {
    Number value = 0;
    std::memcpy(&value, bytes.data() + offset, sizeof value);
    return value;
  }
  static std::uint16_t u16(std::string_view bytes, std::size_t offset) {
    return number<std::uint16_t>(bytes, offset);
  }
  static std::uint32_t u32(std::string_view bytes, std::size_t offset) {
    return number<std::uint32_t>(bytes, offset);
  }
  static std::uint64_t u64(std::string_view bytes, std::size_t offset) {
    return number<std::uint64_t>(bytes, offset);
  }

  /// Finds the directory from the end of the file.
  void locate();

  ZipEntry next_entry(std::string_view& rest) const;

  /// Reads the 64-bit values, which follow in this order in the extra field of type 1.
  void read_extra(std::string_view extra, ZipEntry& entry) const;

  /// Requires that the local header agrees and that the entry ends before `end`. Moves `offset` to
  /// the data.
  void check_local_header(ZipEntry& entry, std::uint64_t end) const;

  SeekableFile& file_;
  std::uint64_t max_entries_, count_ = 0, size_ = 0, begin_ = 0;
};

}  // namespace refine::formats::detail

#if !defined(REFINE_COMPILED_LIB)
#include <refine/formats/impl/archive.ipp>
#endif
