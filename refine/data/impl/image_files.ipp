#pragma once

#include <refine/data/image_files.hpp>

#include <fmt/core.h>
#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <cstdio>
#include <iterator>
#include <map>
#include <string_view>
#include <system_error>
#include <utility>

#include <refine/core/config.hpp>
#include <refine/core/file.hpp>
#include <refine/core/text.hpp>
#include <refine/data/decode.hpp>
#include <refine/data/detail/decoders.hpp>
#include <refine/data/image_store.hpp>

namespace refine::data::detail {

REFINE_INLINE std::vector<std::filesystem::directory_entry> entries(const std::filesystem::path& folder) {
  std::error_code failed;
  std::vector<std::filesystem::directory_entry> found;
  for (std::filesystem::directory_iterator at(folder, failed), end; !failed && at != end;
       at.increment(failed)) {
    if (!at->path().filename().native().starts_with('.')) found.push_back(*at);
  }
  if (failed) {
    throw Error("cannot list {}: {}; name a folder of images that may be read", folder.string(),
                failed.message());
  }
  std::ranges::sort(found, {}, [](const auto& entry) { return entry.path().native(); });
  return found;
}

REFINE_INLINE bool is_folder(const std::filesystem::directory_entry& entry) {
  std::error_code unknown;
  return entry.is_directory(unknown);
}

inline constexpr std::string_view read_extensions[] = {".png",  ".jpg", ".jpeg", ".jpe", ".jfif",
                                                       ".webp", ".tif", ".tiff", ".bmp", ".ppm",
                                                       ".pgm",  ".pbm", ".pnm"};

REFINE_INLINE bool has_image_extension(const std::filesystem::path& file) {
  std::string extension = file.extension().string();
  for (char& c : extension) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return std::ranges::find(read_extensions, extension) != std::end(read_extensions);
}

REFINE_INLINE std::string image_extensions() {
  return ".png, .jpg, .jpeg, .webp, .tiff, .bmp or .ppm";
}

REFINE_INLINE bool is_image(const std::filesystem::directory_entry& entry) {
  if (!has_image_extension(entry.path())) return false;
  std::error_code unknown;
  return entry.is_regular_file(unknown) || (entry.is_symlink(unknown) && !entry.exists(unknown));
}

REFINE_INLINE void list_images(const std::filesystem::path& folder, std::set<std::filesystem::path>& seen,
                               std::vector<std::filesystem::path>& files,
                               std::vector<std::filesystem::path>* passed_over) {
  std::error_code unknown;
  if (const auto real = std::filesystem::canonical(folder, unknown); !unknown && !seen.insert(real).second)
    return;
  for (const auto& entry : entries(folder)) {
    if (is_folder(entry)) {
      list_images(entry.path(), seen, files, passed_over);
    } else if (is_image(entry)) {
      files.push_back(entry.path());
    } else if (passed_over) {
      passed_over->push_back(entry.path());
    }
  }
}

}  // namespace refine::data::detail

namespace refine::data {

REFINE_INLINE void warn_skipped(const std::vector<std::string>& skipped) {
  constexpr std::size_t most = 20;
  for (std::size_t i = 0; i < std::min(skipped.size(), most); ++i) {
    fmt::print(stderr, "left out: {}\n", printable(skipped[i]));
  }
  if (skipped.size() > most) fmt::print(stderr, "left out: {} more\n", skipped.size() - most);
}

REFINE_INLINE void warn_ignored(const std::vector<std::filesystem::path>& files) {
  if (files.empty()) return;
  std::map<std::string, std::size_t> counts;
  for (const auto& file : files) ++counts[file.extension().string()];
  std::string kinds;
  for (const auto& [extension, count] : counts) {
    kinds += fmt::format("{}{} {}", kinds.empty() ? "" : ", ", count,
                         extension.empty() ? "without an extension" : printable(extension));
  }
  fmt::print(stderr, "passed over: {} file{} not read as an image ({}), the first {}\n", files.size(),
             files.size() == 1 ? "" : "s", kinds, printable(files.front().string()));
}

REFINE_INLINE std::vector<std::filesystem::path> image_files(
    const std::filesystem::path& file_or_folder, std::vector<std::filesystem::path>* passed_over) {
  std::error_code unknown;
  if (!file_exists(file_or_folder)) {
    throw Error("cannot read images from {}: there is no such file or folder; check the path and its rights",
                file_or_folder.string());
  }
  if (!std::filesystem::is_directory(file_or_folder, unknown)) return {file_or_folder};
  std::set<std::filesystem::path> seen;
  std::vector<std::filesystem::path> files, others;
  detail::list_images(file_or_folder, seen, files, &others);
  if (files.empty()) {
    throw Error("cannot read images from {}: it holds no {} file at any depth{}; name another folder",
                file_or_folder.string(), detail::image_extensions(),
                others.empty()
                    ? std::string()
                    : fmt::format(" ({} others, as {})", others.size(), others.front().filename().string()));
  }
  if (passed_over) passed_over->insert(passed_over->end(), others.begin(), others.end());
  return files;
}

REFINE_INLINE LoadedImages load_images(std::vector<std::filesystem::path> files,
                                       const ImageFilesOptions& options) {
  if (files.empty()) throw Error("cannot load images: no file was given; name image files");
  if (options.most < 0) {
    throw Error("cannot load {} images at most; ask for 1 or more, or 0 for all", options.most);
  }
  const auto n = static_cast<std::int64_t>(files.size());
  const std::filesystem::path folder =  // of all: a draw may happen to lie further in
      options.store.empty() ? std::filesystem::path() : detail::common_folder(files);
  std::string part;
  if (options.most > 0 && options.most < n) {
    part = fmt::format(".most{}.seed{}", options.most, options.seed);
    Random random(derived_seed(options.seed, "image files"));
    auto drawn = random_permutation(random, n);
    drawn.resize(static_cast<std::size_t>(options.most));
    std::ranges::sort(drawn);
    std::vector<std::filesystem::path> chosen;
    for (const auto i : drawn) chosen.push_back(std::move(files[static_cast<std::size_t>(i)]));
    files = std::move(chosen);
  }
  auto decoded = options.store.empty()
                     ? detail::decode_images(files, options.image, options.fit, options.on_bad,
                                             options.threads, "the image files")
                     : detail::stored_images(
                           detail::store_path(folder, options.store, part),
                           {.folder = folder, .files = files, .wanted = options.image, .fit = options.fit},
                           options.on_bad, options.threads, "the image files");
  LoadedImages loaded{.images = std::move(decoded.images)};
  for (std::size_t i = 0; i < files.size(); ++i) {
    if (decoded.bad[i].empty()) {
      loaded.files.push_back(std::move(files[i]));
    } else {
      loaded.skipped.push_back(std::move(decoded.bad[i]));
    }
  }
  return loaded;
}

REFINE_INLINE ImageShape common_shape(const std::vector<std::filesystem::path>& files, std::int64_t sample) {
  if (files.empty())
    throw Error("cannot tell the shape of images: no file was given; name PNG or JPEG files");
  ImageShape common = {3, dynamic, dynamic};
  for (std::int64_t i = 0; i < std::min(sample, static_cast<std::int64_t>(files.size())); ++i) {
    const ImageShape shape = detail::claimed_shape(files[static_cast<std::size_t>(i)]);
    if (!compatible(common, shape)) return {3, dynamic, dynamic};
    common = merged(common, shape);
  }
  return common;
}

}  // namespace refine::data
