#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <stdexcept>
#include <string_view>

namespace refine::testing {

/// Bytes in memory that are zeros behind a beginning. Zeros that are only read take no memory.
class SparseBytes {
 public:
  /// \param beginning the first bytes
  /// \param size of all bytes
  SparseBytes(std::string_view beginning, std::size_t size)
      : size_(size),
        bytes_(::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
                      0)) {
    if (bytes_ == MAP_FAILED) throw std::runtime_error("cannot map memory");
    std::ranges::copy(beginning, static_cast<char*>(bytes_));
  }
  SparseBytes(const SparseBytes&) = delete;
  ~SparseBytes() { ::munmap(bytes_, size_); }

  /// Returns the bytes, which live as long as this object.
  std::string_view view() const { return {static_cast<const char*>(bytes_), size_}; }

 private:
  std::size_t size_;
  void* bytes_;
};

}  // namespace refine::testing
