#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace refine::cli {

/// Reads class names from a text file, one a line, in the model's order. A byte order mark, blanks at both
/// ends of a line, CR and CRLF line ends and empty lines are removed. Names may repeat, as ImageNet's do.
/// \throws Error if the file cannot be read, is not UTF-8, or names nothing
std::vector<std::string> read_class_names(const std::filesystem::path& path);

}  // namespace refine::cli
