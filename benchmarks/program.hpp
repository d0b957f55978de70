#pragma once

#include <c10/util/Exception.h>
#include <CLI/CLI.hpp>

#include <cstdlib>
#include <exception>
#include <filesystem>
#include <iostream>
#include <string>

#include <refine/core/error.hpp>
#include <refine/nn/keep_freed_memory.hpp>

namespace refine::benchmarks {

/// A path as the user means it: Bazel runs programs in a folder of its own, and says where the user stands.
inline std::filesystem::path from_where_the_user_stands(const std::string& path) {
  const char* folder = std::getenv("BUILD_WORKING_DIRECTORY");
  return folder != nullptr ? std::filesystem::path(folder) / path : std::filesystem::path(path);
}

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
