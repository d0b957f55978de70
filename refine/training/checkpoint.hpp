#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <vector>

#include <refine/core/config.hpp>
#include <refine/training/detail/run_state.hpp>

namespace refine {

namespace detail {

/// Returns the checkpoints of a folder, the newest first: their names have the step in ten digits.
/// \throws Error if the folder exists and cannot be listed
REFINE_INLINE std::vector<std::filesystem::path> checkpoints_in(const std::filesystem::path& folder);

}  // namespace detail

/// Saves a training run, so that it survives the process, and resumes it. Passed to `fit` and
/// `train_classifier` among the observers:
///
///     fit(defense, images, recipe, ProgressBar{}, Checkpoint{.path = "run/checkpoints", .resume = true});
///
/// A thread writes a copy of the state as `path/STEP.safetensors`, while training continues. The
/// file appears under its name only when it is complete and on the disk. A last one is written at
/// the end of the run, and when an observer requests a stop. A write that fails becomes a warning
/// (`on_warning`), and the next one is due after the same time.
///
/// *Determinism*: on the CPU, with the same number of threads, a resumed run gives bitwise the
/// weights of an uninterrupted one. Objectives and networks that hold a random generator are the
/// exception.
struct Checkpoint {
  /// The folder of one run; created if missing, locked during the run by the file `.refine-lock`. Files of others in it
  /// are left alone. A relative path is that of the working folder when the run begins.
  std::filesystem::path path;
  std::chrono::milliseconds every = std::chrono::seconds(60);  ///< time between two files, 0 or more
  int keep = 2;  ///< number of files that are kept, the newest ones, 1 or more
  /// True: continue from the newest file that is intact, or start if there is none. False: a folder
  /// that holds files of an earlier run is refused. A folder or file that cannot be read is an error, not a missing
  /// or damaged one.
  bool resume = false;

  /// Checks the fields and the folder, as the run will. For programs that want to report it before
  /// other work.
  /// \throws Error if a field is out of range, another run uses the folder, or it holds an earlier
  ///   run that is not to be resumed
  REFINE_INLINE void check() const;

  /// Locks the folder until what is returned is destroyed. For programs that write other files of the run: a run that
  /// this process begins meanwhile, and `remove`, use the same lock.
  /// \throws Error as `check`, or if the folder cannot be written to
  [[nodiscard]] REFINE_INLINE std::shared_ptr<const void> hold() const;

  /// Deletes the files of the run, and the folder if nothing else is in it.
  /// \throws Error if another run uses the folder, or a file cannot be deleted
  REFINE_INLINE void remove() const;

  /// Locks the folder. For `fit` and `train_classifier`.
  /// \throws Error as `check`, or if the folder cannot be written to
  REFINE_INLINE std::unique_ptr<detail::RunStore> open() const;
};

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/training/impl/checkpoint.ipp>
#endif
