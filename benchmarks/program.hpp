#pragma once

#include <c10/util/Exception.h>
#include <torch/cuda.h>
#include <unistd.h>
#include <CLI/CLI.hpp>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <iostream>
#include <string>
#include <system_error>

#include <refine/core/error.hpp>
#include <refine/nn/device.hpp>
#include <refine/training/observers.hpp>
#include <refine/training/stop_on_signal.hpp>

namespace refine::benchmarks {

/// Resolves a path relative to the folder in which the user started Bazel, which runs programs in
/// another folder.
inline std::filesystem::path user_path(const std::string& path) {
  const char* folder = std::getenv("BUILD_WORKING_DIRECTORY");
  return folder != nullptr ? std::filesystem::path(folder) / path : std::filesystem::path(path);
}

/// Measures the time between calls, waiting for the device.
class Clock {
 public:
  /// Returns the seconds since the last call, once the device has finished its work.
  double take() {
    if (default_device().is_cuda()) torch::cuda::synchronize(default_device().index());
    const auto now = std::chrono::steady_clock::now();
    const std::chrono::duration<double> passed = now - last_;
    last_ = now;
    return passed.count();
  }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

/// A temporary folder that is removed with the object.
class Scratch {
 public:
  /// \param name  start of the folder's name
  explicit Scratch(const std::string& name)
      : path(std::filesystem::temp_directory_path() / (name + "-" + std::to_string(getpid()))) {
    std::filesystem::create_directories(path);
  }
  Scratch(const Scratch&) = delete;
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }

  const std::filesystem::path path;  ///< the folder
};

/// Parses the command line and calls `body`.
///
/// \return the exit status; an error is printed as one line
template <typename Body>
int run_program(CLI::App& app, int argc, char** argv, Body&& body) {
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : Error::exit_status;
  }
  std::signal(SIGXFSZ, SIG_IGN);  // a file-size limit then shows as a failed write, as a full disk does
  keep_freed_memory();
  try {
    body();
  } catch (const Stopped& stopped) {
    std::cerr << "stopped: " << stopped.what() << '\n';
    if (!stopped.checkpoint().empty()) std::cerr << "go on with: the same command\n";
    return StopOnSignal::exit_status();
  } catch (const Error& error) {
    std::cerr << "error: " << error.what() << '\n';
    return Error::exit_status;
  } catch (const c10::Error& error) {
    std::cerr << "error: LibTorch failed: " << nn::describe_error(error) << '\n';
    return 1;
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
    return 1;
  }
  return 0;
}

}  // namespace refine::benchmarks
