#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace refine {

/// What a run is about to do.
struct RunInfo {
  std::string_view name;  ///< "victim" or "defense"
  int epochs = 0;
  std::int64_t batches = 0;                   ///< an epoch
  std::int64_t images = 0;                    ///< an epoch
  std::string_view accuracy_of = "accuracy";  ///< what `EpochInfo::accuracy` is, in a word
};

/// Where a run is, after a step.
struct StepInfo {
  int epoch = 0;            ///< from 1
  std::int64_t batch = 0;   ///< from 1, within the epoch
  std::int64_t images = 0;  ///< seen so far, over all epochs
};

/// What an epoch came to.
struct EpochInfo {
  int epoch = 0;        ///< from 1
  double loss = 0;      ///< mean over the epoch's images
  double accuracy = 0;  ///< share, in [0, 1], that the network being trained answers as its teacher (fit) or
                        ///< as the label says (train_classifier), while it trains
  double lr = 0;        ///< at the epoch's last step
  double seconds = 0;   ///< since the run began
};

/// An observer has any of `on_begin(RunInfo)`, `on_step(StepInfo)`, `on_epoch(EpochInfo)` and `on_end()`; the
/// others cost nothing. Observers are arguments of `fit` and `train_classifier`, taken by reference.
namespace detail {

template <typename... Observers>
void notify_begin(const RunInfo& info, Observers&... observers) {
  (
      [&](auto& observer) {
        if constexpr (requires { observer.on_begin(info); }) observer.on_begin(info);
      }(observers),
      ...);
}

template <typename... Observers>
void notify_step(const StepInfo& info, Observers&... observers) {
  (
      [&](auto& observer) {
        if constexpr (requires { observer.on_step(info); }) observer.on_step(info);
      }(observers),
      ...);
}

template <typename... Observers>
void notify_epoch(const EpochInfo& info, Observers&... observers) {
  (
      [&](auto& observer) {
        if constexpr (requires { observer.on_epoch(info); }) observer.on_epoch(info);
      }(observers),
      ...);
}

template <typename... Observers>
void notify_end(Observers&... observers) {
  (
      [&](auto& observer) {
        if constexpr (requires { observer.on_end(); }) observer.on_end();
      }(observers),
      ...);
}

}  // namespace detail

}  // namespace refine
