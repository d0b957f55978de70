#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/data/resize.hpp>

namespace refine {

/// How the images of a folder are read.
struct FolderOptions {
  /// What happens to images of another size. Nothing: `load_and_probe` takes that of the classifier's
  /// file, if it has one; else `crop`.
  std::optional<data::ResizeMode> resize = std::nullopt;
  std::int64_t max_images = 0;        ///< read at most this many, drawn by `seed`; 0: all
  std::uint64_t seed = default_seed;  ///< of the draw
  std::filesystem::path store =
      {};  ///< folder that keeps the decoded images, for sets larger than memory; empty: none
};

/// Images of a folder in any layout.
struct FolderImages {
  at::Tensor images = {};                         ///< uint8 N×C×H×W
  std::vector<std::filesystem::path> files = {};  ///< the file of each image
  std::vector<std::string> folders = {};          ///< the folder of each image, relative to the root
  /// Folders of all image files below the root, whether read or not. Image files of formats that are
  /// not read, such as GIF, count if they are in a subfolder.
  std::set<std::string> all_folders = {};
  std::size_t skipped = 0;  ///< number of files that could not be used
};

/// Reads the images below `path` at one shape. Damaged files are left out; they are counted in
/// `skipped` and reported on standard error, as are files that are not images.
///
///     const FolderImages clean = read_folder_images("clean/", victim.task().image);
///
/// \param path a folder, searched at any depth, or one file
/// \param shape of the result; all extents must be known
/// \param options how they are read
/// \throws Error if nothing can be read
FolderImages read_folder_images(const std::filesystem::path& path, const ImageShape& shape,
                                const FolderOptions& options = {});

/// Reads pairs of images: `clean` and `triggered` have the same paths below their folders, up to
/// the extension.
/// \return the clean images, and the triggered image of each as uint8 N×C×H×W
/// \throws Error if an image has no counterpart, or two files differ in their extensions alone
std::pair<FolderImages, at::Tensor> read_image_pairs(const std::filesystem::path& clean,
                                                     const std::filesystem::path& triggered,
                                                     const ImageShape& shape,
                                                     const FolderOptions& options = {});

namespace detail {

/// Moves the images that are kept into the first places, without a copy of the tensor, which may be
/// larger than memory. Calls `move(to, from)` for each image that moves.
/// \param removed places of the images that are dropped, in [0, images)
/// \return the number of images that are kept
template <typename Move>
std::int64_t compact(std::int64_t images, const std::set<std::int64_t>& removed, Move&& move) {
  const std::int64_t kept = images - static_cast<std::int64_t>(removed.size());
  std::int64_t last = images;
  for (const std::int64_t place : removed) {
    if (place >= kept) break;
    do --last;
    while (removed.contains(last));
    move(place, last);
  }
  return kept;
}

}  // namespace detail

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/defend/impl/folder_images.ipp>
#endif
