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
#include <refine/data/decode.hpp>
#include <refine/data/detail/bytes.hpp>
#include <refine/data/image_store.hpp>

namespace refine::data::detail {

REFINE_INLINE std::vector<std::filesystem::path> paths(
    const std::vector<std::filesystem::directory_entry>& entries,
    bool (*wanted)(const std::filesystem::directory_entry&)) {
  std::vector<std::filesystem::path> chosen;
  for (const auto& entry : entries) {
    if (wanted(entry)) chosen.push_back(entry.path());
  }
  return chosen;
}

/// The labels of the files that could be used; the others' lines go to `skipped`.
/// \throws Error when a class has none
REFINE_INLINE std::vector<std::int64_t> labels_of_good(const std::vector<std::int64_t>& labels,
                                                       const std::vector<std::string>& bad,
                                                       const std::vector<std::filesystem::path>& files,
                                                       std::vector<std::string>& skipped) {
  std::vector<std::int64_t> kept;
  skipped.clear();
  for (std::size_t begin = 0, end; begin < labels.size(); begin = end) {  // class by class
    const std::size_t kept_before = kept.size();
    for (end = begin; end < labels.size() && labels[end] == labels[begin]; ++end) {
      if (bad[end].empty()) {
        kept.push_back(labels[end]);
      } else {
        skipped.push_back(bad[end]);
      }
    }
    if (kept.size() == kept_before) {
      throw Error("cannot read images from {}: none of its {} can be used; the first: {}",
                  files[begin].parent_path().string(), end - begin, bad[begin]);
    }
  }
  return kept;
}

}  // namespace refine::data::detail

namespace refine::data {

REFINE_INLINE Dataset image_folder(const std::filesystem::path& dir, const ImageFolderOptions& options) {
  const auto folders = detail::paths(detail::entries(dir), detail::is_folder);
  if (folders.empty()) {
    throw Error("cannot read images from {}: it has no class folders; lay them out as <class>/<image>.png",
                dir.string());
  }
  std::vector<std::string> classes = options.classes;
  if (classes.empty()) {
    for (const auto& folder : folders) classes.push_back(to_utf8(folder.filename().native()));
  }

  std::vector<std::filesystem::path> files, passed_over;
  for (const auto& entry : detail::entries(dir)) {
    if (!detail::is_folder(entry)) passed_over.push_back(entry.path());
  }
  std::set<std::filesystem::path> seen;
  std::vector<std::int64_t> labels;
  for (const auto& folder : folders) {
    const auto known = ranges::find_if(classes, [&](const std::string& name) {
      return name == folder.filename().native() || name == to_utf8(folder.filename().native());
    });
    if (known == classes.end()) {
      throw Error(
          "cannot read images from {}: none of the {} known classes has that name; rename or remove it",
          folder.string(), classes.size());
    }
    std::vector<std::filesystem::path> images;
    const std::size_t others = passed_over.size();
    detail::list_images(folder, seen, images, &passed_over);
    if (images.empty()) {
      throw Error("cannot read images from {}: it has no {} file{}; fill or remove it", folder.string(),
                  detail::image_extensions(),
                  passed_over.size() == others
                      ? std::string()
                      : fmt::format(" ({} others, as {})", passed_over.size() - others,
                                    passed_over.back().filename().string()));
    }
    files.insert(files.end(), images.begin(), images.end());
    labels.insert(labels.end(), images.size(), known - classes.begin());
  }

  warn_ignored(passed_over);
  auto decoded = options.store.empty()
                     ? detail::decode_images(files, options.image, options.fit, options.on_bad,
                                             options.threads, dir.string())
                     : detail::stored_images(
                           detail::store_path(dir, options.store),
                           {.folder = dir, .files = files, .wanted = options.image, .fit = options.fit},
                           options.on_bad, options.threads, dir.string());
  std::vector<std::string> skipped;
  Dataset set{.images = std::move(decoded.images),
              .labels = at::tensor(detail::labels_of_good(labels, decoded.bad, files, skipped)),
              .classes = std::move(classes)};
  if (options.skipped) {
    *options.skipped = std::move(skipped);
  } else {
    warn_skipped(skipped);
  }
  return set;
}

REFINE_INLINE Split image_folders(const std::filesystem::path& root, ImageFolderOptions options) {
  Split split;
  split.train = image_folder(root / "train", options);
  options.image = split.train.image();
  options.classes = split.train.classes;
  std::vector<std::string> of_test;
  auto* const skipped = std::exchange(options.skipped, options.skipped ? &of_test : nullptr);
  split.test = image_folder(root / "test", options);
  if (skipped) skipped->insert(skipped->end(), of_test.begin(), of_test.end());
  return split;
}

}  // namespace refine::data
