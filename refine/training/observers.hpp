#pragma once

#include <fmt/core.h>

#include <concepts>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <refine/core/check.hpp>
#include <refine/core/error.hpp>
#include <refine/core/progress_meter.hpp>
#include <refine/core/text.hpp>
#include <refine/distributed/communicator.hpp>

namespace refine {

/// A training run that is about to begin.
struct RunInfo {
  std::string_view name;                      ///< "victim" or "defense"
  int epochs = 0;                             ///< epochs of the run
  std::int64_t batches = 0;                   ///< batches per epoch
  std::int64_t images = 0;                    ///< images per epoch
  std::string_view accuracy_of = "accuracy";  ///< one word for `EpochInfo::accuracy`: "accuracy", "agreement"
  std::int64_t done = 0;  ///< images seen before the run was interrupted; 0 unless it is resumed
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
  double seconds = 0;   ///< since the run began; of a resumed run, without the time between
};

/// Thrown by `fit` and `train_classifier` when an observer has requested to stop. The step was
/// completed; with a `Checkpoint`, it was saved.
class Stopped : public Error {
 public:
  /// \param run "victim" or "defense"
  /// \param step steps taken so far
  /// \param steps steps of the whole run
  /// \param checkpoint the file that the run can be resumed from; empty: none
  Stopped(std::string_view run, std::int64_t step, std::int64_t steps, std::filesystem::path checkpoint)
      : Error(fmt::format("training the {} ended after step {} of {}, {}", run, step, steps,
                          checkpoint.empty() ? "not saved" : "saved in " + checkpoint.string())),
        step_(step),
        steps_(steps),
        checkpoint_(std::move(checkpoint)) {}

  /// Returns the number of steps taken so far.
  std::int64_t step() const { return step_; }

  /// Returns the number of steps of the whole run.
  std::int64_t steps() const { return steps_; }

  /// Returns the file that the run can be resumed from; empty without a `Checkpoint`.
  const std::filesystem::path& checkpoint() const { return checkpoint_; }

 private:
  std::int64_t step_, steps_;
  std::filesystem::path checkpoint_;
};

/// Thrown by `fit` and `train_classifier` if a step needs more memory than there is. `fit` has by then
/// tried to compute it with less.
class OutOfMemory : public Error {
 public:
  /// \param run "victim" or "defense"
  /// \param batch images per step
  /// \param step steps taken so far
  /// \param checkpoint names the last one, beginning with "; "; empty if there is none
  OutOfMemory(std::string_view run, int batch, std::int64_t step, std::string_view checkpoint)
      : Error(fmt::format(
            "training the {}: not enough memory for a step with batches of {} images{}{}{}", run, batch,
            batch < 4 ? "; use smaller images or a smaller network"
                      : fmt::format("; start again with recipe.optimization.batch_size (--batch_size) "
                                    "of {} or less",
                                    batch / 2),
            checkpoint.empty() ? "" : ", or resume when more memory is free", checkpoint)),
        batch_(batch),
        step_(step) {}

  /// Returns the number of images per step.
  int batch() const { return batch_; }

  /// Returns the number of steps taken so far.
  std::int64_t step() const { return step_; }

 private:
  int batch_;
  std::int64_t step_;
};

namespace detail {

class RunStore;  // run_state.hpp

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
template <typename O>
concept ObservesNotes = requires(O& observer, std::string_view text) {
  observer.on_note(text);
};
template <typename O>
concept ObservesWarnings = requires(O& observer, std::string_view text) {
  observer.on_warning(text);
};
template <typename O>
concept RequestsStop = requires(O& observer) {
  { observer.stop_requested() } -> std::convertible_to<bool>;
};
template <typename O>
concept OpensStore = requires(O& observer) {
  { observer.open() } -> std::same_as<std::unique_ptr<RunStore>>;
};

/// Satisfied unless a function of this name is declared with other parameters: it would never be called.
template <typename O>
concept OnBeginFits = ObservesBegin<O> || !REFINE_DECLARES(O, on_begin, on_begin(RunInfo{}));
template <typename O>
concept OnStepFits = ObservesStep<O> || !REFINE_DECLARES(O, on_step, on_step(StepInfo{}));
template <typename O>
concept OnEpochFits = ObservesEpoch<O> || !REFINE_DECLARES(O, on_epoch, on_epoch(EpochInfo{}));
template <typename O>
concept OnEndFits = ObservesEnd<O> || !REFINE_DECLARES(O, on_end, on_end());
template <typename O>
concept OnNoteFits = ObservesNotes<O> || !REFINE_DECLARES(O, on_note, on_note(std::string_view()));
template <typename O>
concept OnWarningFits =
    ObservesWarnings<O> || !REFINE_DECLARES(O, on_warning, on_warning(std::string_view()));
template <typename O>
concept StopRequestedFits = RequestsStop<O> || !REFINE_DECLARES(O, stop_requested, stop_requested());

template <typename O>
concept ObserverFunctionsFit = OnBeginFits<O> && OnStepFits<O> && OnEpochFits<O> && OnEndFits<O> &&
    OnNoteFits<O> && OnWarningFits<O> && StopRequestedFits<O>;

}  // namespace detail

/// Follows a training run. `fit` and `train_classifier` take any number of observers as their last
/// arguments, by reference. For an object `o` of type `O`, at least one of these must be valid;
/// those that are missing cost nothing. A type in which one of 1 to 6 is declared and cannot be called so is
/// not an `Observer`:
///
///  1. `o.on_begin(RunInfo)`: before the first step;
///  2. `o.on_step(StepInfo)`: after each step;
///  3. `o.on_epoch(EpochInfo)`: after each epoch; a resumed run reports the earlier epochs again,
///     after `on_begin`;
///  4. `o.on_end()`: after the last epoch;
///  5. `o.on_note(std::string_view)`, `o.on_warning(std::string_view)`: one line for a person;
///  6. `o.stop_requested()`, after each step: true ends the run, which throws `Stopped`.
///     `std::stop_token` has it.
///
/// A `Checkpoint` is passed as an observer, too, and so is a communicator (`distributed::C10d`). With
/// several ranks, those of rank 0 are called, and of the others those with `stop_requested`; a stop that
/// one of them requests stops all ranks.
///
/// \tparam O a type or, as arguments deduce it, a reference to one
template <typename O>
concept Observer = detail::ObserverFunctionsFit<std::remove_reference_t<O>> &&
    (detail::ObservesBegin<std::remove_reference_t<O>> || detail::ObservesStep<std::remove_reference_t<O>> ||
     detail::ObservesEpoch<std::remove_reference_t<O>> || detail::ObservesEnd<std::remove_reference_t<O>> ||
     detail::ObservesNotes<std::remove_reference_t<O>> ||
     detail::ObservesWarnings<std::remove_reference_t<O>> ||
     detail::RequestsStop<std::remove_reference_t<O>> || detail::OpensStore<std::remove_reference_t<O>> ||
     distributed::Communicator<std::remove_reference_t<O>>);

namespace detail {

/// Calls `use` with each observer that it accepts, in their order.
template <typename Use, typename... Observers>
void for_each_accepted([[maybe_unused]] Use&& use, Observers&... observers) {
  [[maybe_unused]] const auto offer = [&](auto& observer) {
    if constexpr (std::invocable<Use&, decltype(observer)>) use(observer);
  };
  (offer(observers), ...);
}

/// Calls `use` with each observer that it accepts and that is to be notified: with several ranks, all of
/// rank 0, and of the others those that can stop the run.
template <typename Use, typename... Observers>
void notify(Use&& use, Observers&... observers) {
  const bool is_first = distributed::detail::find_communicator(observers...).rank() == 0;
  [[maybe_unused]] const auto offer = [&]<typename O>(O& observer) {
    if constexpr (std::invocable<Use&, O&>) {
      if (is_first || RequestsStop<O>) use(observer);
    }
  };
  (offer(observers), ...);
}

template <typename... Observers>
void notify_begin(const RunInfo& info, Observers&... observers) {
  notify([&](ObservesBegin auto& observer) { observer.on_begin(info); }, observers...);
}

template <typename... Observers>
void notify_step(const StepInfo& info, Observers&... observers) {
  notify([&](ObservesStep auto& observer) { observer.on_step(info); }, observers...);
}

template <typename... Observers>
void notify_epoch(const EpochInfo& info, Observers&... observers) {
  notify([&](ObservesEpoch auto& observer) { observer.on_epoch(info); }, observers...);
}

template <typename... Observers>
void notify_end(Observers&... observers) {
  notify([](ObservesEnd auto& observer) { observer.on_end(); }, observers...);
}

template <typename... Observers>
void notify_note(std::string_view text, Observers&... observers) {
  notify([&](ObservesNotes auto& observer) { observer.on_note(text); }, observers...);
}

template <typename... Observers>
void notify_warning(std::string_view text, Observers&... observers) {
  notify([&](ObservesWarnings auto& observer) { observer.on_warning(text); }, observers...);
}

/// Asks every observer, also after one has requested to stop.
template <typename... Observers>
bool stop_requested(Observers&... observers) {
  bool stop = false;
  for_each_accepted([&](RequestsStop auto& observer) { stop = observer.stop_requested() || stop; },
                    observers...);
  return stop;
}

/// Opens the store of the `Checkpoint` among the observers. Null if there is none.
/// \throws Error if there are several, or as `RunStore`
template <typename... Observers>
std::unique_ptr<RunStore> open_store(Observers&... observers) {
  std::unique_ptr<RunStore> store;
  for_each_accepted(
      [&](OpensStore auto& observer) {
        auto opened = observer.open();
        if (store && opened) throw Error("checkpoints: two are specified for one run; pass one Checkpoint");
        if (opened) store = std::move(opened);
      },
      observers...);
  return store;
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
/// time, in a file a line from time to time. Notes and warnings are lines above it.
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
    meter_->update(info.done);
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

  /// Prints a line.
  /// \param text the note
  void on_note(std::string_view text) {
    const std::string line = refine::text::printable(text);
    if (meter_) {
      meter_->print(line);
    } else {
      fmt::print(out_, "{}\n", line);
    }
  }

  /// Prints a line, `warning: …`.
  /// \param text the warning
  void on_warning(std::string_view text) { on_note("warning: " + std::string(text)); }

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
