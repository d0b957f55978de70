#pragma once

#include <ATen/core/Tensor.h>
#include <fmt/format.h>
#include <refine/core/error.hpp>
#include <refine/core/file_bytes.hpp>
#include <refine/core/image_shape.hpp>
#include <refine/core/random.hpp>
#include <refine/core/seed.hpp>
#include <refine/data/decode_images.hpp>
#include <refine/data/image_size.hpp>
#include <refine/data/image_store.hpp>
#include <refine/data/left_out.hpp>
#include <refine/data/listing.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace refine::data {

struct ImageFilesOptions {
  ImageShape image = {};       ///< what the images become; 1 channel: grey; open extents: the first image's
  Fit fit = Fit::exact;        ///< what happens to an image of another size
  OnBad on_bad = OnBad::fail;  ///< `skip`: the file is left out and gets a line in `skipped`
  /// A folder that keeps the decoded images, so that a set may be larger than memory; empty: in memory. They
  /// take N·C·H·W bytes there, and are decoded anew only when files, `image` or `fit` have changed.
  std::filesystem::path store = {};
  unsigned threads = 0;   ///< that decode; 0: as many as the machine has
  std::int64_t most = 0;  ///< read no more than so many files, drawn by `seed`; 0: all
  std::uint64_t seed = default_seed;
};

struct LoadedImages {
  at::Tensor images = {};                         ///< uint8, N×C×H×W, RGB or grey, 0–255
  std::vector<std::filesystem::path> files = {};  ///< where each image came from
  std::vector<std::string> skipped = {};          ///< why a file was left out, one line each
};

/// The images under a folder, at any depth: `*.png`, `*.jpg`, `*.jpeg` in any case, sorted by path. Hidden
/// entries are passed over; links are followed, and a folder that is reached twice is listed once. A path to
/// a file is that file alone, whatever its name. \throws Error when nothing is there, it cannot be listed, or
/// holds no image
inline std::vector<std::filesystem::path> image_files(const std::filesystem::path& file_or_folder) {
  std::error_code unknown;
  if (!is_there(file_or_folder)) {
    throw Error("cannot read images from {}: there is no such file or folder; check the path and its rights",
                file_or_folder.string());
  }
  if (!std::filesystem::is_directory(file_or_folder, unknown)) return {file_or_folder};
  std::set<std::filesystem::path> seen;
  std::vector<std::filesystem::path> files;
  detail::list_images(file_or_folder, seen, files);
  if (files.empty()) {
    throw Error(
        "cannot read images from {}: it holds no .png, .jpg or .jpeg file at any depth; name another folder",
        file_or_folder.string());
  }
  return files;
}

/// The files as one tensor, decoded in parallel, in their order; whatever the number of threads, and with a
/// store or without, the result is the same.
///
/// With `options.store`, `images` are a mapping of the file `<store>/<name>.images`, as `image_folder` has
/// it; the name is that of the innermost folder that all files lie in. Those that `most` draws have a store
/// of their own, `<name>.most<most>.seed<seed>.images`.
/// \throws Error when there is no file, none that can be used, or (`OnBad::fail`) one that cannot; when
///   images are to be fitted and `options.image` does not say the size; when the store can't be written
inline LoadedImages load_images(std::vector<std::filesystem::path> files,
                                const ImageFilesOptions& options = {}) {
  if (files.empty()) throw Error("cannot load images: no file was given; name PNG or JPEG files");
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

/// 3×H×W when those of the first `sample` files that are images all have that size, 3×?×? when they have not.
/// Reads headers and decodes nothing. \throws Error when there is no file
inline ImageShape common_shape(const std::vector<std::filesystem::path>& files, std::int64_t sample = 64) {
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
