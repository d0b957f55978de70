#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace refine::data::detail {

/// Calls a function for each index on several threads. If calls throw, the exception of the lowest
/// index is rethrown, so that the user reads the same message for any number of threads.
/// \param n number of indices, from 0
/// \param threads number of threads, including the calling one
/// \param work called as `work(i)`
/// \param progress called as `progress(done)` on the calling thread, now and then
inline void for_each_index(std::int64_t n, unsigned threads, auto&& work, auto&& progress) {
  constexpr std::int64_t chunk = 8;
  std::atomic<std::int64_t> next = 0, done = 0, failed_index = n;
  std::exception_ptr failure;
  std::mutex mutex;
  const auto run = [&](bool reports) {
    for (std::int64_t begin; (begin = next.fetch_add(chunk)) < failed_index;) {
      for (std::int64_t i = begin; i < std::min(begin + chunk, n) && i < failed_index; ++i) {
        try {
          work(i);
        } catch (...) {
          const std::scoped_lock lock(mutex);
          if (i < failed_index) failed_index = i, failure = std::current_exception();
        }
      }
      done += std::min(chunk, n - begin);
      if (reports) progress(done.load());
    }
  };
  {
    std::vector<std::jthread> helpers;
    for (unsigned t = 1; t < threads; ++t) helpers.emplace_back(run, false);
    run(true);
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace refine::data::detail
