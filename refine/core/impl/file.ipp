#pragma once

#include <refine/core/file.hpp>

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <system_error>
#include <utility>
#include <vector>

#include <refine/core/config.hpp>
#include <refine/core/text.hpp>

namespace refine::detail {

REFINE_INLINE void fail_to_read(const std::filesystem::path& path, int reason) {
  throw Error("cannot read {}: {}; check the path and its permissions", path.string(),
              std::generic_category().message(reason));
}

REFINE_INLINE int open_regular_file(const std::filesystem::path& path, std::uint64_t& size) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  const auto refuse_device = [&] {
    throw Error("cannot read {}: it is a device or a pipe; copy its content to a file", path.string());
  };
  if (descriptor < 0 && errno == ENXIO) refuse_device();  // a socket, or a device without a driver
  if (descriptor < 0) fail_to_read(path, errno);
  struct ::stat about = {};
  const int reason = ::fstat(descriptor, &about) != 0 ? errno : S_ISDIR(about.st_mode) ? EISDIR : 0;
  if (reason == 0 && S_ISREG(about.st_mode)) {
    size = static_cast<std::uint64_t>(about.st_size);
    return descriptor;
  }
  ::close(descriptor);
  if (reason == 0) refuse_device();
  fail_to_read(path, reason);
}

REFINE_INLINE Stream open_regular_stream(const std::filesystem::path& path, std::uint64_t& size) {
  const int descriptor = open_regular_file(path, size);
  Stream stream(::fdopen(descriptor, "rb"), &std::fclose);
  if (stream) return stream;
  const int reason = errno;
  ::close(descriptor);
  fail_to_read(path, reason);
}

REFINE_INLINE std::string read_beginning(const std::filesystem::path& path, std::size_t count,
                                         std::uint64_t& size) {
  try {
    const Stream stream = open_regular_stream(path, size);
    std::string bytes(count, '\0');
    bytes.resize(std::fread(bytes.data(), 1, count, stream.get()));
    return bytes;
  } catch (const Error&) {
    return {};
  }
}

REFINE_INLINE std::string read_beginning(const std::filesystem::path& path, std::size_t count) {
  std::uint64_t size = 0;
  return read_beginning(path, count, size);
}

}  // namespace refine::detail

namespace refine::files {

REFINE_INLINE bool exists(const std::filesystem::path& path) {
  std::error_code unknown;
  return std::filesystem::exists(path, unknown);
}

REFINE_INLINE std::string lower_extension(const std::filesystem::path& file) {
  return text::lower(file.extension().string());
}

REFINE_INLINE std::string read(const std::filesystem::path& path, std::uintmax_t max_bytes) {
  std::uint64_t expected = 0;
  const refine::detail::Stream file = refine::detail::open_regular_stream(path, expected);
  std::setbuf(file.get(), nullptr);  // a single read, without a copy through a buffer
  if (expected > max_bytes)
    throw Error("cannot read {}: it has {} bytes, more than the {} that are read", path.string(), expected,
                max_bytes);
  std::string bytes(expected, '\0');
  const std::size_t got = std::fread(bytes.data(), 1, bytes.size(), file.get());
  if (std::ferror(file.get())) refine::detail::fail_to_read(path, errno);
  bytes.resize(got);
  return bytes;
}

}  // namespace refine::files

namespace refine::detail {

/// Writes a folder's entries to the disk. Ignores folders that cannot be opened, and file systems
/// that do not sync folders.
/// \return 0, or the `errno` of a failing disk
inline int sync_folder(const std::filesystem::path& folder) {
  const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return 0;
  const int reason = ::fsync(descriptor) == 0 ? 0 : errno;
  ::close(descriptor);
  return reason == EIO || reason == ENOSPC || reason == EDQUOT ? reason : 0;
}

REFINE_INLINE const char* writing_advice(int reason) {
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
      return "a file has the name of a folder that is needed; move it away or choose another path";
    case EACCES:
    case EPERM:
    case EROFS:
      return "choose a folder with write permission";
    case ENAMETOOLONG:
      return "choose a shorter path";
    default:
      return "check the disk or choose another path";
  }
}

/// Returns a path of an open file that has no name.
inline std::string name_of(int descriptor) {
  return fmt::format("/proc/self/fd/{}", descriptor);
}

/// Returns a name for a temporary file, another one at each call.
inline std::filesystem::path partial_name(const std::filesystem::path& folder) {
  static std::atomic<unsigned> count = 0;
  return folder / fmt::format(".refine-{}-{}.partial", ::getpid(), count++);
}

/// Appends all bytes of an open file to another one.
/// \return 0, or the `errno` of what failed
inline int copy_bytes(int from, int to) {
  std::vector<char> bytes(std::size_t{1} << 20);
  for (::off_t done = 0;;) {
    const ::ssize_t count = ::pread(from, bytes.data(), bytes.size(), done);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return count == 0 ? 0 : errno;
    for (::ssize_t written = 0; written < count;) {
      const ::ssize_t part = ::write(to, bytes.data() + written, static_cast<std::size_t>(count - written));
      if (part < 0 && errno != EINTR) return errno;
      written += std::max<::ssize_t>(part, 0);
    }
    done += count;
  }
}

/// Gives an open file the owner and the group of another one. Where the system does not allow it, the file stays
/// the process's.
inline void take_over_owner(int descriptor, const struct ::stat& other) {
  struct ::stat now = {};
  if (::fstat(descriptor, &now) == 0 && (now.st_uid != other.st_uid || now.st_gid != other.st_gid) &&
      ::fchown(descriptor, other.st_uid, other.st_gid) != 0) {
    [[maybe_unused]] const int group_alone = ::fchown(descriptor, static_cast<::uid_t>(-1), other.st_gid);
  }
}

REFINE_INLINE int create_folders(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> changed;  // a new folder is an entry of its parent
  std::error_code error;
  for (auto made = folder; !made.empty() && !std::filesystem::exists(made, error);) {
    made = made.parent_path();
    changed.push_back(made.empty() ? std::filesystem::path(".") : made);
  }
  std::filesystem::create_directories(folder, error);
  if (error) return error.value();
  for (const auto& parent : changed) {
    if (const int reason = sync_folder(parent); reason != 0) return reason;
  }
  return 0;
}

}  // namespace refine::detail

namespace refine {

REFINE_INLINE AtomicFile::AtomicFile(std::filesystem::path final_path)
    : final_path_(followed(std::move(final_path))) {
  std::error_code error;
  if (std::filesystem::is_symlink(final_path_, error)) fail(ELOOP);
  if (!final_path_.has_filename() || std::filesystem::is_directory(final_path_, error)) fail(EISDIR);
  // A device or a pipe would be replaced by a file.
  if (std::filesystem::is_other(final_path_, error)) {
    throw Error("cannot write {}: it is a device or a pipe; choose another path", final_path_.string());
  }
  if (const int reason = detail::create_folders(folder()); reason != 0) fail(reason);
  open_partial();
}

REFINE_INLINE bool AtomicFile::is_partial(const std::filesystem::path& file) {
  const std::string name = file.filename().string();  // as `open_partial` makes it
  return name.starts_with(".refine-") && name.ends_with(".partial");
}

REFINE_INLINE void AtomicFile::open_partial() {
  struct ::stat old = {};
  const bool replaces = ::stat(final_path_.c_str(), &old) == 0 && S_ISREG(old.st_mode);
  // Not mkstemp, whose files only the owner can read: a new file gets the permissions that umask
  // allows. One that replaces a private file is private from the start.
  const ::mode_t mode = replaces ? 0600 : 0666;
  // Where the file system can, the file has no name until it is complete: a process that is killed leaves nothing.
  int descriptor = ::open(folder().c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, mode);
  if (descriptor >= 0 &&
      ::access(detail::name_of(descriptor).c_str(), F_OK) != 0) {  // no /proc to name it by
    ::close(descriptor);
    descriptor = -1;
  }
  if (descriptor < 0) descriptor = open_named(mode);
  file_.reset(::fdopen(descriptor, "wb"));
  if (!file_) {
    const int reason = errno;
    ::close(descriptor);
    fail(reason);
  }
  if (!replaces) return;
  detail::take_over_owner(descriptor, old);
  [[maybe_unused]] const int permissions = ::fchmod(descriptor, old.st_mode & 0777);
}

REFINE_INLINE int AtomicFile::open_named(unsigned mode) {
  int descriptor = -1;
  do {
    partial_path_ = detail::partial_name(folder());
    descriptor = ::open(partial_path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
  } while (descriptor < 0 && errno == EEXIST);
  if (descriptor >= 0) return descriptor;
  const int reason = errno;
  partial_path_.clear();
  fail(reason);
}

REFINE_INLINE std::filesystem::path AtomicFile::folder() const {
  return final_path_.has_parent_path() ? final_path_.parent_path() : std::filesystem::path(".");
}

REFINE_INLINE void AtomicFile::write(const void* bytes, std::size_t count) {
  if (count > 0 && std::fwrite(bytes, 1, count, file_.get()) != count) fail(errno);
}

REFINE_INLINE void AtomicFile::commit() {
  if (std::fflush(file_.get()) != 0 || ::fsync(::fileno(file_.get())) != 0) fail(errno);
  if (partial_path_.empty()) name_partial();
  if (std::fclose(file_.release()) != 0) fail(errno);
  if (::rename(partial_path_.c_str(), final_path_.c_str()) != 0) fail(errno);
  partial_path_.clear();
  if (const int reason = detail::sync_folder(folder()); reason != 0) fail(reason);
}

REFINE_INLINE void AtomicFile::name_partial() {
  const std::string unnamed = detail::name_of(::fileno(file_.get()));
  int result = 0;
  do {
    partial_path_ = detail::partial_name(folder());
    result = ::linkat(AT_FDCWD, unnamed.c_str(), AT_FDCWD, partial_path_.c_str(), AT_SYMLINK_FOLLOW);
  } while (result != 0 && errno == EEXIST);
  if (result == 0) return;
  const int reason = errno;
  partial_path_.clear();
  if (reason == ENOSPC || reason == EDQUOT || reason == EIO) fail(reason);
  copy_to_partial();  // a security policy or the file system forbids the link
}

REFINE_INLINE void AtomicFile::copy_to_partial() {
  struct ::stat unnamed = {};
  if (::fstat(::fileno(file_.get()), &unnamed) != 0) fail(errno);
  const int to = open_named(0600);
  int reason = detail::copy_bytes(::fileno(file_.get()), to);
  detail::take_over_owner(to, unnamed);
  [[maybe_unused]] const int permissions = ::fchmod(to, unnamed.st_mode & 0777);
  if (reason == 0 && ::fsync(to) != 0) reason = errno;
  ::close(to);
  if (reason != 0) fail(reason);
}

REFINE_INLINE std::filesystem::path AtomicFile::followed(std::filesystem::path path) {
  std::error_code error;
  constexpr int max_links = 40;  // as Linux has it
  for (int i = 0; i < max_links && std::filesystem::is_symlink(path, error); ++i) {
    // Also the target of a link may be missing.
    path = path.parent_path() / std::filesystem::read_symlink(path, error);
  }
  return path;
}

REFINE_INLINE void AtomicFile::discard() noexcept {
  file_.reset();
  if (!partial_path_.empty()) ::unlink(partial_path_.c_str());
  partial_path_.clear();
}

REFINE_INLINE void AtomicFile::fail(int reason) {
  discard();
  throw Error("cannot write {}: {}; {}", final_path_.string(), std::strerror(reason),
              detail::writing_advice(reason));
}

}  // namespace refine

namespace refine::files {

REFINE_INLINE void write(const std::filesystem::path& path, std::string_view bytes) {
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}

}  // namespace refine::files
