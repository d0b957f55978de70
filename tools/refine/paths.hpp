#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "tools/refine/command.hpp"

namespace refine::cli {

/// A file or folder that a command reads or writes, with the option that names it or that it is derived from.
struct NamedPath {
  std::string option;
  std::filesystem::path path;
};

/// What a command reads and writes.
struct Paths {
  std::vector<NamedPath> files = {};   ///< that are read
  std::vector<NamedPath> images = {};  ///< files, or folders whose images are read at any depth
  std::vector<NamedPath> outputs = {};
};

/// Every command calls this before any work. Refuses outputs that are inputs, by whatever spelling, that
/// would be read as images by the next run, and that are each other. Then writes `--save_config`.
/// Paths that are empty are passed over.
/// \throws Error naming the two paths and the option to change
void begin(const Common& common, Paths paths);

}  // namespace refine::cli
