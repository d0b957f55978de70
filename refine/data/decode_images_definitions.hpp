#pragma once

// What decode_images.hpp declares.

#include <refine/data/decode_images.hpp>

#include <ATen/ops/empty.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include <refine/core/compiled.hpp>
#include <refine/core/file_bytes.hpp>
#include <refine/data/decode_image.hpp>
#include <refine/data/for_each_index.hpp>
#include <refine/data/place_image.hpp>

namespace refine::data::detail {

REFINE_DEFINITION ImageShape decoded_shape(const std::vector<std::filesystem::path>& files,
                                           const ImageShape& wanted, Fit fit, OnBad on_bad,
                                           const std::string& what) {
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

REFINE_DEFINITION Decoding::Decoding(const std::vector<std::filesystem::path>& files, const ImageShape& shape,
                                     Fit fit, OnBad on_bad, unsigned threads, const std::string& what)
    : files_(files),
      shape_(shape),
      fit_(fit),
      on_bad_(on_bad),
      threads_(threads ? threads : std::max(1u, std::thread::hardware_concurrency())),
      what_(what) {}

REFINE_DEFINITION std::size_t Decoding::image_bytes() const {
  return static_cast<std::size_t>(shape_.channels) * static_cast<std::size_t>(shape_.height) *
         static_cast<std::size_t>(shape_.width);
}

REFINE_DEFINITION std::size_t Decoding::run(std::size_t begin, std::size_t count, std::uint8_t* to,
                                            std::vector<std::string>& bad) {
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

REFINE_DEFINITION void Decoding::show(std::size_t done) {
  if (!meter_ && std::chrono::steady_clock::now() < patience_) return;
  if (!meter_) meter_.emplace("reading " + what_, static_cast<std::int64_t>(files_.size()), "images");
  meter_->update(static_cast<std::int64_t>(done));
}

REFINE_DEFINITION void require_one(const std::vector<std::string>& bad, std::int64_t good) {
  if (good == 0) throw Error("cannot use any of the {} image files; the first: {}", bad.size(), bad.front());
}

REFINE_DEFINITION DecodedImages decode_images(const std::vector<std::filesystem::path>& files,
                                              const ImageShape& wanted, Fit fit, OnBad on_bad,
                                              unsigned threads, const std::string& what) {
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
