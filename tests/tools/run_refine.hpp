#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>
#include <wordexp.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <initializer_list>
#include <iostream>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support/error_of.hpp"
#include "tests/support/run_program.hpp"
#include "tests/support/scratch_folder.hpp"
#include "tools/refine/program.hpp"

namespace refine::testing {

/// Returns the program's path, quoted for a shell.
inline std::string quoted_program() {
  return "'" + std::filesystem::absolute("tools/refine").string() + "'";
}

/// Runs the program in a copy of the test's process, which saves the third of a second that LibTorch takes to load.
/// Otherwise as `run_by_shell`.
/// \param out where its output goes instead of out.txt
inline Outcome run_refine(const ScratchFolder& here, const std::string& arguments,
                          const char* out = "out.txt") {
  const std::string program = std::filesystem::absolute("tools/refine").string();
  wordexp_t words{};
  if (wordexp(arguments.c_str(), &words, WRDE_NOCMD) != 0) {
    ADD_FAILURE() << "a shell is needed: " << arguments;
    return {-1, {}, {}};
  }
  std::cout.flush();
  std::fflush(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    std::string name = program;
    std::vector<char*> argv = {name.data()};
    for (std::size_t i = 0; i < words.we_wordc; ++i) argv.push_back(words.we_wordv[i]);
    argv.push_back(nullptr);
    const bool ready = ::chdir(here.path.c_str()) == 0 &&
                       ::setenv("BUILD_WORKING_DIRECTORY", here.path.c_str(), 1) == 0 &&
                       std::freopen(out, "w", stdout) && std::freopen("err.txt", "w", stderr);
    const int status = ready ? cli::run_program(static_cast<int>(argv.size()) - 1, argv.data()) : 99;
    std::cout.flush();
    std::cerr.flush();
    std::fflush(nullptr);
    ::_exit(status);
  }
  wordfree(&words);
  int result = 0;
  if (child < 0 || ::waitpid(child, &result, 0) != child) return {-1, {}, {}};
  return {WIFEXITED(result) ? WEXITSTATUS(result) : -1, content(here.path / "out.txt"),
          content(here.path / "err.txt")};
}

/// True if a run of `defend` or `evaluate` is complete. Its status is 1 if the verdict advises more
/// training, as for networks and data this small.
inline bool is_done(const Outcome& outcome) {
  return outcome.status == 0 || outcome.status == 1;
}

/// Expects a refusal: exit status 2, and one line that has all words.
inline void expect_refusal(const Outcome& outcome, std::initializer_list<std::string_view> words) {
  EXPECT_EQ(outcome.status, 2) << outcome.err;
  EXPECT_EQ(outcome.out, "");
  EXPECT_EQ(std::ranges::count(outcome.err, '\n'), 1) << outcome.err;
  expect_words(outcome.err, words);
}

}  // namespace refine::testing
