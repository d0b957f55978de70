#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <refine/core/image_shape.hpp>
#include <refine/core/progress_meter.hpp>
#include <refine/data/decode_image.hpp>
#include <refine/data/resize.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <exception>
#include <filesystem>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

/// What `image_folder` and `load_images` share: many files decoded in parallel into one tensor.
namespace refine::data::detail {

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

/// The rows of `image` as a view, 1×3×H×W: good as long as `image` is.
inline at::Tensor pixels_of(Rgb& image) {
  return at::from_blob(image.bytes.data(), {1, image.height, image.width, 3}, at::kByte)
      .permute({0, 3, 1, 2});
}

/// RGB to grey where it lies, all three channels alike: ITU-R 601 luma in 16-bit fixed point, to the nearest.
inline void grey(Rgb& image) {
  for (std::size_t i = 0; i + 2 < image.bytes.size(); i += 3) {
    std::uint8_t* p = &image.bytes[i];
    p[0] = p[1] = p[2] =
        static_cast<std::uint8_t>((19595u * p[0] + 38470u * p[1] + 7471u * p[2] + 0x8000u) >> 16);
  }
}

/// Writes `image` to `to`, C×H×W bytes of `shape` (1 or 3 channels). \throws Error when it does not fit
inline void place(Rgb& image, const std::filesystem::path& file, const ImageShape& shape, Fit fit,
                  std::uint8_t* to) {
  const bool fits = image.height == shape.height && image.width == shape.width;
  if (!fits && fit == Fit::exact) {
    throw Error(
        "cannot use {}: it has {} x {} pixels, wanted are {} x {}; resize or remove it, or say how to fit it "
        "(Fit::crop, Fit::stretch)",
        file.string(), image.width, image.height, shape.width, shape.height);
  }
  const std::int64_t h = image.height, w = image.width;
  if (fit == Fit::crop && std::max(shape.height * w / h, shape.width * h / w) > Rgb::largest_side) {
    throw Error("cannot crop {}: with {} x {} pixels it is too long and narrow for {} x {}; remove it",
                file.string(), w, h, shape.width, shape.height);
  }
  if (shape.channels == 1) grey(image);
  if (fits && shape.channels == 3) return image.planes_to(to);
  at::Tensor place = at::from_blob(to, {1, shape.channels, shape.height, shape.width}, at::kByte);
  place.copy_(fitted(pixels_of(image), fit, shape.height, shape.width).narrow(1, 0, shape.channels));
}

/// The files as uint8 N×C×H×W in their order, whatever the number of threads (0: as many as the machine has).
/// \param files  one at least
/// \param wanted C is 1 or 3 (open: 3); open extents are those of the first image that can be read
/// \param bad where given, takes one line for each file that cannot be had (else it is empty), whose image is
///   left undefined; where not, such a file ends it all
/// \throws Error when H or W is open though images are to be fitted or none can be read, or a file is bad
inline at::Tensor decode_images(const std::vector<std::filesystem::path>& files, const ImageShape& wanted,
                                Fit fit, unsigned threads, const std::string& what,
                                std::vector<std::string>* bad = nullptr) {
  const auto n = static_cast<std::int64_t>(files.size());
  ImageShape shape = merged(wanted, {3, dynamic, dynamic});
  if (shape.channels != 1 && shape.channels != 3) {
    throw Error(
        "cannot read {} as images of {} channels: decoded images have 3, or 1 where grey is asked for", what,
        shape.channels);
  }
  if (fit != Fit::exact && !shape.is_static()) {
    throw Error(
        "cannot fit the images of {}: the wanted height and width are open; say .image = ImageShape{{3, 32, "
        "32}}",
        what);
  }
  for (std::int64_t i = 0; !shape.is_static(); ++i) {
    try {
      Rgb first;
      decode(file_bytes(files[i]), files[i].string(), first);
      shape = merged(shape, {3, first.height, first.width});
    } catch (const Error&) {
      if (!bad || i + 1 == n) throw;
    }
  }

  at::Tensor images = at::empty({n, shape.channels, shape.height, shape.width}, at::kByte);
  auto* const pixels = images.mutable_data_ptr<std::uint8_t>();
  const std::int64_t image_bytes = std::int64_t{shape.channels} * shape.height * shape.width;
  if (bad) bad->assign(files.size(), {});
  const auto load = [&](std::int64_t i) {
    thread_local Rgb image;
    try {
      decode(file_bytes(files[i]), files[i].string(), image);
      place(image, files[i], shape, fit, pixels + i * image_bytes);
    } catch (const Error& error) {
      if (!bad) throw;
      (*bad)[static_cast<std::size_t>(i)] = error.what();
    }
  };
  std::optional<ProgressMeter> meter;  // only for a load that takes long enough to wonder
  const auto patience = std::chrono::steady_clock::now() + std::chrono::seconds(1);
  const auto show = [&](std::int64_t done) {
    if (!meter && std::chrono::steady_clock::now() < patience) return;
    if (!meter) meter.emplace("reading " + what, n, "images");
    meter->update(done);
  };
  for_each_index(n, threads ? threads : std::max(1u, std::thread::hardware_concurrency()), load, show);
  if (meter) meter->update(n), meter->finish();
  return images;
}

}  // namespace refine::data::detail
