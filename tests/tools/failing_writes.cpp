// A library for LD_PRELOAD: some writes of a process below a folder fail, as on a full or broken disk.
//
//   FAIL_BELOW   the folder, absolute
//   FAIL_FIRST   number of the first call that fails, from 1; none: no call fails
//   FAIL_COUNT   how many calls fail from there; none: all
//   FAIL_ERROR   what they fail with, a number of errno.h
//   FAIL_REPORT  a file that gets the number of calls at the end of the process
//
// Counted are write, writev, pwrite, fwrite, fflush, fclose of what is written, fsync, fdatasync, rename, linkat, mkdir,
// and open of a new file, in the folder. stdio's own calls of write cannot be replaced; hence its functions are.

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

std::atomic<long> calls = 0;

long number(const char* name, long otherwise) {
  const char* text = std::getenv(name);
  return text ? std::atol(text) : otherwise;
}

bool is_below(const char* path) {
  const char* folder = std::getenv("FAIL_BELOW");
  return folder && path && std::strncmp(path, folder, std::strlen(folder)) == 0;
}

/// True for a path in the folder, also if it is relative to the process's own.
bool is_path_below(const char* path) {
  if (!path || path[0] == '/') return is_below(path);
  char folder[4096];
  return ::getcwd(folder, sizeof folder) && is_below(folder);
}

bool is_file_below(int descriptor) {
  char link[64], path[4096];
  std::snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  const ssize_t size = ::readlink(link, path, sizeof path - 1);
  if (size <= 0) return false;
  path[size] = 0;
  return is_below(path);
}

/// Counts a call in the folder. True if it must fail; `errno` is set.
bool fails() {
  const long call = ++calls, first = number("FAIL_FIRST", 0), count = number("FAIL_COUNT", -1);
  if (first == 0 || call < first || (count >= 0 && call >= first + count)) return false;
  errno = static_cast<int>(number("FAIL_ERROR", ENOSPC));
  return true;
}

template <typename Function>
Function* next(const char* name) {
  return reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name));
}

struct Report {
  ~Report() {
    const char* path = std::getenv("FAIL_REPORT");
    if (std::FILE* file = path ? std::fopen(path, "w") : nullptr) {
      std::fprintf(file, "%ld\n", calls.load());
      std::fclose(file);
    }
  }
} const report;

bool writes(std::FILE* file) {
  const int flags = ::fcntl(::fileno(file), F_GETFL);
  return flags >= 0 && (flags & O_ACCMODE) != O_RDONLY;
}

}  // namespace

#define NEXT(name) static auto* const real = next<decltype(::name)>(#name)

extern "C" {

ssize_t write(int descriptor, const void* bytes, size_t count) {
  NEXT(write);
  return is_file_below(descriptor) && fails() ? -1 : real(descriptor, bytes, count);
}

ssize_t writev(int descriptor, const iovec* parts, int count) {
  NEXT(writev);
  return is_file_below(descriptor) && fails() ? -1 : real(descriptor, parts, count);
}

ssize_t pwrite(int descriptor, const void* bytes, size_t count, off_t offset) {
  NEXT(pwrite);
  return is_file_below(descriptor) && fails() ? -1 : real(descriptor, bytes, count, offset);
}

size_t fwrite(const void* bytes, size_t size, size_t count, FILE* file) {
  NEXT(fwrite);
  return is_file_below(::fileno(file)) && fails() ? 0 : real(bytes, size, count, file);
}

int fflush(FILE* file) {
  NEXT(fflush);
  return file && is_file_below(::fileno(file)) && fails() ? EOF : real(file);
}

int fclose(FILE* file) {
  NEXT(fclose);
  const bool failed = is_file_below(::fileno(file)) && writes(file) && fails();
  const int reason = errno;
  const int result = real(file);  // closes it in any case
  if (failed) errno = reason;
  return failed ? EOF : result;
}

int fsync(int descriptor) {
  NEXT(fsync);
  return is_file_below(descriptor) && fails() ? -1 : real(descriptor);
}

int fdatasync(int descriptor) {
  NEXT(fdatasync);
  return is_file_below(descriptor) && fails() ? -1 : real(descriptor);
}

int rename(const char* from, const char* to) noexcept {
  NEXT(rename);
  return is_path_below(to) && fails() ? -1 : real(from, to);
}

int linkat(int from_folder, const char* from, int to_folder, const char* to, int flags) noexcept {
  NEXT(linkat);
  return is_path_below(to) && fails() ? -1 : real(from_folder, from, to_folder, to, flags);
}

int mkdir(const char* path, mode_t mode) noexcept {
  NEXT(mkdir);
  return is_path_below(path) && fails() ? -1 : real(path, mode);
}

int open(const char* path, int flags, ...) {
  NEXT(open);
  mode_t mode = 0;
  const bool unnamed = (flags & O_TMPFILE) == O_TMPFILE;
  if ((flags & O_CREAT) || unnamed) {
    va_list rest;
    va_start(rest, flags);
    mode = va_arg(rest, mode_t);
    va_end(rest);
  }
  const bool is_new = unnamed || ((flags & O_CREAT) && ::access(path, F_OK) != 0);
  if (is_new && is_path_below(path) && fails()) return -1;
  return real(path, flags, mode);
}

}  // extern "C"
