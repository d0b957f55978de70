#pragma once

#include <fmt/core.h>

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/core/progress_meter.hpp>

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

/// Keeps what each epoch came to.
struct History {
  std::vector<EpochInfo> epochs = {};

  void on_epoch(const EpochInfo& info) { epochs.push_back(info); }
};

/// Appends a line of JSON at each epoch:
/// `{"run":"defense","epoch":1,"loss":…,"accuracy":…,"lr":…,"seconds":…}`. Each line is flushed, so that the
/// file can be followed while the run goes on.
class JsonLines {
 public:
  /// \throws Error when the file can't be opened for appending
  explicit JsonLines(const std::filesystem::path& path);

  void on_begin(const RunInfo& info) { run_ = info.name; }

  void on_epoch(const EpochInfo& info);

 private:
  [[noreturn]] void fail() const;

  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };

  std::filesystem::path path_;
  std::unique_ptr<std::FILE, Close> file_;
  std::string run_;
};

/// Shows a run's progress on standard error: a bar with rate and time left on a terminal, a line now and then
/// in a log.
class ProgressBar {
 public:
  explicit ProgressBar(std::FILE* out = stderr) : out_(out) {}

  void on_begin(const RunInfo& info) {
    epochs_ = info.epochs;
    accuracy_of_ = info.accuracy_of;
    note_.clear();
    meter_.emplace(std::string(info.name), info.images * info.epochs, "img", out_);
    meter_->update(0);
  }

  void on_step(const StepInfo& info) {
    if (!meter_) return;
    const std::string now = fmt::format("epoch {}/{}", info.epoch, epochs_);
    meter_->update(info.images, note_.empty() ? now : now + " (last: " + note_ + ")");
  }

  void on_epoch(const EpochInfo& info) {
    note_ = fmt::format("loss {:.3f}, {} {:.1f} %", info.loss, accuracy_of_, 100 * info.accuracy);
  }

  void on_end() {
    if (meter_) meter_->finish(fmt::format("epoch {0}/{0}: {1}", epochs_, note_));
    meter_.reset();
  }

 private:
  std::FILE* out_;
  int epochs_ = 0;
  std::string accuracy_of_;
  std::string note_;
  std::optional<ProgressMeter> meter_;
};

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/training/impl/observers.ipp>
#endif
