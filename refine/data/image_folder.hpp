#pragma once

#include <ATen/ops/tensor.h>
#include <refine/data/decode_images.hpp>
#include <refine/data/listing.hpp>
#include <refine/data/split.hpp>

#include <filesystem>
#include <range/v3/algorithm/find.hpp>
#include <string>
#include <utility>
#include <vector>

namespace refine::data {

struct ImageFolderOptions {
  ImageShape image = {};  ///< what every image must be or becomes; open extents are those of the first image
  Fit fit = Fit::exact;   ///< what happens to an image of another size; `image` is then to be told in full
  std::vector<std::string> classes =
      {};                ///< the classes in label order; empty: the sub-folders, sorted by name
  unsigned threads = 0;  ///< that decode; 0: as many as the machine has
};

namespace detail {

inline std::vector<std::filesystem::path> paths(const std::vector<std::filesystem::directory_entry>& entries,
                                                bool (*wanted)(const std::filesystem::directory_entry&)) {
  std::vector<std::filesystem::path> chosen;
  for (const auto& entry : entries) {
    if (wanted(entry)) chosen.push_back(entry.path());
  }
  return chosen;
}

}  // namespace detail

/// The images `<dir>/<class>/*.{png,jpg,jpeg}`, classes and files sorted by name, decoded in parallel;
/// whatever the number of threads, the result is the same. Hidden entries and loose files are passed over.
/// `options.image` of 1 channel makes them grey (ITU-R 601 luma).
/// \throws Error when a class folder is unknown or empty, a file is damaged, or one has another size and is
/// not
///   to be fitted
inline Dataset image_folder(const std::filesystem::path& dir, const ImageFolderOptions& options = {}) {
  const auto folders = detail::paths(detail::entries(dir), detail::is_folder);
  if (folders.empty()) {
    throw Error("cannot read images from {}: it has no class folders; lay them out as <class>/<image>.png",
                dir.string());
  }
  std::vector<std::string> classes = options.classes;
  if (classes.empty()) {
    for (const auto& folder : folders) classes.push_back(folder.filename().string());
  }

  std::vector<std::filesystem::path> files;
  std::vector<std::int64_t> labels;
  for (const auto& folder : folders) {
    const auto known = ranges::find(classes, folder.filename().string());
    if (known == classes.end()) {
      throw Error(
          "cannot read images from {}: none of the {} known classes has that name; rename or remove it",
          folder.string(), classes.size());
    }
    const auto images = detail::paths(detail::entries(folder), detail::is_image);
    if (images.empty()) {
      throw Error("cannot read images from {}: it has no .png, .jpg or .jpeg file; fill or remove it",
                  folder.string());
    }
    files.insert(files.end(), images.begin(), images.end());
    labels.insert(labels.end(), images.size(), known - classes.begin());
  }

  at::Tensor images = detail::decode_images(files, options.image, options.fit, options.threads, dir.string());
  return {.images = std::move(images), .labels = at::tensor(labels), .classes = std::move(classes)};
}

/// `<root>/train` and `<root>/test`; the classes are those of `train`, and `test` may lack some, but not have
/// others. \throws Error as `image_folder`.
inline Split image_folders(const std::filesystem::path& root, ImageFolderOptions options = {}) {
  Split split;
  split.train = image_folder(root / "train", options);
  options.image = split.train.image();
  options.classes = split.train.classes;
  split.test = image_folder(root / "test", options);
  return split;
}

}  // namespace refine::data
