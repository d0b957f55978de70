#pragma once

#include <refine/core/error.hpp>

#include <filesystem>
#include <set>
#include <string>
#include <vector>

/// What lies in folders: of `image_folder` and `image_files`.
namespace refine::data::detail {

/// What lies in a folder, hidden entries apart, sorted by name. \throws Error when it cannot be listed
std::vector<std::filesystem::directory_entry> entries(const std::filesystem::path& folder);

bool is_folder(const std::filesystem::directory_entry& entry);

/// By its name: .png, .jpg, .webp and so on, in any case.
bool has_image_extension(const std::filesystem::path& file);

/// The extensions that are read, as a sentence lists them.
std::string image_extensions();

/// By its name. A link that leads nowhere is one too, so that whoever reads it hears of it; a pipe is not.
bool is_image(const std::filesystem::directory_entry& entry);

/// Each real folder is listed once, under the first of its names: so links cannot lead in circles.
/// \param passed_over gets the files that are no images by their name
void list_images(const std::filesystem::path& folder, std::set<std::filesystem::path>& seen,
                 std::vector<std::filesystem::path>& files,
                 std::vector<std::filesystem::path>* passed_over = nullptr);

}  // namespace refine::data::detail

#if !defined(REFINE_COMPILED)
#include <refine/data/listing_definitions.hpp>
#endif
