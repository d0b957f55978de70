#pragma once

#include <c10/util/Exception.h>

#include <exception>
#include <new>
#include <string_view>

namespace refine::nn {

/// True if an exception reports that memory, of a device or of the host, could not be allocated.
/// LibTorch has a type for devices (`c10::OutOfMemoryError`); of its allocator on the host only the
/// text tells.
/// \param error as it was caught
inline bool is_out_of_memory(const std::exception& error) {
  if (dynamic_cast<const c10::OutOfMemoryError*>(&error) || dynamic_cast<const std::bad_alloc*>(&error))
    return true;
  const auto* torch_error = dynamic_cast<const c10::Error*>(&error);
  return torch_error && std::string_view(torch_error->what_without_backtrace())
                                .find("DefaultCPUAllocator: can't allocate memory") != std::string_view::npos;
}

}  // namespace refine::nn
