#pragma once

#include <atomic>

namespace refine::detail {

/// The number of trainings that run in this process. An observer that is not called when one ends with an exception
/// can see that it has ended.
inline std::atomic<int> running_trainings = 0;

/// Counts a training while it exists.
class ScopedRunning {
 public:
  ScopedRunning() { ++running_trainings; }
  ScopedRunning(const ScopedRunning&) = delete;
  ScopedRunning& operator=(const ScopedRunning&) = delete;
  ~ScopedRunning() { --running_trainings; }
};

}  // namespace refine::detail
