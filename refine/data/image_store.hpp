#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/data/decode.hpp>
#include <refine/data/detail/open_store.hpp>
#include <refine/data/image_files.hpp>

/// Decoded images in a file, which is mapped and not read: so a set may be larger than memory, and no epoch
/// and no later run decodes it again.
namespace refine::data::detail {

/// The images of the store at `path`, which is made first where it is not there or not of this source.
/// \throws Error as `open_store` and `decode_images`, and when it can't be written
DecodedImages stored_images(const std::filesystem::path& path, const StoreSource& source,
                            OnDecodeError on_bad, unsigned threads, const std::string& what);

/// The innermost folder that all of these files lie in; `.` where their names say none.
/// \pre there is a file
std::filesystem::path common_folder(const std::vector<std::filesystem::path>& files);

/// Where the store of a folder lies: `<store>/<name of the folder><part>.images`.
/// \param part  tells the store of some of its images from that of all: ".some"
std::filesystem::path store_path(const std::filesystem::path& folder, const std::filesystem::path& store,
                                 const std::string& part = "");

}  // namespace refine::data::detail

#if !defined(REFINE_COMPILED_LIB)
#include <refine/data/impl/image_store.ipp>
#endif
