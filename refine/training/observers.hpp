#pragma once

#include <fmt/core.h>

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/core/progress_meter.hpp>

namespace refine {

/// A training run that is about to begin.
struct RunInfo {
  std::string_view name;                      ///< "victim" or "defense"
  int epochs = 0;                             ///< epochs of the run
  std::int64_t batches = 0;                   ///< batches per epoch
  std::int64_t images = 0;                    ///< images per epoch
  std::string_view accuracy_of = "accuracy";  ///< one word for `EpochInfo::accuracy`: "accuracy", "agreement"
};

/// The position of a run after a step.
struct StepInfo {
  int epoch = 0;            ///< from 1
  std::int64_t batch = 0;   ///< from 1, within the epoch
  std::int64_t images = 0;  ///< images seen so far, over all epochs
};

/// The results of an epoch.
struct EpochInfo {
  int epoch = 0;        ///< from 1
  double loss = 0;      ///< mean over the epoch's images
  double accuracy = 0;  ///< in [0, 1], during training: the share of images classified as the label says
                        ///< (`train_classifier`) or as the teacher does (`fit`)
  double lr = 0;        ///< the learning rate of the epoch's last step
  double seconds = 0;   ///< since the run began
};

namespace detail {

template <typename O>
concept ObservesBegin = requires(O& observer, const RunInfo& info) {
  observer.on_begin(info);
};
template <typename O>
concept ObservesStep = requires(O& observer, const StepInfo& info) {
  observer.on_step(info);
};
template <typename O>
concept ObservesEpoch = requires(O& observer, const EpochInfo& info) {
  observer.on_epoch(info);
};
template <typename O>
concept ObservesEnd = requires(O& observer) {
  observer.on_end();
};

}  // namespace detail

/// Follows a training run. `fit` and `train_classifier` take any number of observers as their last
/// arguments, by reference. For an object `o` of type `O`, at least one of these must be valid;
/// those that are missing cost nothing:
///
///  1. `o.on_begin(RunInfo)`: before the first step;
///  2. `o.on_step(StepInfo)`: after each step;
///  3. `o.on_epoch(EpochInfo)`: after each epoch;
///  4. `o.on_end()`: after the last epoch.
///
/// \tparam O a type or, as arguments deduce it, a reference to one
template <typename O>
concept Observer =
    detail::ObservesBegin<std::remove_reference_t<O>> || detail::ObservesStep<std::remove_reference_t<O>> ||
    detail::ObservesEpoch<std::remove_reference_t<O>> || detail::ObservesEnd<std::remove_reference_t<O>>;

namespace detail {

template <typename... Observers>
void notify_begin(const RunInfo& info, Observers&... observers) {
  (
      [&](auto& observer) {
        if constexpr (ObservesBegin<std::remove_reference_t<decltype(observer)>>) observer.on_begin(info);
      }(observers),
      ...);
}

template <typename... Observers>
void notify_step(const StepInfo& info, Observers&... observers) {
  (
      [&](auto& observer) {
        if constexpr (ObservesStep<std::remove_reference_t<decltype(observer)>>) observer.on_step(info);
      }(observers),
      ...);
}

template <typename... Observers>
void notify_epoch(const EpochInfo& info, Observers&... observers) {
  (
      [&](auto& observer) {
        if constexpr (ObservesEpoch<std::remove_reference_t<decltype(observer)>>) observer.on_epoch(info);
      }(observers),
      ...);
}

template <typename... Observers>
void notify_end(Observers&... observers) {
  (
      [&](auto& observer) {
        if constexpr (ObservesEnd<std::remove_reference_t<decltype(observer)>>) observer.on_end();
      }(observers),
      ...);
}

}  // namespace detail

/// An `Observer` that keeps the results of each epoch.
struct History {
  std::vector<EpochInfo> epochs = {};  ///< one entry per epoch, in order

  /// Appends an entry.
  /// \param info the epoch's results
  void on_epoch(const EpochInfo& info) { epochs.push_back(info); }

  /// Returns the duration of the run in seconds; 0 before the end of the first epoch.
  double seconds() const { return epochs.empty() ? 0 : epochs.back().seconds; }
};

/// An `Observer` that appends a line of JSON to a file after each epoch:
/// `{"accuracy":…,"epoch":1,"loss":…,"lr":…,"run":"defense","seconds":…}`. Each line is flushed, so
/// that the file can be followed during the run.
class JsonLines {
 public:
  /// Opens a file for appending. Creates the folders above it.
  /// \param path the file
  /// \throws Error if the file cannot be opened
  explicit JsonLines(const std::filesystem::path& path);

  /// Remembers the name of the run.
  /// \param info the run
  void on_begin(const RunInfo& info) { run_ = info.name; }

  /// Writes a line.
  /// \param info the epoch's results
  /// \throws Error if the line cannot be written
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

/// An `Observer` that shows the progress of a run: on a terminal a bar with rate and remaining
/// time, in a file a line from time to time.
class ProgressBar {
 public:
  /// \param out where the bar is drawn
  explicit ProgressBar(std::FILE* out = stderr) : out_(out) {}

  /// Starts the bar.
  /// \param info the run
  void on_begin(const RunInfo& info) {
    epochs_ = info.epochs;
    accuracy_of_ = info.accuracy_of;
    note_.clear();
    meter_.emplace(std::string(info.name), info.images * info.epochs, "img", out_);
    meter_->update(0);
  }

  /// Advances the bar.
  /// \param info the position
  void on_step(const StepInfo& info) {
    if (!meter_) return;
    const std::string now = fmt::format("epoch {}/{}", info.epoch, epochs_);
    meter_->update(info.images, note_.empty() ? now : now + " (last: " + note_ + ")");
  }

  /// Shows the results of the last epoch beside the bar.
  /// \param info the epoch's results
  void on_epoch(const EpochInfo& info) {
    note_ = fmt::format("loss {:.3f}, {} {:.1f} %", info.loss, accuracy_of_, 100 * info.accuracy);
  }

  /// Ends the bar's line.
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
