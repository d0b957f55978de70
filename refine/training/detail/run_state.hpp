#pragma once

#include <ATen/core/Tensor.h>

#include <atomic>
#include <charconv>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <refine/training/observers.hpp>

namespace refine::detail {

/// What determines a run. A checkpoint is resumed only by a run of the same identity.
struct RunIdentity {
  std::string run = {};                              ///< "victim", "defense" or "student"
  std::string network = {};                          ///< what the weights of the trained network do not show
  std::map<std::string, at::Tensor> constants = {};  ///< what it computes with beside its weights
  /// Names of tensors of the network that it computes, such as the mean of an encoder's features: on another machine, they
  /// may differ in the last bits.
  std::set<std::string> computed = {};
  std::string recipe = {};                        ///< one line of JSON
  std::string objective = {};                     ///< "the recipe's", or the type of one passed to `fit`
  std::string domain = {};                        ///< "reference": the transform takes normalised images
  std::string required = {};                      ///< the augmentation that the training set requires
  std::map<std::string, at::Tensor> data = {};    ///< images, labels, masks
  std::map<std::string, at::Tensor> victim = {};  ///< what the teacher computes with; empty: no teacher
  std::int64_t ranks = 1;                         ///< number of processes
  /// Number of parts of a batch that have statistics of BatchNorm to themselves; 0: a batch has one.
  std::int64_t statistics_of = 0;
};

/// All that a run changes. The tensors are those that the run computes with: reading them saves the
/// run, copying into them resumes it. Random draws need no state: they are functions of the seed,
/// the epoch and the step.
struct RunState {
  std::map<std::string, at::Tensor> tensors = {};  ///< `module.…`, `optimizer.…` and `epoch.…`
  std::int64_t step = 0;                           ///< steps taken, over all epochs
  std::int64_t steps = 0;                          ///< of the whole run
  std::int64_t collapsed = 0;                      ///< latest images that were all predicted as one class
  std::vector<EpochInfo> history = {};             ///< the results of completed epochs
  double seconds = 0;                              ///< duration so far
  /// Names of those in `tensors` that were finite before the training, and must stay so. A mask may hold infinities.
  std::set<std::string> finite = {};
};

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

/// Returns the number that a text consists of, written as in C in any locale; nothing if it is not one, or has more.
template <typename Number>
std::optional<Number> parse_number(std::string_view text) {
  Number number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size() ? std::optional(number) : std::nullopt;
}

/// A line for a person.
struct RunMessage {
  bool is_warning = false;
  std::string text = {};
};

/// Keeps the state of a run where it survives the process.
class RunStore {
 public:
  virtual ~RunStore() = default;

  /// Copies an earlier run's state into `state`, if the store has one.
  /// \throws Error if the earlier run has another identity, or cannot be read
  virtual void restore(RunState& state, const RunIdentity& identity) = 0;

  /// True if it is time to save.
  virtual bool is_due() = 0;

  /// Copies the state and returns; the copy is saved in the background. A failure becomes a message.
  virtual void begin_save(const RunState& state) = 0;

  /// Saves the state and waits for it.
  /// \throws Error if it cannot be written
  virtual void save(const RunState& state) = 0;

  /// True if the weights of a saved state were not finite. That state was not written.
  virtual bool has_diverged() = 0;

  /// Returns the newest saved state; empty if there is none.
  virtual std::filesystem::path newest() = 0;

  /// Returns the messages since the last call.
  virtual std::vector<RunMessage> take_messages() = 0;
};

}  // namespace refine::detail
