#pragma once

// What image_files.hpp declares.

#include <refine/data/image_files.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <refine/core/compiled.hpp>
#include <refine/core/file_bytes.hpp>
#include <refine/core/random.hpp>
#include <refine/data/decode_images.hpp>
#include <refine/data/image_size.hpp>
#include <refine/data/image_store.hpp>
#include <refine/data/listing.hpp>

namespace refine::data {

REFINE_DEFINITION std::vector<std::filesystem::path> image_files(
    const std::filesystem::path& file_or_folder, std::vector<std::filesystem::path>* passed_over) {
  std::error_code unknown;
  if (!is_there(file_or_folder)) {
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
                others.empty() ? std::string()
                               : fmt::format(" ({} others, as {})", others.size(),
                                             others.front().filename().string()));
  }
  if (passed_over) passed_over->insert(passed_over->end(), others.begin(), others.end());
  return files;
}

REFINE_DEFINITION LoadedImages load_images(std::vector<std::filesystem::path> files,
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

REFINE_DEFINITION ImageShape common_shape(const std::vector<std::filesystem::path>& files,
                                          std::int64_t sample) {
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
