#pragma once

// What archive.hpp declares.

#include <refine/formats/archive.hpp>

#include <fmt/core.h>
#include <zlib.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include <refine/core/compiled.hpp>
#include <refine/formats/foreign_file.hpp>
#include <refine/formats/zip_directory.hpp>

namespace refine::formats::detail {

/// Trusts neither the sizes that the archive tells of itself nor its names.
class ArchiveReader {
 public:
  ArchiveReader(const std::filesystem::path& path, const ArchiveLimits& limits)
      : limits_(limits), file_(path), directory_(path, file_, limits.entries) {}

  Archive read();

 private:
  [[noreturn]] void refuse(const ZipEntry& entry, std::string_view why) const;

  void require_plain(const ZipEntry& entry) const;

  void require_small(const ZipEntry& entry) const;

  std::string content(const ZipEntry& entry);

  std::string inflated(const ZipEntry& entry);

  static constexpr unsigned stored = 0, deflated = 8;
  const ArchiveLimits limits_;
  SeekableFile file_;
  ZipDirectory directory_;
};

REFINE_DEFINITION Archive ArchiveReader::read() {
  const std::vector<ZipEntry> entries = directory_.read();
  std::vector<std::string> names;
  for (const ZipEntry& entry : entries) names.push_back(entry.name);
  if (const auto foreign = recognize_archive(names)) refuse_foreign(file_.path(), *foreign);
  std::uint64_t total = 0;
  for (const ZipEntry& entry : entries) {
    require_plain(entry);
    require_small(entry);
    if (entry.bytes > limits_.total_bytes - total) refuse(entry, "makes it larger than is allowed");
    total += entry.bytes;
  }
  if (entries.empty()) directory_.fail("it is empty");
  const std::string top = entries.front().name.substr(0, entries.front().name.find('/') + 1);
  Archive result;
  for (const ZipEntry& entry : entries) {
    if (top.empty() || !entry.name.starts_with(top)) refuse(entry, "lies outside the archive's top folder");
    if (entry.name.ends_with('/')) continue;  // a folder
    const auto [at, is_new] = result.entries.emplace(entry.name.substr(top.size()), std::string());
    if (!is_new) refuse(entry, "is there twice");
    at->second = content(entry);
  }
  return result;
}

REFINE_DEFINITION void ArchiveReader::refuse(const ZipEntry& entry, std::string_view why) const {
  directory_.fail(fmt::format("'{}' {}", shown(entry.name), why));
}

REFINE_DEFINITION void ArchiveReader::require_plain(const ZipEntry& entry) const {
  constexpr std::size_t longest = 1024;
  const std::string_view name = entry.name;
  if (name.empty()) refuse(entry, "is an entry without a name");
  if (name.size() > longest) refuse(entry, "has a name of more than 1 kB");
  if (std::ranges::any_of(name, [](unsigned char c) { return c < 0x20 || c == 0x7f || c == '\\'; })) {
    refuse(entry, "has a control character or a backslash in its name");
  }
  for (std::string_view rest = name; !rest.empty();) {
    const std::string_view part = rest.substr(0, rest.find('/'));
    if (part.empty() || part == "." || part == "..") refuse(entry, "is a path that leaves its folder");
    rest.remove_prefix(std::min(rest.size(), part.size() + 1));
  }
  constexpr unsigned unix_host = 3, type_mask = 0170000, regular = 0100000, folder = 0040000;
  const unsigned type = entry.attributes >> 16 & type_mask;
  const bool is_folder = name.ends_with('/');
  if (entry.made_by >> 8 == unix_host && type != 0 && type != (is_folder ? folder : regular)) {
    refuse(entry, "is no regular file");
  }
  if (is_folder && (entry.bytes != 0 || entry.packed != 0)) refuse(entry, "is a folder with content");
  constexpr unsigned encrypted = 1 | 0x40 | 0x2000, known = 2 | 4 | 8 | 0x800;
  if ((entry.flags & encrypted) != 0) refuse(entry, "is encrypted");
  if ((entry.flags & ~known) != 0 || (entry.method != stored && entry.method != deflated)) {
    refuse(entry, "is packed in a way that PyTorch does not use");
  }
}

REFINE_DEFINITION void ArchiveReader::require_small(const ZipEntry& entry) const {
  constexpr double always = 1 << 20;
  if (entry.bytes > limits_.entry_bytes) {
    refuse(entry, fmt::format("claims {} bytes, more than the {} allowed", entry.bytes, limits_.entry_bytes));
  }
  if (static_cast<double>(entry.bytes) >
      std::max(always, limits_.ratio * static_cast<double>(entry.packed))) {
    refuse(entry, fmt::format("is a compression bomb: {} bytes packed in {}", entry.bytes, entry.packed));
  }
  if (entry.method == stored && entry.bytes != entry.packed) refuse(entry, "lies about its size");
}

REFINE_DEFINITION std::string ArchiveReader::content(const ZipEntry& entry) {
  std::string bytes = entry.method == stored ? file_.read(entry.offset, entry.bytes) : inflated(entry);
  std::uint64_t done = 0;
  auto crc = crc32(0, nullptr, 0);
  while (done < bytes.size()) {
    const auto step = static_cast<uInt>(std::min<std::uint64_t>(bytes.size() - done, 1 << 30));
    crc = crc32(crc, reinterpret_cast<const Bytef*>(bytes.data() + done), step);
    done += step;
  }
  if (crc != entry.crc) refuse(entry, "does not have the checksum that it should");
  return bytes;
}

REFINE_DEFINITION std::string ArchiveReader::inflated(const ZipEntry& entry) {
  std::string bytes(entry.bytes, '\0');
  std::vector<char> block(1 << 16);
  struct Stream : z_stream {
    Stream() : z_stream{} {
      if (inflateInit2(this, -MAX_WBITS) != Z_OK) throw std::bad_alloc();
    }
    ~Stream() { inflateEnd(this); }
  } stream;
  std::uint64_t taken = 0, given = 0;
  for (int code = Z_OK; code != Z_STREAM_END;) {
    if (stream.avail_in == 0 && taken < entry.packed) {
      const auto step = static_cast<std::size_t>(std::min<std::uint64_t>(entry.packed - taken, block.size()));
      file_.read(entry.offset + taken, block.data(), step);
      taken += step;
      stream.next_in = reinterpret_cast<Bytef*>(block.data());
      stream.avail_in = static_cast<uInt>(step);
    }
    char spare = 0;  // shows whether there is more than was told
    const bool full = given == bytes.size();
    const auto room = full ? 1 : static_cast<uInt>(std::min<std::uint64_t>(bytes.size() - given, 1 << 30));
    stream.next_out = reinterpret_cast<Bytef*>(full ? &spare : bytes.data() + given);
    stream.avail_out = room;
    code = inflate(&stream, Z_NO_FLUSH);
    if (code == Z_BUF_ERROR) refuse(entry, "is cut");  // all is taken, and inflate waits for more
    if (code != Z_OK && code != Z_STREAM_END) refuse(entry, "is damaged");
    if (full && stream.avail_out == 0) refuse(entry, "has more bytes than it claims");
    if (!full) given += room - stream.avail_out;
  }
  if (given != bytes.size() || stream.avail_in != 0 || taken != entry.packed) {
    refuse(entry, "has fewer bytes than it claims");
  }
  return bytes;
}

}  // namespace refine::formats::detail

namespace refine::formats {

REFINE_DEFINITION Archive read_archive(const std::filesystem::path& path, const ArchiveLimits& limits) {
  return detail::ArchiveReader(path, limits).read();
}

}  // namespace refine::formats
