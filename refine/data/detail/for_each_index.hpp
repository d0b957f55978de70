#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace refine::data::detail {

/// Calls `work(i)` for each i below n, on several threads; `idle(done)` now and then on this one. Where calls
/// throw, the exception of the lowest i comes out: with one thread or many, the user reads the same line.
inline void for_each_index(std::int64_t n, unsigned threads, auto&& work, auto&& idle) {
  constexpr std::int64_t chunk = 8;
  std::atomic<std::int64_t> next = 0, done = 0, failed_at = n;
  std::exception_ptr failure;
  std::mutex guard;
  const auto run = [&](bool reports) {
    for (std::int64_t begin; (begin = next.fetch_add(chunk)) < failed_at;) {
      for (std::int64_t i = begin; i < std::min(begin + chunk, n) && i < failed_at; ++i) {
        try {
          work(i);
        } catch (...) {
          const std::scoped_lock lock(guard);
          if (i < failed_at) failed_at = i, failure = std::current_exception();
        }
      }
      done += std::min(chunk, n - begin);
      if (reports) idle(done.load());
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
