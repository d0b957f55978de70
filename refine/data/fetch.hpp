#pragma once

#include <curl/curl.h>
#include <refine/core/error.hpp>
#include <refine/core/file_bytes.hpp>
#include <refine/core/progress_meter.hpp>
#include <refine/data/sha256.hpp>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

namespace refine::data {

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
  for (fs::path folder = download.to.parent_path(); !folder.empty() && !is_there(folder);
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

}  // namespace refine::data
