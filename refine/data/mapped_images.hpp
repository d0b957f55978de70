#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <refine/core/error.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>

/// Files as tensors, without reading them into memory.
namespace refine::data::detail {

/// A file that is open for reading.
class OpenFile {
 public:
  explicit OpenFile(std::filesystem::path path)
      : path_(std::move(path)), descriptor_(::open(path_.c_str(), O_RDONLY | O_CLOEXEC)) {
    struct stat about {};
    if (descriptor_ >= 0 && ::fstat(descriptor_, &about) == 0) {
      size_ = static_cast<std::size_t>(about.st_size);
      return;
    }
    const int reason = errno;
    if (descriptor_ >= 0) ::close(descriptor_);
    fail(reason);
  }
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;
  ~OpenFile() { ::close(descriptor_); }

  const std::filesystem::path& path() const { return path_; }
  int descriptor() const { return descriptor_; }
  std::size_t size() const { return size_; }

  /// `count` bytes from `at` on; fewer at the end of the file.
  std::string read(std::size_t at, std::size_t count) const {
    std::string bytes(count, '\0');
    std::size_t got = 0;
    while (got < count) {
      const auto more = ::pread(descriptor_, bytes.data() + got, count - got, static_cast<off_t>(at + got));
      if (more < 0 && errno == EINTR) continue;
      if (more < 0) fail(errno);
      if (more == 0) break;
      got += static_cast<std::size_t>(more);
    }
    bytes.resize(got);
    return bytes;
  }

  [[noreturn]] void fail(int reason) const {
    throw Error("cannot read {}: {}; check the path and its rights", path_.string(), std::strerror(reason));
  }

 private:
  std::filesystem::path path_;
  int descriptor_;
  std::size_t size_ = 0;
};

/// The whole of a file in memory, copied on write: a page takes memory of its own once it is written to, and
/// the file never changes.
struct Mapping {
  std::shared_ptr<const OpenFile> file;
  std::uint8_t* begin = nullptr;

  /// \pre the file has bytes
  explicit Mapping(std::shared_ptr<const OpenFile> of) : file(std::move(of)) {
    // Without MAP_NORESERVE the system refuses a mapping larger than its memory.
    void* const at = ::mmap(nullptr, file->size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE,
                            file->descriptor(), 0);
    if (at == MAP_FAILED) {
      throw Error("cannot map {} ({} bytes): {}; raise the limit on address space or data (ulimit -v, -d)",
                  file->path().string(), file->size(), std::strerror(errno));
    }
    begin = static_cast<std::uint8_t*>(at);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() { ::munmap(begin, file->size()); }

  static void release(void* mapping) { delete static_cast<Mapping*>(mapping); }
};

/// The bytes of a mapped file from `offset` on, as uint8 of these sizes; unmapped with the last tensor.
inline at::Tensor mapped_tensor(std::unique_ptr<Mapping> mapping, std::size_t offset, at::IntArrayRef sizes) {
  std::uint8_t* const data = mapping->begin + offset;
  return at::for_blob(data, sizes)
      .context(mapping.release(), &Mapping::release)
      .options(at::kByte)
      .make_tensor();
}

/// The mapping that a tensor, or what it is a view of, lies in; none for other tensors.
inline const Mapping* mapping_of(const at::Tensor& tensor) {
  return tensor.storage().data_ptr().cast_context<Mapping>(&Mapping::release);
}

}  // namespace refine::data::detail
