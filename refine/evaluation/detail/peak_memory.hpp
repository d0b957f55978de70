#pragma once

#include <sys/resource.h>

namespace refine::detail {

/// Returns the largest amount of memory that the process has had, in bytes; 0 if the system does
/// not report it.
inline double peak_memory() {
  rusage usage = {};
  return ::getrusage(RUSAGE_SELF, &usage) == 0 ? 1024.0 * static_cast<double>(usage.ru_maxrss) : 0;
}

}  // namespace refine::detail
