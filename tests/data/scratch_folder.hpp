#pragma once

#include <gtest/gtest.h>
#include <refine/core/error.hpp>

#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <string>
#include <string_view>

namespace refine::testing {

/// An empty folder of this test's own, gone afterwards.
struct ScratchFolder {
  std::filesystem::path path;

  ScratchFolder() {
    std::string pattern = (std::filesystem::path(::testing::TempDir()) / "refine-XXXXXX").string();
    path = ::mkdtemp(pattern.data());
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ~ScratchFolder() { std::filesystem::remove_all(path); }

  std::filesystem::path write(const std::filesystem::path& name, std::string_view bytes) const {
    const auto file = path / name;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file, std::ios::binary) << bytes;
    return file;
  }
};

inline std::string content(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// The line of the Error that `call` throws; a failure, and nothing, when it throws none.
template <typename Call>
std::string error_of(Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    const std::string line = error.what();
    EXPECT_EQ(line.find('\n'), std::string::npos) << line;
    return line;
  }
  ADD_FAILURE() << "no refine::Error";
  return {};
}

inline void expect_words(const std::string& line, std::initializer_list<std::string_view> words) {
  for (const auto word : words)
    EXPECT_NE(line.find(word), std::string::npos) << "'" << word << "' not in: " << line;
}

}  // namespace refine::testing
