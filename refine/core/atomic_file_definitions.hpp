#pragma once

// What atomic_file.hpp declares.

#include <refine/core/atomic_file.hpp>

#include <fcntl.h>
#include <fmt/core.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>

#include <refine/core/compiled.hpp>

namespace refine {

REFINE_DEFINITION AtomicFile::AtomicFile(std::filesystem::path final_path)
    : final_path_(followed(std::move(final_path))) {
  std::error_code error;
  if (!final_path_.has_filename() || std::filesystem::is_directory(final_path_, error)) fail(EISDIR);
  // A device or a pipe would be replaced by a file.
  if (std::filesystem::is_other(final_path_, error)) {
    throw Error("cannot write {}: it is a device or a pipe; choose another path", final_path_.string());
  }
  const auto folder = final_path_.has_parent_path() ? final_path_.parent_path() : std::filesystem::path(".");
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

REFINE_DEFINITION void AtomicFile::write(const void* bytes, std::size_t count) {
  if (count > 0 && std::fwrite(bytes, 1, count, file_.get()) != count) fail(errno);
}

REFINE_DEFINITION void AtomicFile::commit() {
  if (std::fflush(file_.get()) != 0 || ::fsync(::fileno(file_.get())) != 0) fail(errno);
  if (std::fclose(file_.release()) != 0) fail(errno);
  if (::rename(partial_path_.c_str(), final_path_.c_str()) != 0) fail(errno);
  partial_path_.clear();
}

REFINE_DEFINITION std::filesystem::path AtomicFile::followed(std::filesystem::path path) {
  std::error_code error;
  if (!std::filesystem::is_symlink(path, error)) return path;
  auto target = std::filesystem::weakly_canonical(path, error);
  return error ? path : target;
}

REFINE_DEFINITION void AtomicFile::discard() noexcept {
  file_.reset();
  if (!partial_path_.empty()) ::unlink(partial_path_.c_str());
  partial_path_.clear();
}

REFINE_DEFINITION const char* AtomicFile::advice(int reason) {
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

REFINE_DEFINITION void AtomicFile::fail(int reason) {
  discard();
  throw Error("cannot write {}: {}; {}", final_path_.string(), std::strerror(reason), advice(reason));
}

REFINE_DEFINITION void write_file(const std::filesystem::path& path, std::string_view bytes) {
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}

}  // namespace refine
