#pragma once

#include <c10/util/Exception.h>
#include <torch/cuda.h>
#include <unistd.h>
#include <CLI/CLI.hpp>

#include <chrono>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <iostream>
#include <string>
#include <system_error>

#include <refine/core/error.hpp>
#include <refine/nn/device.hpp>

namespace refine::benchmarks {

/// A path as the user means it: Bazel runs programs in a folder of its own, and says where the user stands.
inline std::filesystem::path from_where_the_user_stands(const std::string& path) {
  const char* folder = std::getenv("BUILD_WORKING_DIRECTORY");
  return folder != nullptr ? std::filesystem::path(folder) / path : std::filesystem::path(path);
}

/// Seconds since the last call, once the device has done its work.
class Clock {
 public:
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

/// A folder of this process's own, which goes with it.
class Scratch {
 public:
  explicit Scratch(const std::string& name)
      : path(std::filesystem::temp_directory_path() / (name + "-" + std::to_string(getpid()))) {
    std::filesystem::create_directories(path);
  }
  Scratch(const Scratch&) = delete;
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }

  const std::filesystem::path path;
};

/// Parses the command line and calls `body`. \return the exit status; what went wrong is said in one line
template <typename Body>
int run_program(CLI::App& app, int argc, char** argv, Body&& body) {
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : Error::exit_status;
  }
  keep_freed_memory();
  try {
    body();
  } catch (const Error& error) {
    std::cerr << error.what() << '\n';
    return Error::exit_status;
  } catch (const c10::Error& error) {
    std::cerr << "refine: LibTorch failed: " << error.what_without_backtrace() << '\n';
    return 1;
  } catch (const std::exception& error) {
    std::cerr << "refine: " << error.what() << '\n';
    return 1;
  }
  return 0;
}

}  // namespace refine::benchmarks
