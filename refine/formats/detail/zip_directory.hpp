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
              "ZIP archives are little-endian, this machine is not");

/// A file's name or a member's, short enough for a line; `Error` takes its control characters out.
std::string shown(std::string_view name);

/// A file that is read here and there; every read is of bytes that are known to be in it.
class SeekableFile {
 public:
  explicit SeekableFile(const std::filesystem::path& path);

  std::uint64_t size() const { return size_; }
  const std::filesystem::path& path() const { return path_; }

  void read(std::uint64_t offset, void* to, std::size_t n);

  std::string read(std::uint64_t offset, std::size_t n);

 private:
  [[noreturn]] void fail(int code) const;

  std::filesystem::path path_;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_;
  std::uint64_t size_ = 0;
};

/// What a ZIP archive's directory says of one entry.
struct ZipEntry {
  std::string name;
  std::uint16_t flags = 0, method = 0, made_by = 0;
  std::uint32_t crc = 0, attributes = 0;
  std::uint64_t packed = 0, bytes = 0, offset = 0;  // offset: of its local header; later, of its data
};

/// Reads a ZIP archive's central directory and requires that the local headers say the same and that no two
/// entries share a byte, so that there is one way to read the archive. Archives of several volumes, with a
/// comment or with bytes behind the end are refused: PyTorch writes none.
class ZipDirectory {
 public:
  ZipDirectory(const std::filesystem::path& path, SeekableFile& file, std::size_t most_entries)
      : path_(path), file_(file), most_entries_(most_entries) {}

  /// In the order of their data in the file.
  std::vector<ZipEntry> read();

  [[noreturn]] void fail(std::string_view why) const;

 private:
  template <typename Number>
  static Number number(std::string_view bytes, std::size_t at) {
    Number value = 0;
    std::memcpy(&value, bytes.data() + at, sizeof value);
    return value;
  }
  static std::uint16_t u16(std::string_view bytes, std::size_t at) {
    return number<std::uint16_t>(bytes, at);
  }
  static std::uint32_t u32(std::string_view bytes, std::size_t at) {
    return number<std::uint32_t>(bytes, at);
  }
  static std::uint64_t u64(std::string_view bytes, std::size_t at) {
    return number<std::uint64_t>(bytes, at);
  }

  void find();

  ZipEntry next(std::string_view& rest) const;

  /// What did not fit in 32 bits stands in the field of type 1, in this order.
  void read_extra(std::string_view extra, ZipEntry& entry) const;

  /// Requires that the local header agrees and that the entry ends before `end`; `offset` moves to its data.
  void require_same(ZipEntry& entry, std::uint64_t end) const;

  const std::filesystem::path& path_;
  SeekableFile& file_;
  std::uint64_t most_entries_, count_ = 0, size_ = 0, begin_ = 0;
};

}  // namespace refine::formats::detail

#if !defined(REFINE_COMPILED_LIB)
#include <refine/formats/impl/archive.ipp>
#endif
