#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include <refine/core/error.hpp>

// The files in the folder of a `Checkpoint`.
namespace refine::detail {

/// The step in the name of a checkpoint; nothing for other files.
inline std::optional<std::int64_t> step_of(const std::filesystem::path& file) {
  const std::string stem = file.stem().string();
  if (file.extension() != ".safetensors" || stem.size() != 10) return std::nullopt;
  if (!std::ranges::all_of(stem, [](unsigned char c) { return c >= '0' && c <= '9'; })) return std::nullopt;
  return std::stoll(stem);
}

/// The same for one that was damaged, `STEP.safetensors.damaged`.
inline std::optional<std::int64_t> step_of_damaged(const std::filesystem::path& file) {
  return file.extension() == ".damaged" ? step_of(file.stem()) : std::nullopt;
}

/// Returns the wanted entries of a folder; none if it does not exist.
/// \throws Error if it cannot be listed
template <typename Wanted>
std::vector<std::filesystem::path> entries_of(const std::filesystem::path& folder, Wanted wanted) {
  std::vector<std::filesystem::path> found;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    if (wanted(entry->path())) found.push_back(entry->path());
  }
  if (error && error != std::errc::no_such_file_or_directory)
    throw Error("cannot list {}: {}; check the folder and its permissions", folder.string(), error.message());
  return found;
}

/// Returns the checkpoints of a folder, the newest first: their names have the step in ten digits.
inline std::vector<std::filesystem::path> checkpoints_in(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> files =
      entries_of(folder, [](const std::filesystem::path& file) { return step_of(file).has_value(); });
  std::ranges::sort(files, std::ranges::greater());
  return files;
}

}  // namespace refine::detail
