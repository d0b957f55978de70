#pragma once

#include <refine/data/image_files.hpp>

#include <ATen/ops/empty.h>
#include <fmt/core.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <iterator>
#include <map>
#include <string_view>
#include <system_error>
#include <utility>

#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/core/file.hpp>
#include <refine/core/text.hpp>
#include <refine/data/detail/decoders.hpp>
#include <refine/data/detail/list_images.hpp>
#include <refine/data/detail/open_store.hpp>
#include <refine/data/detail/parallel_decoder.hpp>

namespace refine::data::detail {

REFINE_INLINE std::vector<std::filesystem::directory_entry> list_folder(const std::filesystem::path& folder) {
  std::error_code failed;
  std::vector<std::filesystem::directory_entry> found;
  for (std::filesystem::directory_iterator entry(folder, failed), end; !failed && entry != end;
       entry.increment(failed)) {
    if (!entry->path().filename().native().starts_with('.')) found.push_back(*entry);
  }
  if (failed) {
    throw Error("cannot list {}: {}; specify a readable folder of images", folder.string(), failed.message());
  }
  std::ranges::sort(found, {}, [](const auto& entry) { return entry.path().native(); });
  return found;
}

REFINE_INLINE bool is_folder(const std::filesystem::directory_entry& entry) {
  std::error_code unknown;
  return entry.is_directory(unknown);
}

inline constexpr std::string_view supported_extensions[] = {".png",  ".jpg", ".jpeg", ".jpe", ".jfif",
                                                            ".webp", ".tif", ".tiff", ".bmp", ".ppm",
                                                            ".pgm",  ".pbm", ".pnm"};

REFINE_INLINE std::string image_extensions() {
  return ".png, .jpg, .jpeg, .webp, .tiff, .bmp or .ppm";
}

/// True if the entry is a file with an image extension. So is a broken link, since reading it
/// reports the reason; a pipe is not.
inline bool is_image(const std::filesystem::directory_entry& entry) {
  if (!has_image_extension(entry.path())) return false;
  std::error_code unknown;
  return entry.is_regular_file(unknown) || (entry.is_symlink(unknown) && !entry.exists(unknown));
}

REFINE_INLINE void list_images(const std::filesystem::path& folder, std::set<std::filesystem::path>& seen,
                               std::vector<std::filesystem::path>& files,
                               std::vector<std::filesystem::path>* ignored) {
  std::error_code unknown;
  if (const auto real = std::filesystem::canonical(folder, unknown); !unknown && !seen.insert(real).second)
    return;
  for (const auto& entry : list_folder(folder)) {
    if (is_folder(entry)) {
      list_images(entry.path(), seen, files, ignored);
    } else if (is_image(entry)) {
      files.push_back(entry.path());
    } else if (ignored) {
      ignored->push_back(entry.path());
    }
  }
}

}  // namespace refine::data::detail

namespace refine::data {

REFINE_INLINE bool has_image_extension(const std::filesystem::path& file) {
  return std::ranges::find(detail::supported_extensions, files::lower_extension(file)) !=
         std::end(detail::supported_extensions);
}

REFINE_INLINE at::Tensor decode_image_bytes(std::string_view bytes, std::string_view name) {
  detail::RgbImage image;
  detail::decode(bytes, name, image);
  auto planes = at::empty({3, image.height, image.width}, at::kByte);
  image.copy_planes_to(planes.mutable_data_ptr<std::uint8_t>());
  return planes;
}

REFINE_INLINE void warn_skipped(const std::vector<std::string>& skipped) {
  constexpr std::size_t max_lines = 20;
  for (std::size_t i = 0; i < std::min(skipped.size(), max_lines); ++i) {
    fmt::print(stderr, "skipped: {}\n", text::printable(skipped[i]));
  }
  if (skipped.size() > max_lines) fmt::print(stderr, "skipped: {} more\n", skipped.size() - max_lines);
}

REFINE_INLINE void warn_ignored(const std::vector<std::filesystem::path>& ignored) {
  if (ignored.empty()) return;
  std::map<std::string, std::size_t> counts;
  for (const auto& file : ignored) ++counts[file.extension().string()];
  std::string kinds;
  for (const auto& [extension, count] : counts) {
    kinds += fmt::format("{}{} {}", kinds.empty() ? "" : ", ", count,
                         extension.empty() ? "without an extension" : text::printable(extension));
  }
  fmt::print(stderr, "ignored: {} file{} without an image extension ({}); the first: {}\n", ignored.size(),
             ignored.size() == 1 ? "" : "s", kinds, text::printable(ignored.front().string()));
}

REFINE_INLINE std::vector<std::filesystem::path> image_files(const std::filesystem::path& file_or_folder,
                                                             std::vector<std::filesystem::path>* ignored) {
  std::error_code unknown;
  if (!files::exists(file_or_folder)) {
    throw Error("cannot read images from {}: no such file or folder; check the path and its permissions",
                file_or_folder.string());
  }
  if (!std::filesystem::is_directory(file_or_folder, unknown)) return {file_or_folder};
  std::set<std::filesystem::path> seen;
  std::vector<std::filesystem::path> files, others;
  detail::list_images(file_or_folder, seen, files, &others);
  if (files.empty()) {
    throw Error("cannot read images from {}: contains no {} file at any depth{}; specify another folder",
                file_or_folder.string(), detail::image_extensions(),
                others.empty() ? std::string()
                               : fmt::format(" (got {} other files, such as {})", others.size(),
                                             others.front().filename().string()));
  }
  if (ignored) ignored->insert(ignored->end(), others.begin(), others.end());
  return files;
}

REFINE_INLINE std::set<std::filesystem::path> searched_folders(const std::filesystem::path& file_or_folder) {
  std::set<std::filesystem::path> folders;
  std::vector<std::filesystem::path> files;
  std::error_code unknown;
  if (std::filesystem::is_directory(file_or_folder, unknown)) {
    detail::list_images(file_or_folder, folders, files);
  }
  return folders;
}

REFINE_INLINE LoadedImages load_images(std::vector<std::filesystem::path> files,
                                       const ImageFilesOptions& options) {
  if (files.empty()) throw Error("images: the list of files is empty; specify at least one");
  if (options.max_images < 0) {
    throw Error("images: max_images must be at least 0 (all), got {}", options.max_images);
  }
  const auto n = static_cast<std::int64_t>(files.size());
  // Of all files, since those that are drawn may happen to lie in a folder further down.
  const std::filesystem::path folder =
      options.store.empty() ? std::filesystem::path() : detail::common_folder(files);
  std::string part;
  if (options.max_images > 0 && options.max_images < n) {
    part = fmt::format(".most{}.seed{}", options.max_images, options.seed);
    Random random(derived_seed(options.seed, "image files"));
    auto drawn = random_permutation(random, n);
    drawn.resize(static_cast<std::size_t>(options.max_images));
    std::ranges::sort(drawn);
    std::vector<std::filesystem::path> chosen;
    for (const auto i : drawn) chosen.push_back(std::move(files[static_cast<std::size_t>(i)]));
    files = std::move(chosen);
  }
  auto decoded = detail::decode_files(files, options, folder, part, "the image files");
  LoadedImages loaded{.images = std::move(decoded.images)};
  for (std::size_t i = 0; i < files.size(); ++i) {
    if (decoded.errors[i].empty()) {
      loaded.files.push_back(std::move(files[i]));
    } else {
      loaded.skipped.push_back(std::move(decoded.errors[i]));
    }
  }
  return loaded;
}

REFINE_INLINE ImageShape common_shape(const std::vector<std::filesystem::path>& files) {
  if (files.empty()) throw Error("images: the list of files is empty; specify PNG or JPEG files");
  ImageShape common = {3, dynamic, dynamic};
  for (const auto& file : files) {
    const ImageShape shape = detail::shape_in_header(file);
    if (!compatible(common, shape)) return {3, dynamic, dynamic};
    common = merged(common, shape);
  }
  return common;
}

}  // namespace refine::data
