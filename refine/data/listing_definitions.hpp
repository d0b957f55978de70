#pragma once

// What listing.hpp declares.

#include <refine/data/listing.hpp>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <iterator>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <refine/core/compiled.hpp>

namespace refine::data::detail {

REFINE_DEFINITION std::vector<std::filesystem::directory_entry> entries(const std::filesystem::path& folder) {
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

REFINE_DEFINITION bool is_folder(const std::filesystem::directory_entry& entry) {
  std::error_code unknown;
  return entry.is_directory(unknown);
}

inline constexpr std::string_view read_extensions[] = {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif",
                                                       ".tiff", ".bmp", ".ppm", ".pgm", ".pbm", ".pnm"};

REFINE_DEFINITION bool has_image_extension(const std::filesystem::path& file) {
  std::string extension = file.extension().string();
  for (char& c : extension) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return std::ranges::find(read_extensions, extension) != std::end(read_extensions);
}

REFINE_DEFINITION std::string image_extensions() {
  return ".png, .jpg, .jpeg, .webp, .tiff, .bmp or .ppm";
}

REFINE_DEFINITION bool is_image(const std::filesystem::directory_entry& entry) {
  if (!has_image_extension(entry.path())) return false;
  std::error_code unknown;
  return entry.is_regular_file(unknown) || (entry.is_symlink(unknown) && !entry.exists(unknown));
}

REFINE_DEFINITION void list_images(const std::filesystem::path& folder, std::set<std::filesystem::path>& seen,
                                   std::vector<std::filesystem::path>& files,
                                   std::vector<std::filesystem::path>* passed_over) {
  std::error_code unknown;
  if (const auto real = std::filesystem::canonical(folder, unknown); !unknown && !seen.insert(real).second)
    return;
  for (const auto& entry : entries(folder)) {
    if (is_folder(entry)) {
      list_images(entry.path(), seen, files, passed_over);
    } else if (is_image(entry)) {
      files.push_back(entry.path());
    } else if (passed_over) {
      passed_over->push_back(entry.path());
    }
  }
}

}  // namespace refine::data::detail
