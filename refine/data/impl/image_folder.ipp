#pragma once

#include <refine/data/image_folder.hpp>

#include <ATen/ops/tensor.h>
#include <fmt/format.h>
#include <range/v3/algorithm/find_if.hpp>

#include <cstddef>
#include <cstdint>
#include <set>
#include <utility>

#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/core/text.hpp>
#include <refine/data/detail/list_images.hpp>
#include <refine/data/detail/open_store.hpp>
#include <refine/data/detail/parallel_decoder.hpp>

namespace refine::data::detail {

REFINE_INLINE std::vector<std::filesystem::path> folders_of(
    const std::vector<std::filesystem::directory_entry>& entries) {
  std::vector<std::filesystem::path> folders;
  for (const auto& entry : entries) {
    if (is_folder(entry)) folders.push_back(entry.path());
  }
  return folders;
}

/// Returns the labels of the files that were decoded; the errors of the others go to `skipped`.
/// \throws Error if no file of a class was decoded
REFINE_INLINE std::vector<std::int64_t> labels_of_decoded(const std::vector<std::int64_t>& labels,
                                                          const std::vector<std::string>& errors,
                                                          const std::vector<std::filesystem::path>& files,
                                                          std::vector<std::string>& skipped) {
  std::vector<std::int64_t> kept;
  skipped.clear();
  for (std::size_t begin = 0, end; begin < labels.size(); begin = end) {  // class by class
    const std::size_t kept_before = kept.size();
    for (end = begin; end < labels.size() && labels[end] == labels[begin]; ++end) {
      if (errors[end].empty()) {
        kept.push_back(labels[end]);
      } else {
        skipped.push_back(errors[end]);
      }
    }
    if (kept.size() == kept_before) {
      throw Error("cannot read images from {}: none of its {} files can be used; the first: {}",
                  files[begin].parent_path().string(), end - begin, errors[begin]);
    }
  }
  return kept;
}

}  // namespace refine::data::detail

namespace refine::data {

REFINE_INLINE Dataset image_folder(const std::filesystem::path& dir, const ImageFolderOptions& options,
                                   std::vector<std::string>* skipped) {
  const auto folders = detail::folders_of(detail::list_folder(dir));
  if (folders.empty()) {
    throw Error(
        "cannot read images from {}: contains no class folders; arrange the images as <class>/<image>.png",
        dir.string());
  }
  std::vector<std::string> classes = options.classes;
  if (classes.empty()) {
    for (const auto& folder : folders) classes.push_back(text::to_utf8(folder.filename().native()));
  }

  std::vector<std::filesystem::path> files, ignored;
  for (const auto& entry : detail::list_folder(dir)) {
    if (!detail::is_folder(entry)) ignored.push_back(entry.path());
  }
  std::vector<std::int64_t> labels;
  for (const auto& folder : folders) {
    const auto known = ranges::find_if(classes, [&](const std::string& name) {
      return name == folder.filename().native() || name == text::to_utf8(folder.filename().native());
    });
    if (known == classes.end()) {
      throw Error("cannot read images from {}: not one of the {} known classes; rename or remove the folder",
                  folder.string(), classes.size());
    }
    std::set<std::filesystem::path> seen;  // ends cycles; two classes may link to one folder
    std::vector<std::filesystem::path> images;
    const std::size_t ignored_before = ignored.size();
    detail::list_images(folder, seen, images, &ignored);
    if (images.empty()) {
      const std::size_t others = ignored.size() - ignored_before;
      throw Error("cannot read images from {}: contains no {} file{}; add images or remove the folder",
                  folder.string(), detail::image_extensions(),
                  others == 0 ? std::string()
                              : fmt::format(" (got {} other files, such as {})", others,
                                            ignored.back().filename().string()));
    }
    files.insert(files.end(), images.begin(), images.end());
    labels.insert(labels.end(), images.size(), known - classes.begin());
  }

  warn_ignored(ignored);
  auto decoded = detail::decode_files(files, options, dir, "", dir.string());
  std::vector<std::string> reasons;
  Dataset set{.images = std::move(decoded.images),
              .labels = at::tensor(detail::labels_of_decoded(labels, decoded.errors, files, reasons)),
              .classes = std::move(classes)};
  if (skipped) {
    skipped->insert(skipped->end(), reasons.begin(), reasons.end());
  } else {
    warn_skipped(reasons);
  }
  return set;
}

REFINE_INLINE Split image_folders(const std::filesystem::path& root, ImageFolderOptions options,
                                  std::vector<std::string>* skipped) {
  Split split;
  split.train = image_folder(root / "train", options, skipped);
  options.image = split.train.image_shape();
  options.classes = split.train.classes;
  split.test = image_folder(root / "test", options, skipped);
  return split;
}

}  // namespace refine::data
