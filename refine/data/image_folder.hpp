#pragma once

#include <ATen/ops/empty.h>
#include <refine/core/progress_meter.hpp>
#include <refine/data/decode_image.hpp>
#include <refine/data/split.hpp>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <chrono>
#include <exception>
#include <filesystem>
#include <mutex>
#include <optional>
#include <range/v3/action/sort.hpp>
#include <range/v3/algorithm/find.hpp>
#include <string>
#include <thread>
#include <vector>

namespace refine::data {

struct ImageFolderOptions {
  ImageShape image = {};  ///< what every image must be; open extents are those of the first image
  std::vector<std::string> classes =
      {};                ///< the classes in label order; empty: the sub-folders, sorted by name
  unsigned threads = 0;  ///< that decode; 0: as many as the machine has
};

namespace detail {

inline std::vector<std::filesystem::path> entries(const std::filesystem::path& folder, auto&& wanted) {
  std::error_code failed;
  std::vector<std::filesystem::path> found;
  for (std::filesystem::directory_iterator at(folder, failed), end; !failed && at != end;
       at.increment(failed)) {
    if (!at->path().filename().native().starts_with('.') && wanted(*at)) found.push_back(at->path());
  }
  if (failed) {
    throw Error("cannot list {}: {}; name a folder with one sub-folder a class", folder.string(),
                failed.message());
  }
  return std::move(found) | ranges::actions::sort;
}

inline std::vector<std::filesystem::path> folders_in(const std::filesystem::path& folder) {
  return entries(folder, [](const auto& entry) { return entry.is_directory(); });
}

inline std::vector<std::filesystem::path> images_in(const std::filesystem::path& folder) {
  return entries(folder, [](const auto& entry) {
    auto extension = entry.path().extension().string();
    for (char& c : extension) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    return (extension == ".png" || extension == ".jpg" || extension == ".jpeg") && !entry.is_directory();
  });
}

/// Calls `work(i)` for each i below n, on several threads; `idle(done)` now and then on this one. Where calls
/// throw, the exception of the lowest i comes out: with one thread or many, the user reads the same line.
inline void for_each_index(std::int64_t n, unsigned threads, auto&& work, auto&& idle) {
  constexpr std::int64_t chunk = 64;
  std::atomic<std::int64_t> next = 0, done = 0, failed_at = n;
  std::exception_ptr failure;
  std::mutex guard;
  const auto run = [&](bool reports) {
    for (std::int64_t begin; (begin = next.fetch_add(chunk)) < failed_at;) {
      for (std::int64_t i = begin; i < std::min(begin + chunk, n) && i < failed_at; ++i) {
        try {
          work(i);
        } catch (...) {
          const std::scoped_lock lock(guard);
          if (i < failed_at) failed_at = i, failure = std::current_exception();
        }
      }
      done += std::min(chunk, n - begin);
      if (reports) idle(done.load());
    }
  };
  {
    std::vector<std::jthread> helpers;
    for (unsigned t = 1; t < threads; ++t) helpers.emplace_back(run, false);
    run(true);
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace detail

/// The images `<dir>/<class>/*.{png,jpg,jpeg}`, classes and files sorted by name, decoded in parallel;
/// whatever the number of threads, the result is the same. Hidden entries and loose files are passed over.
/// \throws Error when a class folder is unknown or empty, a file is damaged, or one has another size.
inline Dataset image_folder(const std::filesystem::path& dir, const ImageFolderOptions& options = {}) {
  const auto folders = detail::folders_in(dir);
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
    const auto images = detail::images_in(folder);
    if (images.empty()) {
      throw Error("cannot read images from {}: it has no .png, .jpg or .jpeg file; fill or remove it",
                  folder.string());
    }
    files.insert(files.end(), images.begin(), images.end());
    labels.insert(labels.end(), images.size(), known - classes.begin());
  }

  const auto n = static_cast<std::int64_t>(files.size());
  detail::Rgb first;
  detail::decode(file_bytes(files[0]), files[0].string(), first);
  const ImageShape shape = merged(options.image, {3, first.height, first.width});
  if (shape.channels != 3) {
    throw Error("cannot read {} as images of {} channels: decoded images have 3; ask for 3", dir.string(),
                shape.channels);
  }
  Dataset set{.images = at::empty({n, 3, shape.height, shape.width}, at::kByte),
              .labels = at::tensor(labels),
              .classes = std::move(classes)};

  auto* const pixels = set.images.mutable_data_ptr<std::uint8_t>();
  const std::int64_t image_bytes = std::int64_t{3} * shape.height * shape.width;
  const auto load = [&](std::int64_t i) {
    thread_local detail::Rgb image;
    detail::decode(file_bytes(files[i]), files[i].string(), image);
    if (image.height != shape.height || image.width != shape.width) {
      throw Error("cannot use {}: it has {} x {} pixels, the others {} x {}; resize or remove it",
                  files[i].string(), image.width, image.height, shape.width, shape.height);
    }
    image.planes_to(pixels + i * image_bytes);
  };

  std::optional<ProgressMeter> meter;  // only for a load that takes long enough to wonder
  const auto patience = std::chrono::steady_clock::now() + std::chrono::seconds(1);
  const auto show = [&](std::int64_t done) {
    if (!meter && std::chrono::steady_clock::now() < patience) return;
    if (!meter) meter.emplace("reading " + dir.string(), n, "images");
    meter->update(done);
  };
  const unsigned threads =
      options.threads ? options.threads : std::max(1u, std::thread::hardware_concurrency());
  detail::for_each_index(n, threads, load, show);
  if (meter) meter->update(n), meter->finish();
  return set;
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
