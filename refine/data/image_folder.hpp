#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/core/task.hpp>
#include <refine/data/dataset.hpp>
#include <refine/data/image_files.hpp>
#include <refine/data/resize.hpp>

namespace refine::data {

struct ImageFolderOptions {
  ImageShape image = {};  ///< what every image must be or becomes; open extents are those of the first image
  ResizeMode fit =
      ResizeMode::exact;  ///< what happens to an image of another size; `image` is then to be told in full
  /// `skip`: a file that is damaged or does not fit is left out, and told
  OnDecodeError on_bad = OnDecodeError::fail;
  /// Gets a line for each file that was left out; none: standard error does
  std::vector<std::string>* skipped = nullptr;
  /// A folder that keeps the decoded images, so that a set may be larger than memory; empty: in memory. They
  /// take N·C·H·W bytes there, and are decoded anew only when files, `image` or `fit` have changed. A folder
  /// of the same name replaces them: give each data set a store of its own.
  std::filesystem::path store = {};
  /// The classes in label order; empty: the sub-folders, sorted by name
  std::vector<std::string> classes = {};
  unsigned threads = 0;  ///< that decode; 0: as many as the machine has
};

/// The images below `<dir>/<class>/`, at any depth, with the extensions of `image_files`; classes and files
/// sorted by name, decoded in parallel; whatever the number of threads, and with a store or without, the
/// result is the same. Hidden entries are passed over, and so are loose files and those of other extensions,
/// which standard error is told of. A folder's name that is not UTF-8 gives a class with `\xNN` for each byte
/// that is not (`to_utf8`). `options.image` of 1 channel makes them grey (ITU-R 601 luma).
///
/// With `options.store`, `images` are a mapping of the file `<store>/<name of dir>.images`: the system reads
/// what is looked at and forgets it when memory is short. What is written to them takes memory, and does not
/// reach the file.
/// \throws Error when a class folder is unknown, empty, or has no file that can be used; when a file is
///   damaged, or has another size and is not to be fitted (`OnDecodeError::fail`); when the store can't be written
Dataset image_folder(const std::filesystem::path& dir, const ImageFolderOptions& options = {});

/// `<root>/train` and `<root>/test`, whatever lies beside them; the classes are those of `train`, and `test`
/// may lack some, but not have others. \throws Error as `image_folder`.
Split image_folders(const std::filesystem::path& root, ImageFolderOptions options = {});

}  // namespace refine::data

#if !defined(REFINE_COMPILED_LIB)
#include <refine/data/impl/image_folder.ipp>
#endif
