#pragma once

#include <refine/formats/archive.hpp>
#include <refine/formats/detail/zip_directory.hpp>

#include <fmt/core.h>
#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <functional>
#include <new>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <refine/core/config.hpp>
#include <refine/core/file.hpp>
#include <refine/core/text.hpp>
#include <refine/formats/inspect.hpp>

namespace refine::formats::detail {

/// Reads an archive without trusting the sizes and names that it claims.
class ArchiveReader {
 public:
  ArchiveReader(SeekableFile file, const ArchiveLimits& limits)
      : limits_(limits), file_(std::move(file)), directory_(file_, limits.entries) {}

  /// \param with_content false: the entries stay empty
  Archive read(bool with_content = true);

  /// Calls a function with each file of an archive of any kind, of those that can be read.
  /// \param max_bytes largest size of a file, and of all compressed ones
  void visit(std::uint64_t max_bytes, const std::function<void(std::string_view, std::string_view)>& take);

 private:
  [[noreturn]] void refuse(const ZipEntry& entry, std::string_view why) const;

  /// Requires an ordinary file or folder with a harmless path.
  void check_kind(const ZipEntry& entry) const;

  /// Requires sizes within the limits.
  void check_size(const ZipEntry& entry) const;

  /// Returns the uncompressed bytes, and verifies their checksum.
  std::string read_content(const ZipEntry& entry);

  std::string decompress(const ZipEntry& entry);

  static constexpr unsigned stored = 0, deflated = 8;
  static constexpr unsigned encrypted = 1 | 0x40 | 0x2000;  // flags
  const ArchiveLimits limits_;
  SeekableFile file_;
  ZipDirectory directory_;
};

REFINE_INLINE Archive ArchiveReader::read(bool with_content) {
  const std::vector<ZipEntry> entries = directory_.read();
  std::vector<std::string> names;
  for (const ZipEntry& entry : entries) names.push_back(entry.name);
  if (const auto foreign = recognize_archive(names)) refuse_foreign(file_.path(), *foreign);
  std::uint64_t total = 0;
  for (const ZipEntry& entry : entries) {
    check_kind(entry);
    check_size(entry);
    if (entry.bytes > limits_.total_bytes - total) {
      refuse(entry, fmt::format("brings the archive to {} bytes, more than the {} allowed",
                                total + entry.bytes, limits_.total_bytes));
    }
    total += entry.bytes;
    constexpr double always_allowed = 64 << 20;
    if (static_cast<double>(total) >
        std::max(always_allowed, limits_.ratio * static_cast<double>(file_.size()))) {
      refuse(entry,
             fmt::format("makes the archive a compression bomb: {} bytes in a file of {}, more than {} "
                         "times as many",
                         total, file_.size(), limits_.ratio));
    }
  }
  if (entries.empty()) directory_.fail("the archive has no entries");
  const std::string top = entries.front().name.substr(0, entries.front().name.find('/') + 1);
  Archive result;
  std::set<std::string> folded_names;
  for (const ZipEntry& entry : entries) {
    if (top.empty() || !entry.name.starts_with(top)) refuse(entry, "lies outside the archive's top folder");
    if (entry.name.ends_with('/')) continue;  // a folder
    const auto [found, is_new] = result.entries.emplace(entry.name.substr(top.size()), std::string());
    if (!is_new) refuse(entry, "is a duplicate");
    // PyTorch looks entries up without regard to case, and would take either.
    if (!folded_names.insert(text::lower(entry.name)).second) {
      refuse(entry, "differs from another entry in upper and lower case alone");
    }
    if (with_content) found->second = read_content(entry);
  }
  return result;
}

REFINE_INLINE void ArchiveReader::visit(std::uint64_t max_bytes,
                                        const std::function<void(std::string_view, std::string_view)>& take) {
  std::uint64_t decompressed = 0;
  for (const ZipEntry& entry : directory_.read()) {
    const bool is_compressed = entry.method != stored;
    if ((entry.flags & encrypted) != 0 || (is_compressed && entry.method != deflated)) continue;
    if (entry.bytes > max_bytes || (is_compressed && entry.bytes > max_bytes - decompressed)) continue;
    if (is_compressed) decompressed += entry.bytes;
    take(entry.name, read_content(entry));
  }
}

REFINE_INLINE void ArchiveReader::refuse(const ZipEntry& entry, std::string_view why) const {
  directory_.fail(fmt::format("'{}' {}", shorten(entry.name), why));
}

REFINE_INLINE void ArchiveReader::check_kind(const ZipEntry& entry) const {
  constexpr std::size_t max_name = 1024;
  const std::string_view name = entry.name;
  if (name.empty()) refuse(entry, "has an empty name");
  if (name.size() > max_name) {
    refuse(entry, fmt::format("has a name of {} bytes, more than the {} allowed", name.size(), max_name));
  }
  if (std::ranges::any_of(name, [](unsigned char c) { return c < 0x20 || c == 0x7f || c == '\\'; })) {
    refuse(entry, "has a control character or a backslash in its name");
  }
  for (std::string_view rest = name; !rest.empty();) {
    const std::string_view part = rest.substr(0, rest.find('/'));
    if (part.empty() || part == "." || part == "..") {
      refuse(entry, "is an absolute path or leaves its folder");
    }
    rest.remove_prefix(std::min(rest.size(), part.size() + 1));
  }
  constexpr unsigned unix_host = 3, type_mask = 0170000, regular = 0100000, folder = 0040000;
  const unsigned type = entry.attributes >> 16 & type_mask;
  const bool is_folder = name.ends_with('/');
  if (entry.made_by >> 8 == unix_host && type != 0 && type != (is_folder ? folder : regular)) {
    refuse(entry, "is not a regular file");
  }
  if (is_folder && (entry.bytes != 0 || entry.packed != 0)) refuse(entry, "is a folder with content");
  constexpr unsigned known = 2 | 4 | 8 | 0x800;
  if ((entry.flags & encrypted) != 0) refuse(entry, "is encrypted");
  if ((entry.flags & ~known) != 0 || (entry.method != stored && entry.method != deflated)) {
    refuse(entry,
           fmt::format(
               "has flags or a compression method that PyTorch does not use (method {}, expected {} or {})",
               entry.method, stored, deflated));
  }
}

REFINE_INLINE void ArchiveReader::check_size(const ZipEntry& entry) const {
  constexpr double always_allowed = 1 << 20;
  if (entry.bytes > limits_.entry_bytes) {
    refuse(entry, fmt::format("claims {} bytes, more than the {} allowed", entry.bytes, limits_.entry_bytes));
  }
  if (static_cast<double>(entry.bytes) >
      std::max(always_allowed, limits_.ratio * static_cast<double>(entry.packed))) {
    refuse(entry,
           fmt::format("is a compression bomb: {} bytes compressed into {}, more than {} times as many",
                       entry.bytes, entry.packed, limits_.ratio));
  }
  if (entry.method == stored && entry.bytes != entry.packed) {
    refuse(entry, fmt::format("is stored uncompressed but claims {} bytes for {} bytes of data", entry.bytes,
                              entry.packed));
  }
}

REFINE_INLINE std::string ArchiveReader::read_content(const ZipEntry& entry) {
  std::string bytes = entry.method == stored ? file_.read(entry.offset, entry.bytes) : decompress(entry);
  std::uint64_t done = 0;
  auto crc = crc32(0, nullptr, 0);
  while (done < bytes.size()) {
    const auto step = static_cast<uInt>(std::min<std::uint64_t>(bytes.size() - done, 1 << 30));
    crc = crc32(crc, reinterpret_cast<const Bytef*>(bytes.data() + done), step);
    done += step;
  }
  if (crc != entry.crc) refuse(entry, "has the wrong checksum");
  return bytes;
}

REFINE_INLINE std::string ArchiveReader::decompress(const ZipEntry& entry) {
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
    char spare = 0;  // receives a byte beyond the claimed size
    const bool full = given == bytes.size();
    const auto space = full ? 1 : static_cast<uInt>(std::min<std::uint64_t>(bytes.size() - given, 1 << 30));
    stream.next_out = reinterpret_cast<Bytef*>(full ? &spare : bytes.data() + given);
    stream.avail_out = space;
    code = inflate(&stream, Z_NO_FLUSH);
    if (code == Z_BUF_ERROR) refuse(entry, "is truncated");  // inflate waits for more input
    if (code != Z_OK && code != Z_STREAM_END) refuse(entry, "is damaged");
    if (full && stream.avail_out == 0) refuse(entry, "has more bytes than it claims");
    if (!full) given += space - stream.avail_out;
  }
  if (given != bytes.size() || stream.avail_in != 0 || taken != entry.packed) {
    refuse(entry, "has fewer bytes than it claims");
  }
  return bytes;
}

}  // namespace refine::formats::detail

namespace refine::formats {

REFINE_INLINE Archive read_archive(const std::filesystem::path& path, const ArchiveLimits& limits) {
  return detail::ArchiveReader(detail::SeekableFile(path), limits).read();
}

REFINE_INLINE Archive detail::list_archive(const std::filesystem::path& path) {
  return ArchiveReader(SeekableFile(path), {}).read(/*with_content=*/false);
}

REFINE_INLINE void detail::visit_archive(
    const std::filesystem::path& path, std::uint64_t max_bytes,
    const std::function<void(std::string_view name, std::string_view bytes)>& take) {
  ArchiveReader(SeekableFile(path), {}).visit(max_bytes, take);
}

REFINE_INLINE Archive read_nested_archive(std::string_view bytes, const std::filesystem::path& name,
                                          const ArchiveLimits& limits) {
  return detail::ArchiveReader(detail::SeekableFile(name, bytes), limits).read();
}

}  // namespace refine::formats

namespace refine::formats::detail {

REFINE_INLINE std::string shorten(std::string_view name) {
  constexpr std::size_t max_size = 120;
  return std::string(name.substr(0, max_size)) + (name.size() > max_size ? "..." : "");
}

REFINE_INLINE SeekableFile::SeekableFile(const std::filesystem::path& path)
    : path_(path), file_(refine::detail::open_regular_stream(path, size_)) {}

REFINE_INLINE void SeekableFile::read(std::uint64_t offset, void* to, std::size_t n) {
  if (!file_) {
    if (offset > size_ || n > size_ - offset) fail(EIO);
    if (n > 0) std::memcpy(to, bytes_.data() + offset, n);
    return;
  }
  errno = 0;
  if (::fseeko(file_.get(), static_cast<off_t>(offset), SEEK_SET) != 0 ||
      std::fread(to, 1, n, file_.get()) != n) {
    fail(errno ? errno : EIO);
  }
}

REFINE_INLINE std::string SeekableFile::read(std::uint64_t offset, std::size_t n) {
  std::string bytes(n, '\0');
  read(offset, bytes.data(), n);
  return bytes;
}

REFINE_INLINE void SeekableFile::fail(int code) const {
  refine::detail::fail_to_read(path_, code);
}

REFINE_INLINE std::vector<ZipEntry> ZipDirectory::read() {
  locate();
  const std::string records = file_.read(begin_, static_cast<std::size_t>(size_));
  std::vector<ZipEntry> entries;
  std::string_view rest = records;
  for (std::uint64_t i = 0; i < count_; ++i) entries.push_back(next_entry(rest));
  if (!rest.empty()) fail("the directory is longer than its entries");
  std::ranges::sort(entries, {}, &ZipEntry::offset);
  for (std::size_t i = 0; i < entries.size(); ++i) {
    check_local_header(entries[i], i + 1 < entries.size() ? entries[i + 1].offset : begin_);
  }
  return entries;
}

REFINE_INLINE void ZipDirectory::fail(std::string_view why) const {
  throw Error("cannot load {}: {}; the file is damaged or malicious, get it again from a trusted source",
              file_.path().string(), why);
}

REFINE_INLINE void ZipDirectory::locate() {
  constexpr std::size_t end_size = 22, locator_size = 20, end64_size = 56;
  if (file_.size() < 4 || file_.read(0, 4) != "PK\3\4") fail("not a ZIP archive");
  if (file_.size() < end_size) fail("the file is truncated");
  std::uint64_t end_offset = file_.size() - end_size;
  const std::string end = file_.read(end_offset, end_size);
  if (!end.starts_with("PK\5\6") || u16(end, 20) != 0) {
    fail("the file does not end with the directory of a ZIP archive");
  }
  if (u16(end, 4) != 0 || u16(end, 6) != 0 || u16(end, 8) != u16(end, 10)) {
    fail("the archive has several volumes");
  }
  count_ = u16(end, 10);
  size_ = u32(end, 12);
  begin_ = u32(end, 16);
  const std::string locator =
      end_offset >= locator_size ? file_.read(end_offset - locator_size, locator_size) : std::string();
  if (locator.starts_with(std::string_view("PK\6\7", 4))) {
    end_offset -= locator_size;
    const bool fits = end_offset >= end64_size && u64(locator, 8) == end_offset - end64_size;
    const std::string end64 = fits ? file_.read(end_offset - end64_size, end64_size) : std::string();
    if (!end64.starts_with(std::string_view("PK\6\6", 4)) || u64(end64, 4) != end64_size - 12) {
      fail("the 64-bit directory is not at the stated offset");
    }
    end_offset -= end64_size;
    const auto agree = [](std::uint64_t small, std::uint64_t large, std::uint64_t unset) {
      return small == unset || small == large;
    };
    if (u64(end64, 24) != u64(end64, 32) || u32(locator, 4) != 0 || u32(end64, 16) != 0 ||
        u32(end64, 20) != 0) {
      fail("the archive has several volumes");
    }
    if (!agree(count_, u64(end64, 32), 0xffff) || !agree(size_, u64(end64, 40), 0xffff'ffff) ||
        !agree(begin_, u64(end64, 48), 0xffff'ffff)) {
      fail("the 32-bit and the 64-bit directory disagree");
    }
    count_ = u64(end64, 32);
    size_ = u64(end64, 40);
    begin_ = u64(end64, 48);
  }
  if (begin_ > end_offset || size_ != end_offset - begin_) fail("the directory lies outside the file");
  if (count_ > max_entries_) {
    fail(fmt::format("the archive has {} entries, more than the {} allowed", count_, max_entries_));
  }
  constexpr std::uint64_t max_record = 4096;  // a name has at most 1 KiB
  if (size_ > count_ * max_record) {
    fail(fmt::format("the directory has {} bytes for {} entries, more than the {} allowed for each", size_,
                     count_, max_record));
  }
}

REFINE_INLINE ZipEntry ZipDirectory::next_entry(std::string_view& rest) const {
  constexpr std::size_t fixed = 46;
  if (rest.size() < fixed || !rest.starts_with("PK\1\2")) fail("the directory is malformed");
  const std::size_t name = u16(rest, 28), extra = u16(rest, 30), comment = u16(rest, 32);
  if (rest.size() - fixed < name + extra + comment) fail("the directory is malformed");
  ZipEntry entry{.name = std::string(rest.substr(fixed, name)),
                 .flags = u16(rest, 8),
                 .method = u16(rest, 10),
                 .made_by = u16(rest, 4),
                 .crc = u32(rest, 16),
                 .attributes = u32(rest, 38),
                 .packed = u32(rest, 20),
                 .bytes = u32(rest, 24),
                 .offset = u32(rest, 42)};
  read_extra(rest.substr(fixed + name, extra), entry);
  rest.remove_prefix(fixed + name + extra + comment);
  return entry;
}

REFINE_INLINE void ZipDirectory::read_extra(std::string_view extra, ZipEntry& entry) const {
  bool seen = false;
  while (extra.size() >= 4) {
    const std::size_t n = u16(extra, 2);
    if (extra.size() - 4 < n) break;
    if (u16(extra, 0) == 1) {
      if (seen) fail(fmt::format("'{}' has two 64-bit extra fields", shorten(entry.name)));
      seen = true;
      std::string_view field = extra.substr(4, n);
      for (std::uint64_t* value : {&entry.bytes, &entry.packed, &entry.offset}) {
        if (*value != 0xffff'ffff || field.size() < 8) continue;
        *value = u64(field, 0);
        field.remove_prefix(8);
      }
    }
    extra.remove_prefix(4 + n);
  }
}

REFINE_INLINE void ZipDirectory::check_local_header(ZipEntry& entry, std::uint64_t end) const {
  constexpr std::size_t fixed = 30;
  const auto refuse = [&](std::string_view why) { fail(fmt::format("'{}' {}", shorten(entry.name), why)); };
  if (entry.offset > end || end > file_.size() || end - entry.offset < fixed) {
    refuse("overlaps another entry");
  }
  const std::string header = file_.read(entry.offset, fixed);
  if (!header.starts_with("PK\3\4")) refuse("is not at the offset in the directory");
  const std::uint64_t before = fixed + u16(header, 26) + u16(header, 28);
  if (end - entry.offset < before || end - entry.offset - before < entry.packed) {
    refuse("overlaps another entry");
  }
  if (file_.read(entry.offset + fixed, u16(header, 26)) != entry.name) {
    refuse("has another name in its local header than in the directory");
  }
  // A streaming writer leaves zeros here; all ones stand for 64-bit values elsewhere.
  const bool streamed = (entry.flags & 8) != 0;
  const auto agree = [&](std::uint32_t local, std::uint64_t in_directory) {
    return local == in_directory || (streamed && local == 0) || local == 0xffff'ffff;
  };
  if (u16(header, 6) != entry.flags || u16(header, 8) != entry.method ||
      !(u32(header, 14) == entry.crc || (streamed && u32(header, 14) == 0)) ||
      !agree(u32(header, 18), entry.packed) || !agree(u32(header, 22), entry.bytes)) {
    refuse("differs between the directory and its local header");
  }
  entry.offset += before;
}

}  // namespace refine::formats::detail
