#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <refine/data/dataset.hpp>
#include <refine/defend/folder_images.hpp>
#include <refine/defend/notice.hpp>

namespace refine {

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

/// Labels images by their folders: the first folder below the root or, if those are not classes,
/// the innermost.
///
/// Folders are recognized by the class names. Without names, or if the folders are numbers, their
/// place in text or number order is the class. If both orders are possible, the one that fits the
/// classifier's predictions is taken.
///
/// \return the images with their labels; nothing if the folders are not classes
/// \throws Error if some folders are classes and others are not, if the predictions fit no order
///   clearly, or if the specified order is not possible
std::optional<data::Dataset> label_by_folders(const FolderImages& images, const FolderLabelOptions& options);

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/defend/impl/class_folders.ipp>
#endif
