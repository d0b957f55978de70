#pragma once

// What mapped_images.hpp declares.

#include <refine/data/mapped_images.hpp>

#include <ATen/ops/from_blob.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include <refine/core/compiled.hpp>
#include <refine/core/error.hpp>

namespace refine::data::detail {

REFINE_DEFINITION OpenFile::OpenFile(std::filesystem::path path)
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

REFINE_DEFINITION OpenFile::~OpenFile() {
  ::close(descriptor_);
}

REFINE_DEFINITION std::string OpenFile::read(std::size_t at, std::size_t count) const {
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

REFINE_DEFINITION void OpenFile::fail(int reason) const {
  throw Error("cannot read {}: {}; check the path and its rights", path_.string(), std::strerror(reason));
}

REFINE_DEFINITION Mapping::Mapping(std::shared_ptr<const OpenFile> of) : file(std::move(of)) {
  // Without MAP_NORESERVE the system refuses a mapping larger than its memory.
  void* const at = ::mmap(nullptr, file->size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE,
                          file->descriptor(), 0);
  if (at == MAP_FAILED) {
    throw Error("cannot map {} ({} bytes): {}; raise the limit on address space or data (ulimit -v, -d)",
                file->path().string(), file->size(), std::strerror(errno));
  }
  begin = static_cast<std::uint8_t*>(at);
}

REFINE_DEFINITION Mapping::~Mapping() {
  ::munmap(begin, file->size());
}

REFINE_DEFINITION at::Tensor mapped_tensor(std::unique_ptr<Mapping> mapping, std::size_t offset,
                                           at::IntArrayRef sizes) {
  std::uint8_t* const data = mapping->begin + offset;
  return at::for_blob(data, sizes)
      .context(mapping.release(), &Mapping::release)
      .options(at::kByte)
      .make_tensor();
}

REFINE_DEFINITION const Mapping* mapping_of(const at::Tensor& tensor) {
  return tensor.storage().data_ptr().cast_context<Mapping>(&Mapping::release);
}

}  // namespace refine::data::detail
