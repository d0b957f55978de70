#pragma once

#include <archive.h>
#include <archive_entry.h>
#include <unistd.h>
#include <refine/core/atomic_file.hpp>
#include <refine/data/fetch.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

namespace refine::data {

namespace detail::cifar {

inline constexpr std::string_view folder_name = "cifar-10-batches-bin";

struct Member {
  std::string_view name;
  std::int64_t largest;  // bytes
  bool needed = true;
};

inline constexpr std::int64_t batch_bytes = 30'730'000;
inline constexpr std::array<Member, 8> members = {{{"data_batch_1.bin", batch_bytes},
                                                   {"data_batch_2.bin", batch_bytes},
                                                   {"data_batch_3.bin", batch_bytes},
                                                   {"data_batch_4.bin", batch_bytes},
                                                   {"data_batch_5.bin", batch_bytes},
                                                   {"test_batch.bin", batch_bytes},
                                                   {"batches.meta.txt", 1 << 16, false},
                                                   {"readme.html", 1 << 16, false}}};

/// The member of that path, or null: nothing but the eight names, in their folder, leaves the archive.
inline const Member* member_at(std::string_view path) {
  if (path.starts_with("./")) path.remove_prefix(2);
  if (!path.starts_with(folder_name)) return nullptr;
  path.remove_prefix(folder_name.size());
  for (const Member& member : members) {
    if (path.size() == member.name.size() + 1 && path.front() == '/' && path.substr(1) == member.name)
      return &member;
  }
  return nullptr;
}

inline bool complete(const std::filesystem::path& folder) {
  return std::all_of(members.begin(), members.end(), [&](const Member& member) {
    return !member.needed || std::filesystem::is_regular_file(folder / member.name);
  });
}

/// Unpacks the archive into `<root>/cifar-10-batches-bin`, which appears only when it is whole.
inline void extract(const std::filesystem::path& archive_file, const std::filesystem::path& root) {
  namespace fs = std::filesystem;
  const auto fail = [&](std::string_view why) {
    throw Error("cannot unpack {}: {}; remove it and download it again", archive_file.string(), why);
  };
  std::string pattern = (root / ".cifar-10-XXXXXX").string();
  if (!::mkdtemp(pattern.data())) {
    throw Error("cannot write to {}: {}; choose another folder", root.string(),
                std::generic_category().message(errno));
  }
  struct Scratch {
    fs::path path;
    ~Scratch() {
      std::error_code ignored;
      fs::remove_all(path, ignored);
    }
  } scratch{pattern};
  const fs::path folder = scratch.path / folder_name;  // mkdtemp's own folder is closed to other users
  fs::create_directory(folder);

  const std::unique_ptr<archive, int (*)(archive*)> tar(archive_read_new(), &archive_read_free);
  archive_read_support_filter_gzip(tar.get());
  archive_read_support_format_tar(tar.get());
  const auto why = [&] {
    const char* text = archive_error_string(tar.get());
    return std::string_view(text ? text : "it is damaged");
  };
  if (archive_read_open_filename(tar.get(), archive_file.c_str(), 1 << 16) != ARCHIVE_OK) fail(why());

  std::set<std::string_view> seen;
  std::vector<char> block(1 << 16);
  archive_entry* entry = nullptr;
  for (int code; (code = archive_read_next_header(tar.get(), &entry)) != ARCHIVE_EOF;) {
    if (code != ARCHIVE_OK) fail(why());
    const char* path = archive_entry_pathname(entry);
    const Member* member = path ? member_at(path) : nullptr;
    if (!member) continue;
    if (archive_entry_filetype(entry) != AE_IFREG || archive_entry_hardlink(entry)) {
      fail(fmt::format("{} is not a plain file", member->name));
    }
    if (!seen.insert(member->name).second) fail(fmt::format("{} is there twice", member->name));
    AtomicFile file(folder / member->name);
    std::int64_t written = 0;
    for (la_ssize_t got; (got = archive_read_data(tar.get(), block.data(), block.size())) != 0;) {
      if (got < 0) fail(why());
      if ((written += got) > member->largest) fail(fmt::format("{} is too long", member->name));
      file.write(block.data(), static_cast<std::size_t>(got));
    }
    file.commit();
  }
  if (!complete(folder)) fail("a batch is missing");

  std::error_code failed;
  fs::rename(folder, root / folder_name, failed);
  if (failed) {
    throw Error("cannot write {}: {}; remove what is there and run again", (root / folder_name).string(),
                failed.message());
  }
}

}  // namespace detail::cifar

/// Whether an earlier `download_cifar10(root)` broke off with a part that the next one goes on from.
inline bool download_has_begun(const std::filesystem::path& root) {
  std::error_code none;
  const auto bytes = std::filesystem::file_size(root / "cifar-10-binary.tar.gz.partial", none);
  return !none && bytes > 0;
}

/// Brings the binary form of CIFAR-10 into `<root>/cifar-10-batches-bin`, where `data::cifar10(root)` finds
/// it: `fetch` of the archive, its eight files unpacked (nothing else in it is touched), the archive removed.
/// Does nothing when the batches are there. \throws Error as `fetch`, or when the archive is not what it
/// should be.
inline void download_cifar10(
    const std::filesystem::path& root,
    const std::string& url = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    const std::string& sha256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    std::uint64_t bytes = 170'052'171) {
  if (detail::cifar::complete(root / detail::cifar::folder_name)) return;
  const Download archive{.url = url, .sha256 = sha256, .bytes = bytes, .to = root / "cifar-10-binary.tar.gz"};
  fetch(archive);
  detail::cifar::extract(archive.to, root);
  std::error_code ignored;
  std::filesystem::remove(archive.to, ignored);
}

}  // namespace refine::data
