#pragma once

#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "tests/support/scratch_folder.hpp"

namespace refine::testing {

/// How a run of a program ended.
struct Outcome {
  int status;  ///< exit status; -1 if it was killed
  std::string out, err;
};

/// Runs a program by a shell, as Bazel runs it for a user in a folder. Its output goes to out.txt and err.txt there.
/// \param here the folder
/// \param program its path, relative to the folder of the test
/// \param arguments as a shell reads them
/// \param before what the shell runs first
inline Outcome run_by_shell(const ScratchFolder& here, const std::filesystem::path& program,
                            const std::string& arguments, const std::string& before = "") {
  const std::string folder = "'" + here.path.string() + "'",
                    file = "'" + std::filesystem::absolute(program).string() + "'";
  const int result = std::system((before + "cd " + folder + " && BUILD_WORKING_DIRECTORY=" + folder + " " +
                                  file + " " + arguments + " >out.txt 2>err.txt")
                                     .c_str());
  return {WIFEXITED(result) ? WEXITSTATUS(result) : -1, content(here.path / "out.txt"),
          content(here.path / "err.txt")};
}

/// Runs a program as `run_by_shell` does, and sends it a signal. The shell stays, so that a program that the signal kills
/// is reported as shells do.
/// \param signal as `kill` spells it: a shell has its background jobs ignore `INT`, which env undoes
/// \param until a command that succeeds in the folder once the signal is due
inline Outcome run_and_signal(const ScratchFolder& here, const std::filesystem::path& program,
                              const std::string& arguments, const std::string& signal,
                              const std::string& until) {
  const std::string folder = "'" + here.path.string() + "'",
                    file = "'" + std::filesystem::absolute(program).string() + "'";
  const int result = std::system(
      ("cd " + folder + "; BUILD_WORKING_DIRECTORY=" + folder + " env --default-signal=" + signal + " " +
       file + " " + arguments + " >out.txt 2>err.txt & pid=$!; while kill -0 $pid && ! " + until +
       "; do sleep 0.05; done >/dev/null 2>&1; kill -" + signal + " $pid; wait $pid")
          .c_str());
  return {WIFEXITED(result) ? WEXITSTATUS(result) : -1, content(here.path / "out.txt"),
          content(here.path / "err.txt")};
}

}  // namespace refine::testing
