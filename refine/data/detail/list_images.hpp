#pragma once

#include <filesystem>
#include <set>
#include <string>
#include <vector>

// What `image_files` and `image_folder` share. Defined in impl/image_files.ipp.
namespace refine::data::detail {

/// Returns the entries of a folder, except hidden ones, sorted by name.
/// \throws Error if the folder cannot be listed
std::vector<std::filesystem::directory_entry> list_folder(const std::filesystem::path& folder);

/// True if the entry is a folder, or a link to one.
bool is_folder(const std::filesystem::directory_entry& entry);

/// Returns the usual extensions, as a sentence lists them.
std::string image_extensions();

/// Lists the images under a folder, at any depth. Each real folder is listed once, under the first
/// of its names, so that links cannot lead in circles.
/// \param folder where to begin
/// \param seen the folders that have been listed
/// \param files receives the images
/// \param ignored if not null, receives the other files
void list_images(const std::filesystem::path& folder, std::set<std::filesystem::path>& seen,
                 std::vector<std::filesystem::path>& files,
                 std::vector<std::filesystem::path>* ignored = nullptr);

}  // namespace refine::data::detail
