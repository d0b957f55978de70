#pragma once

#include <refine/defend/folder_images.hpp>

#include <ATen/ops/tensor.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <string_view>

#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/data/image_files.hpp>

namespace refine::detail {

/// True for a file that is an image by its name, of a format that is not read.
inline bool is_unread_image(const std::filesystem::path& file) {
  constexpr std::string_view known[] = {".gif", ".heic", ".heif", ".avif", ".jp2", ".j2k", ".jxl",
                                        ".tga", ".psd",  ".dng",  ".raw",  ".exr", ".hdr", ".npy"};
  return std::ranges::find(known, data::detail::lower_extension(file)) != std::end(known);
}

}  // namespace refine::detail

namespace refine {

REFINE_INLINE FolderImages read_folder_images(const std::filesystem::path& path, const ImageShape& shape,
                                              const FolderOptions& options) {
  std::vector<std::filesystem::path> ignored;
  const std::vector<std::filesystem::path> files = data::image_files(path, &ignored);
  data::warn_ignored(ignored);
  const auto folder_of = [&](const std::filesystem::path& file) {
    return file.lexically_relative(path).parent_path().string();
  };
  auto loaded = data::load_images(files, {.image = shape,
                                          .fit = options.resize.value_or(data::ResizeMode::crop),
                                          .on_error = data::OnDecodeError::skip,
                                          .store = options.store,
                                          .max_images = options.max_images,
                                          .seed = options.seed});
  data::warn_skipped(loaded.skipped);
  FolderImages result{
      .images = std::move(loaded.images), .files = std::move(loaded.files), .skipped = loaded.skipped.size()};
  for (const auto& file : result.files) result.folders.push_back(folder_of(file));
  for (const auto& file : files) result.all_folders.insert(folder_of(file));
  for (const auto& file : ignored) {  // a class whose images are not read is a class
    if (!folder_of(file).empty() && detail::is_unread_image(file)) result.all_folders.insert(folder_of(file));
  }
  return result;
}

REFINE_INLINE std::pair<FolderImages, at::Tensor> read_image_pairs(const std::filesystem::path& clean,
                                                                   const std::filesystem::path& triggered,
                                                                   const ImageShape& shape,
                                                                   const FolderOptions& options) {
  FolderImages originals = read_folder_images(clean, shape, options);
  const FolderImages others = read_folder_images(triggered, shape, {.resize = options.resize});
  const auto key = [](const std::filesystem::path& file, const std::filesystem::path& root) {
    return file.lexically_relative(root).replace_extension().string();
  };
  std::map<std::string, std::int64_t> places;
  for (std::size_t i = 0; i < others.files.size(); ++i) {
    if (!places.emplace(key(others.files[i], triggered), static_cast<std::int64_t>(i)).second) {
      throw Error("cannot pair the images: {} and another file differ in their extension alone; rename one",
                  others.files[i].string());
    }
  }
  std::vector<std::int64_t> order;
  for (const auto& file : originals.files) {
    const auto found = places.find(key(file, clean));
    if (found == places.end()) {
      throw Error(
          "cannot pair the images: {} has no counterpart in {}; give both folders the same file names",
          file.string(), triggered.string());
    }
    order.push_back(found->second);
  }
  return {std::move(originals), others.images.index_select(0, at::tensor(order))};
}

}  // namespace refine
