#pragma once

#include <refine/data/download.hpp>

#include <archive.h>
#include <archive_entry.h>
#include <curl/curl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <set>
#include <string_view>
#include <system_error>
#include <vector>

#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/core/file.hpp>
#include <refine/core/progress_meter.hpp>
#include <refine/core/sha256.hpp>
#include <refine/data/detail/cifar10_archive.hpp>

namespace refine::data {

namespace detail {

/// One request for the bytes that a partial file lacks, which are appended to it.
class Transfer {
 public:
  Transfer(const Download& download, const std::filesystem::path& partial, ProgressMeter& meter)
      : download_(download), partial_(partial), meter_(meter) {
    static const CURLcode ready = curl_global_init(CURL_GLOBAL_DEFAULT);
    curl_.reset(ready == CURLE_OK ? curl_easy_init() : nullptr);
    if (!curl_)
      throw Error("cannot download {}: libcurl cannot be initialised; check its installation", download.url);
    std::error_code missing;
    const auto size = std::filesystem::file_size(partial, missing);
    received_ = begin_ = missing ? 0 : size;
    file_.reset(std::fopen(partial.c_str(), "ab"));
    if (!file_) throw cannot_write(errno);
  }

  /// Runs the request. Returns an empty string if the server completed its answer, or the reason if
  /// not.
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
    set(CURLOPT_LOW_SPEED_LIMIT, 100L);  // bytes per second; `watch` detects silence sooner
    set(CURLOPT_LOW_SPEED_TIME, static_cast<long>(download_.stall.count()));
    set(CURLOPT_NOPROGRESS, 0L);
    set(CURLOPT_XFERINFOFUNCTION, &Transfer::watch);
    set(CURLOPT_XFERINFODATA, this);
    set(CURLOPT_ERRORBUFFER, message_);
    set(CURLOPT_USERAGENT, "refine");
    set(CURLOPT_WRITEFUNCTION, &Transfer::receive);
    set(CURLOPT_WRITEDATA, this);
    if (begin_ > 0) set(CURLOPT_RANGE, range.c_str());
    const CURLcode code = curl_easy_perform(curl_.get());
    if (const int reason = file_ && std::fclose(file_.release()) != 0 ? errno : write_error_) {
      throw cannot_write(reason);
    }
    if (code == CURLE_OK) return {};
    if (stalled_) return fmt::format("no data for {} s", download_.stall.count());
    if (too_long_) return "the server sends more than the expected length";
    return message_[0] ? message_ : curl_easy_strerror(code);
  }

  /// True if the request continued a partial file.
  bool resumed() const {
    return begin_ > 0;
  }

  /// Returns the length of the partial file.
  std::uint64_t received() const {
    return received_;
  }

  /// True if the server answered with something other than the file, so that trying again is
  /// useless.
  bool refused() const {
    const bool may_answer_later = status() == 408 || status() == 429 || status() >= 500;
    return too_long_ || (status() >= 400 && !may_answer_later);
  }

  /// Returns the HTTP status.
  long status() const {
    long code = 0;
    curl_easy_getinfo(curl_.get(), CURLINFO_RESPONSE_CODE, &code);
    return code;
  }

 private:
  using Clock = std::chrono::steady_clock;

  void set(CURLoption option, auto value) {
    if (curl_easy_setopt(curl_.get(), option, value) != CURLE_OK) {
      throw Error("cannot download {}: libcurl lacks an option; install a newer version", download_.url);
    }
  }

  Error cannot_write(int reason) const {
    return Error("cannot write {}: {}; free some space or use another folder", partial_.string(),
                 std::generic_category().message(reason));
  }

  /// Called by libcurl about once a second; a result other than 0 ends the transfer.
  static int watch(void* self, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
    auto& transfer = *static_cast<Transfer*>(self);
    transfer.stalled_ = Clock::now() - transfer.last_data_ >= transfer.download_.stall;
    return transfer.stalled_ ? 1 : 0;
  }

  static std::size_t receive(char* data, std::size_t one, std::size_t count, void* self) {
    return static_cast<Transfer*>(self)->append(data, one * count);
  }

  std::size_t append(const char* data, std::size_t n) {
    if (begin_ > 0 && status() == 200) {  // the server ignores ranges and sends the whole file
      begin_ = received_ = 0;
      file_.reset(std::fopen(partial_.c_str(), "wb"));
      if (!file_) return write_error_ = errno, 0;
    }
    if (received_ + n > download_.bytes) return too_long_ = true, 0;
    if (std::fwrite(data, 1, n, file_.get()) != n) return write_error_ = errno, 0;
    received_ += n;
    last_data_ = Clock::now();
    meter_.update(static_cast<std::int64_t>(received_));
    return n;
  }

  const Download& download_;
  const std::filesystem::path& partial_;
  ProgressMeter& meter_;
  std::unique_ptr<CURL, void (*)(CURL*)> curl_{nullptr, &curl_easy_cleanup};
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_{nullptr, &std::fclose};
  std::uint64_t begin_ = 0, received_ = 0;
  int write_error_ = 0;
  bool too_long_ = false, stalled_ = false;
  Clock::time_point last_data_ = Clock::now();
  char message_[CURL_ERROR_SIZE] = {};
};

}  // namespace detail

REFINE_INLINE void download(const Download& file) {
  namespace fs = std::filesystem;
  const auto is_right = [&](const fs::path& path) {
    std::error_code failed;
    return fs::file_size(path, failed) == file.bytes && !failed && files::sha256(path) == file.sha256;
  };
  const auto finish = [&](const fs::path& partial) {
    std::error_code failed;
    fs::rename(partial, file.to, failed);
    if (failed) {
      throw Error("cannot write {}: {}; use another path", file.to.string(), failed.message());
    }
  };
  std::error_code failed;
  if (fs::is_regular_file(file.to, failed) && is_right(file.to)) return;
  struct NewFolders {  // removed again if they stay empty
    std::vector<fs::path> inner_first = {};
    ~NewFolders() {
      std::error_code not_empty;
      for (const fs::path& folder : inner_first) fs::remove(folder, not_empty);
    }
  } new_folders;
  for (fs::path folder = file.to.parent_path(); !folder.empty() && !files::exists(folder);
       folder = folder.parent_path()) {
    new_folders.inner_first.push_back(folder);
  }
  if (!new_folders.inner_first.empty()) fs::create_directories(new_folders.inner_first.front(), failed);

  fs::path partial = file.to;
  partial += ".partial";
  if (is_right(partial)) return finish(partial);
  if (const auto size = fs::file_size(partial, failed); !failed && size >= file.bytes)
    fs::remove(partial, failed);

  for (bool again = true; again;) {
    ProgressMeter meter("downloading " + file.to.filename().string(), static_cast<std::int64_t>(file.bytes),
                        "B");
    detail::Transfer transfer(file, partial, meter);
    const std::string reason = transfer.run();
    if (reason.empty() && is_right(partial)) {
      meter.finish();
      return finish(partial);
    }
    if (!reason.empty() && !transfer.refused()) {  // interrupted
      if (transfer.received() == 0) fs::remove(partial, failed);
      throw Error(
          "cannot download {}: {} after {} of {} bytes; check the connection and run again to continue",
          file.url, reason, transfer.received(), file.bytes);
    }
    if (reason.empty() && transfer.received() < file.bytes && transfer.status() == 206) {
      throw Error(
          "cannot download {}: the server sent a part that ends at {} of {} bytes; run again to continue",
          file.url, transfer.received(), file.bytes);
    }
    fs::remove(partial, failed);
    again = transfer.resumed();  // the partial file may have been another file: start again, once
    if (again) continue;
    if (!reason.empty()) {
      throw Error("cannot download {}: {}; check the address, or download it by other means to {}", file.url,
                  reason, file.to.string());
    }
    if (transfer.received() != file.bytes) {
      throw Error(
          "cannot download {}: wrong length (got {} bytes, expected {}), file removed; check the address",
          file.url, transfer.received(), file.bytes);
    }
    throw Error("cannot download {}: wrong SHA-256 (expected {}), file removed; check the address", file.url,
                file.sha256);
  }
}

}  // namespace refine::data

namespace refine::data::detail::cifar {

inline constexpr std::string_view folder_name = "cifar-10-batches-bin";

/// A file of the archive.
struct Member {
  std::string_view name;
  std::int64_t max_bytes;
  bool required = true;
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

/// Returns the member with this path, or null. Only the eight names, in their folder, are unpacked.
inline const Member* find_member(std::string_view path) {
  if (path.starts_with("./")) path.remove_prefix(2);
  if (!path.starts_with(folder_name)) return nullptr;
  path.remove_prefix(folder_name.size());
  for (const Member& member : members) {
    if (path.size() == member.name.size() + 1 && path.front() == '/' && path.substr(1) == member.name)
      return &member;
  }
  return nullptr;
}

/// True if the folder contains all required members.
inline bool is_complete(const std::filesystem::path& folder) {
  return std::all_of(members.begin(), members.end(), [&](const Member& member) {
    return !member.required || std::filesystem::is_regular_file(folder / member.name);
  });
}

REFINE_INLINE void extract(const std::filesystem::path& archive_file, const std::filesystem::path& root) {
  namespace fs = std::filesystem;
  const auto fail = [&](std::string_view reason) {
    throw Error("cannot unpack {}: {}; remove it and download it again", archive_file.string(), reason);
  };
  std::string pattern = (root / ".cifar-10-XXXXXX").string();
  if (!::mkdtemp(pattern.data())) {
    throw Error("cannot write to {}: {}; use another folder", root.string(),
                std::generic_category().message(errno));
  }
  struct Scratch {
    fs::path path;
    ~Scratch() {
      std::error_code ignored;
      fs::remove_all(path, ignored);
    }
  } scratch{pattern};
  const fs::path folder = scratch.path / folder_name;  // mkdtemp's folder is closed to other users
  fs::create_directory(folder);

  const std::unique_ptr<archive, int (*)(archive*)> tar(archive_read_new(), &archive_read_free);
  archive_read_support_filter_gzip(tar.get());
  archive_read_support_format_tar(tar.get());
  const auto reason = [&] {
    const char* text = archive_error_string(tar.get());
    return std::string_view(text ? text : "damaged archive");
  };
  if (archive_read_open_filename(tar.get(), archive_file.c_str(), 1 << 16) != ARCHIVE_OK) fail(reason());

  std::set<std::string_view> seen;
  std::vector<char> block(1 << 16);
  archive_entry* entry = nullptr;
  for (int code; (code = archive_read_next_header(tar.get(), &entry)) != ARCHIVE_EOF;) {
    if (code != ARCHIVE_OK) fail(reason());
    const char* path = archive_entry_pathname(entry);
    const Member* member = path ? find_member(path) : nullptr;
    if (!member) continue;
    if (archive_entry_filetype(entry) != AE_IFREG || archive_entry_hardlink(entry)) {
      fail(fmt::format("{} is not a regular file", member->name));
    }
    if (!seen.insert(member->name).second) fail(fmt::format("duplicate file {}", member->name));
    AtomicFile file(folder / member->name);
    std::int64_t written = 0;
    for (la_ssize_t got; (got = archive_read_data(tar.get(), block.data(), block.size())) != 0;) {
      if (got < 0) fail(reason());
      if ((written += got) > member->max_bytes)
        fail(fmt::format("{} has more than the {} bytes allowed", member->name, member->max_bytes));
      file.write(block.data(), static_cast<std::size_t>(got));
    }
    file.commit();
  }
  if (!is_complete(folder)) fail("a required file is missing");

  std::error_code failed;
  fs::rename(folder, root / folder_name, failed);
  if (failed) {
    throw Error("cannot write {}: {}; remove what exists at this path and run again",
                (root / folder_name).string(), failed.message());
  }
}

}  // namespace refine::data::detail::cifar

namespace refine::data {

REFINE_INLINE bool cifar10_download_has_begun(const std::filesystem::path& root) {
  std::error_code missing;
  const auto bytes = std::filesystem::file_size(root / "cifar-10-binary.tar.gz.partial", missing);
  return !missing && bytes > 0;
}

REFINE_INLINE void download_cifar10(const std::filesystem::path& root, const std::string& url,
                                    const std::string& sha256, std::uint64_t bytes) {
  if (detail::cifar::is_complete(root / detail::cifar::folder_name)) return;
  const Download archive{.url = url, .sha256 = sha256, .bytes = bytes, .to = root / "cifar-10-binary.tar.gz"};
  download(archive);
  detail::cifar::extract(archive.to, root);
  std::error_code ignored;
  std::filesystem::remove(archive.to, ignored);
}

}  // namespace refine::data
