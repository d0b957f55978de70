// A library for LD_PRELOAD: blocks of memory for tensors of more than ALLOCATE_AT_MOST bytes are refused, as where
// memory is short.

#include <cerrno>
#include <cstddef>
#include <cstdlib>

// LibTorch allocates the memory of a tensor on the CPU with this function, and nothing else of the program does.
extern "C" int posix_memalign(void** block, std::size_t alignment, std::size_t bytes) {
  const char* limit = std::getenv("ALLOCATE_AT_MOST");
  if (limit && bytes > std::strtoull(limit, nullptr, 10)) return ENOMEM;
  *block = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  return *block ? 0 : ENOMEM;
}
