#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <refine/core/error.hpp>

namespace refine {

/// A file that carries its final name only when it is whole: it grows beside it under a partial name, and
/// `commit` renames it in one step, over an older file of that name. Not committed, it leaves nothing behind.
/// Every member throws `Error` (path, reason, what to do) when the disk is full, a folder is in the way, a
/// permission lacks. A symbolic link is written through: what it points at is replaced.
class AtomicFile {
 public:
  /// Creates the parent folders and the partial file.
  explicit AtomicFile(std::filesystem::path final_path) : final_path_(followed(std::move(final_path))) {
    std::error_code error;
    if (!final_path_.has_filename() || std::filesystem::is_directory(final_path_, error)) fail(EISDIR);
    // A device or a pipe would be replaced by a file.
    if (std::filesystem::is_other(final_path_, error)) {
      throw Error("cannot write {}: it is a device or a pipe; choose another path", final_path_.string());
    }
    const auto folder =
        final_path_.has_parent_path() ? final_path_.parent_path() : std::filesystem::path(".");
    std::filesystem::create_directories(folder, error);
    if (error) fail(error.value());
    // Not mkstemp, whose files are readable by their owner alone: a result is as readable as umask allows.
    static std::atomic<unsigned> count = 0;
    int descriptor = -1;
    do {
      partial_path_ = folder / fmt::format(".refine-{}-{}.partial", ::getpid(), count++);
      descriptor = ::open(partial_path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    } while (descriptor < 0 && errno == EEXIST);
    if (descriptor < 0) fail(errno);
    file_.reset(::fdopen(descriptor, "wb"));
    if (!file_) {
      const int reason = errno;
      ::close(descriptor);
      fail(reason);
    }
  }

  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  ~AtomicFile() { discard(); }

  /// The name the file will have.
  const std::filesystem::path& path() const { return final_path_; }

  /// \pre not committed
  void write(std::string_view bytes) { write(bytes.data(), bytes.size()); }

  /// \pre not committed
  void write(const void* bytes, std::size_t count) {
    if (count > 0 && std::fwrite(bytes, 1, count, file_.get()) != count) fail(errno);
  }

  /// Flushes to the disk and gives the file its final name. Once.
  void commit() {
    if (std::fflush(file_.get()) != 0 || ::fsync(::fileno(file_.get())) != 0) fail(errno);
    if (std::fclose(file_.release()) != 0) fail(errno);
    if (::rename(partial_path_.c_str(), final_path_.c_str()) != 0) fail(errno);
    partial_path_.clear();
  }

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };

  static std::filesystem::path followed(std::filesystem::path path) {
    std::error_code error;
    if (!std::filesystem::is_symlink(path, error)) return path;
    auto target = std::filesystem::weakly_canonical(path, error);
    return error ? path : target;
  }

  void discard() noexcept {
    file_.reset();
    if (!partial_path_.empty()) ::unlink(partial_path_.c_str());
    partial_path_.clear();
  }

  static const char* advice(int reason) {
    switch (reason) {
      case ENOSPC:
        return "free some space or write to another disk";
      case EDQUOT:
        return "free some space within your quota or write to another disk";
      case EFBIG:
        return "raise the file size limit (ulimit -f) or write to another disk";
      case EISDIR:
        return "name a file in it";
      case ENOTDIR:
      case EEXIST:
        return "a file stands where a folder is needed; move it away or choose another path";
      case EACCES:
      case EPERM:
      case EROFS:
        return "choose a folder you may write to";
      case ENAMETOOLONG:
        return "choose a shorter path";
      default:
        return "check the disk or choose another path";
    }
  }

  // The partial file goes at once, and not only with the object: on a full disk its space is wanted.
  [[noreturn]] void fail(int reason) {
    discard();
    throw Error("cannot write {}: {}; {}", final_path_.string(), std::strerror(reason), advice(reason));
  }

  std::filesystem::path final_path_;
  std::filesystem::path partial_path_;
  std::unique_ptr<std::FILE, Close> file_;
};

/// Writes a whole file, or leaves what was there before. \throws Error
inline void write_file(const std::filesystem::path& path, std::string_view bytes) {
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}

}  // namespace refine
