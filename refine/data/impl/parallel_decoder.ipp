#pragma once

#include <refine/data/detail/parallel_decoder.hpp>

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstring>
#include <thread>

#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/core/file.hpp>
#include <refine/data/detail/decoders.hpp>
#include <refine/data/detail/for_each_index.hpp>
#include <refine/data/detail/write_pixels.hpp>

namespace refine::data::detail {

REFINE_INLINE ImageShape resolve_shape(const std::vector<std::filesystem::path>& files,
                                       const ImageShape& wanted, ResizeMode resize_mode,
                                       OnDecodeError on_error, const std::string& what) {
  ImageShape shape = merged(wanted, {3, dynamic, dynamic});
  if (shape.channels != 1 && shape.channels != 3) {
    throw Error("{}: the image shape must have 1 or 3 channels, got {}", what, shape.channels);
  }
  if (resize_mode != ResizeMode::exact && !shape.is_static()) {
    throw Error("{}: resizing requires a height and a width; set .image = ImageShape{{3, 32, 32}}", what);
  }
  for (std::size_t i = 0; !shape.is_static(); ++i) {
    try {
      RgbImage first;
      decode(files::read(files[i], max_image_file_bytes), files[i].string(), first);
      shape = merged(shape, {3, first.height, first.width});
    } catch (const Error&) {
      if (on_error == OnDecodeError::fail || i + 1 == files.size()) throw;
    }
  }
  return shape;
}

REFINE_INLINE ParallelDecoder::ParallelDecoder(const std::vector<std::filesystem::path>& files,
                                               const ImageShape& shape, ResizeMode resize_mode,
                                               OnDecodeError on_error, unsigned threads,
                                               const std::string& what)
    : files_(files),
      shape_(shape),
      resize_mode_(resize_mode),
      on_error_(on_error),
      threads_(threads ? threads : std::max(1u, std::thread::hardware_concurrency())),
      what_(what) {}

REFINE_INLINE std::size_t ParallelDecoder::image_bytes() const {
  return static_cast<std::size_t>(shape_.channels) * static_cast<std::size_t>(shape_.height) *
         static_cast<std::size_t>(shape_.width);
}

REFINE_INLINE std::size_t ParallelDecoder::run(std::size_t begin, std::size_t count, std::uint8_t* to,
                                               std::vector<std::string>& errors) {
  const std::size_t bytes = image_bytes();
  const auto load = [&](std::int64_t i) {
    thread_local RgbImage image;
    const std::size_t index = begin + static_cast<std::size_t>(i);
    try {
      decode(files::read(files_[index], max_image_file_bytes), files_[index].string(), image);
      write_pixels(image, files_[index], shape_, resize_mode_, to + static_cast<std::size_t>(i) * bytes);
    } catch (const Error& error) {
      if (on_error_ == OnDecodeError::fail) throw;
      errors[index] = error.what();
    }
  };
  for_each_index(static_cast<std::int64_t>(count), threads_, load,
                 [&](std::int64_t done) { show(begin + static_cast<std::size_t>(done)); });
  std::size_t decoded = 0;
  for (std::size_t i = 0; i < count;
       ++i) {  // close the gaps in place, since a second buffer may be too large
    if (!errors[begin + i].empty()) continue;
    if (decoded != i) std::memmove(to + decoded * bytes, to + i * bytes, bytes);
    ++decoded;
  }
  return decoded;
}

REFINE_INLINE void ParallelDecoder::show(std::size_t done) {
  if (!meter_ && std::chrono::steady_clock::now() < show_after_) return;
  if (!meter_) meter_.emplace("reading " + what_, static_cast<std::int64_t>(files_.size()), "images");
  meter_->update(static_cast<std::int64_t>(done));
}

REFINE_INLINE void check_any_decoded(const std::vector<std::string>& errors, std::int64_t decoded) {
  if (decoded == 0) {
    throw Error("images: none of the {} files can be used; the first: {}", errors.size(), errors.front());
  }
}

REFINE_INLINE DecodedImages decode_images(const std::vector<std::filesystem::path>& files,
                                          const ImageShape& wanted, ResizeMode resize_mode,
                                          OnDecodeError on_error, unsigned threads, const std::string& what) {
  const ImageShape shape = resolve_shape(files, wanted, resize_mode, on_error, what);
  DecodedImages decoded{
      .images = at::empty(
          {static_cast<std::int64_t>(files.size()), shape.channels, shape.height, shape.width}, at::kByte),
      .errors = std::vector<std::string>(files.size())};
  ParallelDecoder decoder(files, shape, resize_mode, on_error, threads, what);
  const auto count = static_cast<std::int64_t>(
      decoder.run(0, files.size(), decoded.images.mutable_data_ptr<std::uint8_t>(), decoded.errors));
  decoder.finish();
  check_any_decoded(decoded.errors, count);
  decoded.images = decoded.images.narrow(0, 0, count);
  return decoded;
}

}  // namespace refine::data::detail
