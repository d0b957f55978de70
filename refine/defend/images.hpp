#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <refine/backbones/normalized.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/data/dataset.hpp>
#include <refine/data/image_files.hpp>
#include <refine/data/resize.hpp>
#include <refine/defend/notice.hpp>

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
/// \param options how the clean images are read. Of the triggered images, those with a clean one are read, into
///   memory
/// \return the clean images, and the triggered image of each as uint8 N×C×H×W
/// \throws Error if an image has no counterpart, or two files differ in their extensions alone, or a triggered image
///   cannot be read
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

/// Reads class names from a text file, one a line, in the classifier's order. A byte order mark,
/// blanks at both ends of a line, CR and CRLF line ends and empty lines are removed. Names may
/// repeat, as ImageNet's do.
/// \throws Error if the file cannot be read, is not UTF-8, or contains no names
std::vector<std::string> read_class_names(const std::filesystem::path& path);

/// How class folders become labels.
enum class FolderLabels {
  automatic,  ///< by the class names, else in the order that fits the classifier's predictions
  names,      ///< by the class names
  text,       ///< by the folders' places in text order: 0, 1, 10, 2
  number,     ///< by their places in number order: 0, 1, 2, 10
  none,       ///< folders are not classes
};

/// Returns the name of a value: "auto", "names", "text", "number" or "none".
const char* to_text(FolderLabels labels);

/// True if `a` comes before `b` where numbers in names are compared by their values: "c2" before
/// "c10".
bool is_before_in_number_order(const std::string& a, const std::string& b);

/// What `label_by_folders` knows about the classifier.
struct FolderLabelOptions {
  FolderLabels labels = FolderLabels::automatic;  ///< how folders become labels
  std::vector<std::string> class_names = {};      ///< in the classifier's order; empty if they are not known
  int classes = 0;                                ///< that the classifier predicts
  /// Returns the predicted class of each image. It is called only if it is needed.
  std::function<std::vector<std::int64_t>()> predictions = {};
  Notify notify = {};  ///< receives a note that says which order was taken, or why there are no labels
};

/// Labels images by their folders: the first folder below the root, or the innermost. Folders such as
/// `train/` and `test/` are not classes.
///
/// Folders are recognized by the class names. Without names, or if the folders are numbers, their
/// place in text or number order is the class. If both orders or both depths are possible, the one that
/// fits the classifier's predictions is taken; if an order is specified, the first folders.
///
/// \return the images with their labels; nothing if the folders are not classes
/// \throws Error if some folders are classes and others are not, if the predictions fit no order
///   clearly, or if the specified order is not possible
std::optional<data::Dataset> label_by_folders(const FolderImages& images, const FolderLabelOptions& options);

/// A data set, and what is known about it.
struct NamedDataset {
  std::string name;                            ///< as folders of results have it
  data::Split split;                           ///< train and test
  std::optional<Normalization> normalization;  ///< its mean and deviation, if they are known
  std::size_t skipped = 0;                     ///< number of damaged files that were left out
};

/// How a data set is read.
struct NamedDatasetOptions {
  std::filesystem::path root = {};  ///< where CIFAR10 or FashionMNIST is; empty: `data/NAME`
  ImageShape image = {};            ///< of a folder: what images become; open extents are those of its images
  data::ResizeMode resize = data::ResizeMode::crop;          ///< of a folder: what happens to other sizes
  data::OnDecodeError on_error = data::OnDecodeError::fail;  ///< of a folder: what a damaged file causes
  std::filesystem::path store = {};  ///< of a folder: folder that keeps the decoded images; empty: none
  /// Called with data/CIFAR10 if CIFAR-10 is not there and `root` is empty:
  /// `data::download_cifar10`.
  std::function<void(const std::filesystem::path&)> download = {};
};

/// True for `CIFAR10` and `FashionMNIST`; every other name of a data set is a folder.
bool is_named_dataset(std::string_view name);

/// Reads `CIFAR10`, `FashionMNIST`, or a folder with `train/CLASS/` and `test/CLASS/`.
/// \throws Error if the data set does not exist or cannot be read, a folder's images have several
///   sizes and none is specified, or a store is specified for a named set
NamedDataset read_dataset(const std::string& name, const NamedDatasetOptions& options = {});

/// Returns the name that a data set has in folders of results: a folder's own name.
std::string dataset_name(const std::string& name);

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/defend/impl/images.ipp>
#endif
