#pragma once

#include <string>

#include <refine/training/observers.hpp>

namespace refine {

/// An observer that ends a training after the current step when the process gets SIGINT or SIGTERM.
/// A second signal ends the process at once, and so does one that arrives before or after the
/// training, however that ended. One object at a time in a process, for one training after another; its
/// destructor restores the old handlers. A signal that is ignored, as SIGINT in a background job of a script,
/// stays ignored.
///
///     StopOnSignal signals("my_program --resume");
///     fit(defense, images, recipe, Checkpoint{.path = "run"}, signals);  // throws Stopped
class StopOnSignal {
 public:
  /// \param resume_command printed if a second signal ends the training, or one arrives after it, when it
  ///   is saved; empty: it is not saved, and nothing is printed
  explicit StopOnSignal(const std::string& resume_command = "");

  StopOnSignal(const StopOnSignal&) = delete;
  StopOnSignal& operator=(const StopOnSignal&) = delete;

  ~StopOnSignal();

  /// From now on, a signal waits for the end of the step.
  void on_begin(const RunInfo& info);

  /// The training is complete, and saved.
  void on_end();

  /// True if a signal has arrived.
  bool stop_requested() const;

  /// Returns the exit status that belongs to the signal: 130 for SIGINT, 143 for SIGTERM, also if another rank has
  /// received one.
  static int exit_status();
};

/// Returns the command line that resumes a program which was started with this one: the same with `--resume`,
/// quoted for a shell.
/// \param argc, argv as in `main`
std::string resume_command(int argc, const char* const* argv);

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/training/impl/stop_on_signal.ipp>
#endif
