#pragma once

#include <filesystem>
#include <string>
#include <vector>

/// Checks of paths that a program reads and writes.
namespace refine::files {

/// A file or folder, with the option that names it or that it is derived from.
struct NamedPath {
  std::string option;  ///< for messages: "--out"
  std::filesystem::path path;
};

/// What a program reads and writes. Empty paths are ignored.
struct Paths {
  std::vector<NamedPath> files = {};    ///< files that are read
  std::vector<NamedPath> images = {};   ///< image files, or folders whose images are read at any depth
  std::vector<NamedPath> outputs = {};  ///< files that are written
};

/// Refuses outputs that are inputs, also through links; outputs that the next run would read as
/// images; and two outputs of different options that are one file.
/// \throws Error that names both paths and the option to change
void check_outputs(Paths paths);

}  // namespace refine::files

#if !defined(REFINE_COMPILED_LIB)
#include <refine/defend/impl/check_outputs.ipp>
#endif
