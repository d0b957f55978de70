#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <refine/core/task.hpp>
#include <refine/data/dataset.hpp>
#include <refine/data/detail/open_store.hpp>
#include <refine/data/image_files.hpp>
#include <refine/data/resize.hpp>

namespace refine::data {

/// Settings of `image_folder` and `image_folders`.
struct ImageFolderOptions {
  /// Shape that all images must have or get. One channel: they become grey. Open extents are taken
  /// from the first image.
  ImageShape image = {};
  ResizeMode resize_mode = ResizeMode::exact;    ///< what happens to an image of another size
  OnDecodeError on_error = OnDecodeError::fail;  ///< what happens to a file that cannot be used
  /// Folder that keeps the decoded images, so that a set may be larger than memory; empty: they
  /// stay in memory. The store takes N·C·H·W bytes. It is rebuilt only if the files, `image` or
  /// `resize_mode` have changed. Its file is named after the image folder, so give each data set its own
  /// store.
  std::filesystem::path store = {};
  /// Class names in label order; empty: the sub-folders, sorted by name
  std::vector<std::string> classes = {};
  unsigned threads = 0;  ///< threads that decode; 0: one for each processor
};

/// Reads labelled images from `<dir>/<class>/`, at any depth, with the extensions of `image_files`.
///
/// Classes and files are sorted by name. The result is the same for any number of threads, and with
/// or without a store. Hidden entries are ignored; files outside a class folder or with another
/// extension are reported on standard error. A folder name that is not UTF-8 becomes a class name
/// with `\xNN` for each invalid byte.
///
/// With `options.store`, `images` is a mapping of the file `<store>/<name of dir>.images`: the
/// system reads the pages that are used, and drops them when memory is short. Writing to the images
/// takes memory and does not change the file.
/// \param dir the folder of the class folders
/// \param options shape, errors, store, classes and threads
/// \param skipped if not null, receives one line for each file that was left out, after the lines
///   that it has; else the lines go to standard error
/// \throws Error if a class folder is unknown, empty, or has no usable file; if a file is damaged
///   or has the wrong size (`OnDecodeError::fail`); if images are to be resized and `options.image`
///   is not complete; if the store cannot be written
Dataset image_folder(const std::filesystem::path& dir, const ImageFolderOptions& options = {},
                     std::vector<std::string>* skipped = nullptr);

/// Reads `<root>/train` and `<root>/test` with `image_folder`, and ignores other entries of `root`.
/// \param root the folder of the two parts
/// \param options the test part gets the shape and the classes of the training part; it may lack
///   some of the classes, but not have others
/// \param skipped as for `image_folder`
/// \throws Error as `image_folder` does
Split image_folders(const std::filesystem::path& root, ImageFolderOptions options = {},
                    std::vector<std::string>* skipped = nullptr);

/// Returns a copy of images that may be written to without changing the original.
///
/// Images of a store (`ImageFolderOptions::store`) lie in a file that is mapped, not read, so that
/// a set may be larger than memory. For such images the copy is another mapping of the file, copied
/// on write: only the images that are changed take memory. The function reads through all pages
/// once. Other images are cloned.
///
/// ```cpp
/// const data::Dataset clean = data::image_folder("photos/train", {.store = "photos/decoded"});
/// at::Tensor stamped = data::copy_on_write(clean.images);
/// stamped[7].fill_(255);  // takes a page or two; clean.images and the file are as before
/// ```
/// \param images uint8 of any shape
/// \throws Error if the file cannot be mapped again
inline at::Tensor copy_on_write(const at::Tensor& images) {
  const detail::Mapping* const source = detail::mapping_of(images);
  if (!source || !images.is_contiguous()) return images.clone();
  const auto* const original = static_cast<const std::uint8_t*>(images.const_data_ptr());
  const auto offset = static_cast<std::size_t>(original - source->begin);
  auto mapping = std::make_unique<detail::Mapping>(source->file);
  std::uint8_t* const copy = mapping->begin + offset;
  // What has been written to `images` since they were mapped is not in the file.
  constexpr std::size_t block = 1 << 14;
  const std::size_t size = images.nbytes();
  for (std::size_t begin = 0; begin < size; begin += block) {
    const std::size_t count = std::min(block, size - begin);
    if (std::memcmp(copy + begin, original + begin, count) != 0)
      std::memcpy(copy + begin, original + begin, count);
  }
  return detail::mapped_tensor(std::move(mapping), offset, images.sizes());
}

}  // namespace refine::data

#if !defined(REFINE_COMPILED_LIB)
#include <refine/data/impl/image_folder.ipp>
#endif
