#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>

#if defined(__linux__)
#include <dlfcn.h>
#endif

namespace refine::winograd {

namespace detail {

/// The function by which compilers start a parallel region of OpenMP: `run(data)` on a number of
/// threads.
using Region = void (*)(void (*run)(void*), void* data, unsigned threads, unsigned flags);

/// Returns that of LibTorch's OpenMP library, or null.
inline Region region() {
#if defined(__linux__)
  static const auto found = reinterpret_cast<Region>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  return found;
#else
  return nullptr;
#endif
}

}  // namespace detail

/// Calls `work(begin, end)` for consecutive parts of [0, n) on LibTorch's threads, each of which
/// takes the next part when it is done with one.
///
/// `at::parallel_for` does this only in programs that are compiled with `-fopenmp`. Further threads
/// would wait for processors on which LibTorch's threads still spin.
/// \param n the number of items
/// \param part the size of a part; the last may be smaller
/// \param work a function of the range
template <typename Work>
void parallel(std::int64_t n, std::int64_t part, const Work& work) {
  const std::int64_t parts = (n + part - 1) / part;
  const auto threads = static_cast<unsigned>(std::min<std::int64_t>(parts, at::get_num_threads()));
  const detail::Region region = detail::region();
  if (threads < 2 || region == nullptr || at::in_parallel_region()) {
    for (std::int64_t begin = 0; begin < n; begin += part) work(begin, std::min(n, begin + part));
    return;
  }
  struct Shared {
    const Work& work;
    std::int64_t n, part;
    std::atomic<std::int64_t> next = 0;
    std::atomic_flag failed = {};
    std::exception_ptr error = {};

    void run() {
      try {
        for (std::int64_t begin = next.fetch_add(part); begin < n; begin = next.fetch_add(part)) {
          work(begin, std::min(n, begin + part));
        }
      } catch (...) {
        if (!failed.test_and_set()) error = std::current_exception();
      }
    }
  } shared{work, n, part};
  region([](void* data) { static_cast<Shared*>(data)->run(); }, &shared, threads, 0);
  if (shared.error) std::rethrow_exception(shared.error);
}

}  // namespace refine::winograd
