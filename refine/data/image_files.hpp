#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <refine/core/file.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/data/detail/pixels.hpp>
#include <refine/data/resize.hpp>

namespace refine::data {

/// Decodes a JPEG, PNG, WebP, TIFF, BMP or PNM image; the format is recognised by content.
///
/// Grey and palette images are expanded to RGB, CMYK is converted, alpha is dropped, 16 bits become
/// 8, and colour profiles are ignored. The EXIF orientation is applied, as Pillow's
/// `ImageOps.exif_transpose` does.
/// \param bytes the content of the file
/// \param name used in messages
/// \return uint8, 3×H×W
/// \throws Error if the format is not supported, the image is damaged or incomplete, or a side
///   exceeds 16,384 pixels
at::Tensor decode_image_bytes(std::string_view bytes, std::string_view name);

/// Decodes an image file.
/// \param path the file
/// \return uint8, 3×H×W
/// \throws Error as `decode_image_bytes` does, and if the file cannot be read or has more than 1 GiB
inline at::Tensor decode_image(const std::filesystem::path& path) {
  return decode_image_bytes(files::read(path, detail::max_image_file_bytes), path.string());
}

/// Settings of `load_images`.
struct ImageFilesOptions {
  /// Shape that all images get. One channel: they become grey. Open extents are taken from the
  /// first image.
  ImageShape image = {};
  ResizeMode resize_mode = ResizeMode::exact;    ///< what happens to an image of another size
  OnDecodeError on_error = OnDecodeError::fail;  ///< what happens to a file that cannot be used
  /// Folder that keeps the decoded images, so that a set may be larger than memory; empty: they
  /// stay in memory. The store takes N·C·H·W bytes. It is rebuilt only if the files, `image` or
  /// `resize_mode` have changed.
  std::filesystem::path store = {};
  unsigned threads = 0;               ///< threads that decode; 0: one for each processor
  std::int64_t max_images = 0;        ///< number of files to draw at random and read; 0: all
  std::uint64_t seed = default_seed;  ///< of that draw
};

/// Images that were read from files, without labels.
struct LoadedImages {
  at::Tensor images = {};                         ///< uint8, N×C×H×W, RGB or grey, 0–255
  std::vector<std::filesystem::path> files = {};  ///< N: the file of each image
  std::vector<std::string> skipped = {};  ///< one line for each file that was left out, with the reason
};

/// Lists the image files under a folder, at any depth, sorted by path.
///
/// Extensions, in any case: `.png`, `.jpg`, `.jpeg`, `.jpe`, `.jfif`, `.webp`, `.tif`, `.tiff`,
/// `.bmp`, `.ppm`, `.pgm`, `.pbm` and `.pnm`. Hidden entries are ignored. Links are followed, and a
/// folder that is reached twice is listed once.
/// \param file_or_folder a folder; or a file, which is returned whatever its extension
/// \param ignored if not null, receives the files with other extensions, for `warn_ignored`
/// \return the files, at least one
/// \throws Error if the path does not exist, cannot be listed, or contains no image
std::vector<std::filesystem::path> image_files(const std::filesystem::path& file_or_folder,
                                               std::vector<std::filesystem::path>* ignored = nullptr);

/// Returns the real folders that `image_files` looks into: a folder and all below it, also through
/// links, except hidden ones.
/// \param file_or_folder a folder; for anything else the result is empty
/// \throws Error if a folder cannot be listed
std::set<std::filesystem::path> searched_folders(const std::filesystem::path& file_or_folder);

/// True if the file's name has one of the extensions that `image_files` looks for.
bool has_image_extension(const std::filesystem::path& file);

/// Decodes files in parallel into one tensor, in the files' order.
///
/// The result is the same for any number of threads, and with or without a store. With
/// `options.store`, `images` is a mapping of the file `<store>/<name>.images`, as for
/// `image_folder`, where `<name>` is the innermost folder that contains all files. A draw of
/// `max_images` has its own store, `<name>.most<max_images>.seed<seed>.images`.
/// \param files at least one
/// \param options shape, errors, store, threads and draw
/// \throws Error if `files` is empty or none can be used; for `OnDecodeError::fail`, if one cannot
///   be used; if images are to be resized and `options.image` is not complete; if the store cannot
///   be written
LoadedImages load_images(std::vector<std::filesystem::path> files, const ImageFilesOptions& options = {});

/// Returns the size that image files have in common. Of PNG, WebP and JPEG files only the headers are decoded; of most
/// JPEG files, 16 KiB are read.
/// \param files at least one; those that cannot be read are not counted
/// \return 3×H×W; 3×?×? if the sizes differ or no file can be read
/// \throws Error if `files` is empty
ImageShape common_shape(const std::vector<std::filesystem::path>& files);

/// Prints a line on standard error for each file that was left out; after 20 lines, the number of
/// the others.
/// \param skipped the reasons, as in `LoadedImages::skipped`
void warn_skipped(const std::vector<std::string>& skipped);

/// Prints one line on standard error that counts ignored files by extension. Prints nothing for an
/// empty list.
/// \param ignored as from `image_files`
void warn_ignored(const std::vector<std::filesystem::path>& ignored);

}  // namespace refine::data

#if !defined(REFINE_COMPILED_LIB)
#include <refine/data/impl/image_files.ipp>
#endif
