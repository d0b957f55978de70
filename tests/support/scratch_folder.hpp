#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>

namespace refine::testing {

/// A temporary folder for one test, empty at first and removed at the end.
struct ScratchFolder {
  std::filesystem::path path;  ///< the folder

  /// Creates the folder.
  ScratchFolder() {
    std::string pattern = (std::filesystem::path(::testing::TempDir()) / "refine-XXXXXX").string();
    path = ::mkdtemp(pattern.data());
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ~ScratchFolder() { std::filesystem::remove_all(path); }

  /// Writes a file, creates its folders, and returns its path.
  ///
  /// \param name  relative to the folder
  /// \param bytes  the content
  std::filesystem::path write(const std::filesystem::path& name, std::string_view bytes) const {
    const auto file = path / name;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file, std::ios::binary) << bytes;
    return file;
  }

  /// Returns the number of entries of the folder.
  std::ptrdiff_t files() const { return std::distance(std::filesystem::directory_iterator(path), {}); }
};

/// Returns the content of a file. Empty if it cannot be read.
inline std::string content(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace refine::testing
