#pragma once

#include <archive.h>
#include <archive_entry.h>
#include <curl/curl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/core/file.hpp>
#include <refine/core/progress_meter.hpp>
#include <refine/core/sha256.hpp>

namespace refine::data {

/// The SHA-256 of a file, as 64 lower-case hexadecimal digits. \throws Error when it cannot be read.
inline std::string sha256(const std::filesystem::path& path) {
  const auto fail = [&](const std::string& why) {
    throw Error("cannot read {}: {}; check the path and its rights", path.string(), why);
  };
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), &std::fclose);
  if (!file) fail(std::generic_category().message(errno));

  Sha256 digest;
  std::vector<unsigned char> block(1 << 16);
  while (const std::size_t got = std::fread(block.data(), 1, block.size(), file.get())) {
    digest.add(block.data(), got);
  }
  if (std::ferror(file.get())) fail(std::generic_category().message(errno));
  return digest.hex();
}

/// A file that lies on a server and is known beforehand.
struct Download {
  std::string url;                 ///< http or https
  std::string sha256;              ///< 64 lower-case hexadecimal digits
  std::uint64_t bytes = 0;         ///< its length
  std::filesystem::path to;        ///< its final name
  std::chrono::seconds stall{30};  ///< give up when nothing comes for so long
};

namespace detail {

/// One request for what `partial` still lacks, appended to it.
class Transfer {
 public:
  Transfer(const Download& download, const std::filesystem::path& partial, ProgressMeter& meter)
      : download_(download), partial_(partial), meter_(meter) {
    static const CURLcode ready = curl_global_init(CURL_GLOBAL_DEFAULT);
    curl_.reset(ready == CURLE_OK ? curl_easy_init() : nullptr);
    if (!curl_)
      throw Error("cannot download {}: libcurl does not start; check its installation", download.url);
    std::error_code none;
    const auto size = std::filesystem::file_size(partial, none);
    have_ = begin_ = none ? 0 : size;
    file_.reset(std::fopen(partial.c_str(), "ab"));
    if (!file_) throw cannot_write(errno);
  }

  /// Empty when the server sent all it wanted to, or else why not.
  std::string run() {
    const std::string range = std::to_string(begin_) + "-";
    set(CURLOPT_URL, download_.url.c_str());
#if LIBCURL_VERSION_NUM >= 0x075500
    set(CURLOPT_PROTOCOLS_STR, "http,https");
    set(CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
#else
    set(CURLOPT_PROTOCOLS, long{CURLPROTO_HTTP | CURLPROTO_HTTPS});
    set(CURLOPT_REDIR_PROTOCOLS, long{CURLPROTO_HTTP | CURLPROTO_HTTPS});
#endif
    set(CURLOPT_FOLLOWLOCATION, 1L);
    set(CURLOPT_MAXREDIRS, 5L);
    set(CURLOPT_FAILONERROR, 1L);
    set(CURLOPT_NOSIGNAL, 1L);
    set(CURLOPT_CONNECTTIMEOUT, 5L);
    set(CURLOPT_LOW_SPEED_LIMIT, 100L);  // bytes a second: a trickle; silence is found sooner by `watch`
    set(CURLOPT_LOW_SPEED_TIME, static_cast<long>(download_.stall.count()));
    set(CURLOPT_NOPROGRESS, 0L);
    set(CURLOPT_XFERINFOFUNCTION, &Transfer::watch);
    set(CURLOPT_XFERINFODATA, this);
    set(CURLOPT_ERRORBUFFER, why_);
    set(CURLOPT_USERAGENT, "refine");
    set(CURLOPT_WRITEFUNCTION, &Transfer::receive);
    set(CURLOPT_WRITEDATA, this);
    if (begin_ > 0) set(CURLOPT_RANGE, range.c_str());
    const CURLcode code = curl_easy_perform(curl_.get());
    if (const int reason = file_ && std::fclose(file_.release()) != 0 ? errno : write_error_) {
      throw cannot_write(reason);
    }
    if (code == CURLE_OK) return {};
    if (stalled_) return fmt::format("nothing came for {} s", download_.stall.count());
    if (too_long_) return "the server sends more than the expected length";
    return why_[0] ? why_ : curl_easy_strerror(code);
  }

  bool resumed() const {
    return begin_ > 0;
  }
  std::uint64_t have() const {
    return have_;
  }

  /// Whether the server answered, but with something that is not the file: asking again would not help.
  bool refused() const {
    return too_long_ || status() >= 400;
  }
  long status() const {
    long code = 0;
    curl_easy_getinfo(curl_.get(), CURLINFO_RESPONSE_CODE, &code);
    return code;
  }

 private:
  using Clock = std::chrono::steady_clock;

  void set(CURLoption option, auto value) {
    if (curl_easy_setopt(curl_.get(), option, value) != CURLE_OK) {
      throw Error("cannot download {}: this libcurl lacks an option; install a newer one", download_.url);
    }
  }

  Error cannot_write(int reason) const {
    return Error("cannot write {}: {}; make room or choose another folder", partial_.string(),
                 std::generic_category().message(reason));
  }

  /// libcurl asks about once a second whether to go on.
  static int watch(void* self, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
    auto& transfer = *static_cast<Transfer*>(self);
    transfer.stalled_ = Clock::now() - transfer.heard_ >= transfer.download_.stall;
    return transfer.stalled_ ? 1 : 0;
  }

  static std::size_t receive(char* data, std::size_t one, std::size_t count, void* self) {
    return static_cast<Transfer*>(self)->append(data, one * count);
  }

  std::size_t append(const char* data, std::size_t n) {
    if (begin_ > 0 && status() == 200) {  // the server knows no ranges and sends all of it
      begin_ = have_ = 0;
      file_.reset(std::fopen(partial_.c_str(), "wb"));
      if (!file_) return write_error_ = errno, 0;
    }
    if (have_ + n > download_.bytes) return too_long_ = true, 0;
    if (std::fwrite(data, 1, n, file_.get()) != n) return write_error_ = errno, 0;
    have_ += n;
    heard_ = Clock::now();
    meter_.update(static_cast<std::int64_t>(have_));
    return n;
  }

  const Download& download_;
  const std::filesystem::path& partial_;
  ProgressMeter& meter_;
  std::unique_ptr<CURL, void (*)(CURL*)> curl_{nullptr, &curl_easy_cleanup};
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_{nullptr, &std::fclose};
  std::uint64_t begin_ = 0, have_ = 0;
  int write_error_ = 0;
  bool too_long_ = false, stalled_ = false;
  Clock::time_point heard_ = Clock::now();
  char why_[CURL_ERROR_SIZE] = {};
};

}  // namespace detail

/// Brings the file to `download.to`, which it is called only once its length and checksum are right; until
/// then it is `<to>.partial`. After a break (the line fails, the program is killed) the next call goes on
/// where it stopped, by HTTP range; where the server knows no ranges, or what lay there was wrong, it begins
/// again. A right file that is there already costs one checksum. Proxies are those of `http_proxy`,
/// `https_proxy` and `no_proxy`. \throws Error when the server cannot be reached within 5 s, refuses, stalls
/// or sends another file, or the disk is full.
inline void fetch(const Download& download) {
  namespace fs = std::filesystem;
  const auto is_right = [&](const fs::path& path) {
    std::error_code none;
    return fs::file_size(path, none) == download.bytes && !none && sha256(path) == download.sha256;
  };
  const auto finish = [&](const fs::path& partial) {
    std::error_code failed;
    fs::rename(partial, download.to, failed);
    if (failed) {
      throw Error("cannot write {}: {}; choose another place", download.to.string(), failed.message());
    }
  };
  std::error_code failed;
  if (fs::is_regular_file(download.to, failed) && is_right(download.to)) return;
  struct NewFolders {  // goes away again when nothing came to lie in it
    std::vector<fs::path> inner_first = {};
    ~NewFolders() {
      std::error_code not_empty;
      for (const fs::path& folder : inner_first) fs::remove(folder, not_empty);
    }
  } made;
  for (fs::path folder = download.to.parent_path(); !folder.empty() && !file_exists(folder);
       folder = folder.parent_path()) {
    made.inner_first.push_back(folder);
  }
  if (!made.inner_first.empty()) fs::create_directories(made.inner_first.front(), failed);

  fs::path partial = download.to;
  partial += ".partial";
  if (is_right(partial)) return finish(partial);
  if (const auto size = fs::file_size(partial, failed); !failed && size >= download.bytes)
    fs::remove(partial, failed);

  for (bool again = true; again;) {
    ProgressMeter meter("downloading " + download.to.filename().string(),
                        static_cast<std::int64_t>(download.bytes), "B");
    detail::Transfer transfer(download, partial, meter);
    const std::string why = transfer.run();
    if (why.empty() && is_right(partial)) {
      meter.finish();
      return finish(partial);
    }
    if (!why.empty() && !transfer.refused()) {  // it broke off
      if (transfer.have() == 0) fs::remove(partial, failed);
      throw Error(
          "cannot download {}: {} after {} of {} bytes; check the connection and run again to go on from "
          "there",
          download.url, why, transfer.have(), download.bytes);
    }
    if (why.empty() && transfer.have() < download.bytes && transfer.status() == 206) {
      throw Error(
          "cannot download {}: the server sent a part that ends at {} of {} bytes; run again to go on from "
          "there",
          download.url, transfer.have(), download.bytes);
    }
    fs::remove(partial, failed);
    again =
        transfer.resumed();  // what lay there may have been of another file: once more, from its beginning
    if (again) continue;
    if (!why.empty()) {
      throw Error("cannot download {}: {}; check the address, or fetch it by other means to {}", download.url,
                  why, download.to.string());
    }
    if (transfer.have() != download.bytes) {
      throw Error("cannot use {}: it has {} bytes instead of {}, so it was thrown away; check the address",
                  download.url, transfer.have(), download.bytes);
    }
    throw Error("cannot use {}: its SHA-256 is not {}, so it was thrown away; check the address",
                download.url, download.sha256);
  }
}

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

// Apart from <refine/data/data.hpp>, so that only what fetches data needs an HTTP client.
