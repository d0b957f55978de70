#pragma once

#include <refine/core/error.hpp>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <set>
#include <string>
#include <system_error>
#include <vector>

/// What lies in folders: of `image_folder` and `image_files`.
namespace refine::data::detail {

/// What lies in a folder, hidden entries apart, sorted by name. \throws Error when it cannot be listed
inline std::vector<std::filesystem::directory_entry> entries(const std::filesystem::path& folder) {
  std::error_code failed;
  std::vector<std::filesystem::directory_entry> found;
  for (std::filesystem::directory_iterator at(folder, failed), end; !failed && at != end;
       at.increment(failed)) {
    if (!at->path().filename().native().starts_with('.')) found.push_back(*at);
  }
  if (failed) {
    throw Error("cannot list {}: {}; name a folder of images that may be read", folder.string(),
                failed.message());
  }
  std::ranges::sort(found, {}, [](const auto& entry) { return entry.path().native(); });
  return found;
}

inline bool is_folder(const std::filesystem::directory_entry& entry) {
  std::error_code unknown;
  return entry.is_directory(unknown);
}

/// By its name. A link that leads nowhere is one too, so that whoever reads it hears of it; a pipe is not.
inline bool is_image(const std::filesystem::directory_entry& entry) {
  std::string extension = entry.path().extension().string();
  for (char& c : extension) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  if (extension != ".png" && extension != ".jpg" && extension != ".jpeg") return false;
  std::error_code unknown;
  return entry.is_regular_file(unknown) || (entry.is_symlink(unknown) && !entry.exists(unknown));
}

/// Each real folder is listed once, under the first of its names: so links cannot lead in circles.
inline void list_images(const std::filesystem::path& folder, std::set<std::filesystem::path>& seen,
                        std::vector<std::filesystem::path>& files) {
  std::error_code unknown;
  if (const auto real = std::filesystem::canonical(folder, unknown); !unknown && !seen.insert(real).second)
    return;
  for (const auto& entry : entries(folder)) {
    if (is_folder(entry)) {
      list_images(entry.path(), seen, files);
    } else if (is_image(entry)) {
      files.push_back(entry.path());
    }
  }
}

}  // namespace refine::data::detail
