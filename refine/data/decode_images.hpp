#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <refine/core/error.hpp>
#include <refine/core/file_bytes.hpp>
#include <refine/core/image_shape.hpp>
#include <refine/core/progress_meter.hpp>
#include <refine/data/decode_image.hpp>
#include <refine/data/for_each_index.hpp>
#include <refine/data/left_out.hpp>
#include <refine/data/place_image.hpp>
#include <refine/data/resize.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <optional>
#include <string>
#include <thread>
#include <vector>

/// What `image_folder` and `load_images` share: many files decoded in parallel.
namespace refine::data::detail {

/// What images become: `wanted`, its open extents those of the first file that can be read.
/// \param files  one at least
/// \param what   for messages
/// \throws Error when C is neither 1 nor 3, H or W is open though images are to be fitted, or no size can be
///   told; and when the first file is bad and bad files are not to be skipped
inline ImageShape decoded_shape(const std::vector<std::filesystem::path>& files, const ImageShape& wanted,
                                Fit fit, OnBad on_bad, const std::string& what) {
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
  for (std::size_t i = 0; !shape.is_static(); ++i) {
    try {
      Rgb first;
      decode(file_bytes(files[i]), files[i].string(), first);
      shape = merged(shape, {3, first.height, first.width});
    } catch (const Error&) {
      if (on_bad == OnBad::fail || i + 1 == files.size()) throw;
    }
  }
  return shape;
}

/// Decodes files in parallel, the same with any number of threads, and tells how far it is where it takes
/// long enough to wonder.
class Decoding {
 public:
  /// \param threads  0: as many as the machine has
  /// \pre `shape` is static, and what is referred to outlives this
  Decoding(const std::vector<std::filesystem::path>& files, const ImageShape& shape, Fit fit, OnBad on_bad,
           unsigned threads, const std::string& what)
      : files_(files),
        shape_(shape),
        fit_(fit),
        on_bad_(on_bad),
        threads_(threads ? threads : std::max(1u, std::thread::hardware_concurrency())),
        what_(what) {}

  std::size_t image_bytes() const {
    return static_cast<std::size_t>(shape_.channels) * static_cast<std::size_t>(shape_.height) *
           static_cast<std::size_t>(shape_.width);
  }

  unsigned threads() const { return threads_; }

  /// The files [begin, begin + count), those that are good, one behind the other at `to`, which has room for
  /// all of them; how many those are. Takes up to memory for one file's content and pixels a thread.
  /// \param bad  gets a line for each file that is skipped, at its index
  /// \throws Error naming the first bad file where none may be skipped
  std::size_t run(std::size_t begin, std::size_t count, std::uint8_t* to, std::vector<std::string>& bad) {
    const std::size_t bytes = image_bytes();
    const auto load = [&](std::int64_t i) {
      thread_local Rgb image;
      const std::size_t at = begin + static_cast<std::size_t>(i);
      try {
        decode(file_bytes(files_[at]), files_[at].string(), image);
        place(image, files_[at], shape_, fit_, to + static_cast<std::size_t>(i) * bytes);
      } catch (const Error& error) {
        if (on_bad_ == OnBad::fail) throw;
        bad[at] = error.what();
      }
    };
    for_each_index(static_cast<std::int64_t>(count), threads_, load,
                   [&](std::int64_t done) { show(begin + static_cast<std::size_t>(done)); });
    std::size_t good = 0;  // those move up, in place: they may be many
    for (std::size_t i = 0; i < count; ++i) {
      if (!bad[begin + i].empty()) continue;
      if (good != i) std::memmove(to + good * bytes, to + i * bytes, bytes);
      ++good;
    }
    return good;
  }

  void finish() {
    if (meter_) show(files_.size()), meter_->finish();
  }

 private:
  void show(std::size_t done) {
    if (!meter_ && std::chrono::steady_clock::now() < patience_) return;
    if (!meter_) meter_.emplace("reading " + what_, static_cast<std::int64_t>(files_.size()), "images");
    meter_->update(static_cast<std::int64_t>(done));
  }

  const std::vector<std::filesystem::path>& files_;
  ImageShape shape_;
  Fit fit_;
  OnBad on_bad_;
  unsigned threads_;
  const std::string& what_;
  std::optional<ProgressMeter> meter_;
  std::chrono::steady_clock::time_point patience_ =
      std::chrono::steady_clock::now() + std::chrono::seconds(1);
};

/// What came of a list of files.
struct DecodedImages {
  at::Tensor images;             ///< uint8 N×C×H×W, the good ones in their order
  std::vector<std::string> bad;  ///< for each file why it was left out; empty: it is there
};

inline void require_one(const std::vector<std::string>& bad, std::int64_t good) {
  if (good == 0) throw Error("cannot use any of the {} image files; the first: {}", bad.size(), bad.front());
}

/// The files in memory, as `Decoding` has it. \throws Error as `decoded_shape` and `Decoding`, and when no
/// file is good
inline DecodedImages decode_images(const std::vector<std::filesystem::path>& files, const ImageShape& wanted,
                                   Fit fit, OnBad on_bad, unsigned threads, const std::string& what) {
  const ImageShape shape = decoded_shape(files, wanted, fit, on_bad, what);
  DecodedImages decoded{
      .images = at::empty(
          {static_cast<std::int64_t>(files.size()), shape.channels, shape.height, shape.width}, at::kByte),
      .bad = std::vector<std::string>(files.size())};
  Decoding decoding(files, shape, fit, on_bad, threads, what);
  const auto good = static_cast<std::int64_t>(
      decoding.run(0, files.size(), decoded.images.mutable_data_ptr<std::uint8_t>(), decoded.bad));
  decoding.finish();
  require_one(decoded.bad, good);
  decoded.images = decoded.images.narrow(0, 0, good);
  return decoded;
}

}  // namespace refine::data::detail
