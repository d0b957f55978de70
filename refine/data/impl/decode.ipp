#pragma once

#include <refine/data/decode.hpp>

#include <ATen/ops/empty.h>
#include <fmt/core.h>

#include <algorithm>
#include <cstring>
#include <thread>

#include <refine/core/config.hpp>
#include <refine/data/detail/decoders.hpp>
#include <refine/data/detail/for_each_index.hpp>
#include <refine/data/detail/write_pixels.hpp>

namespace refine::data::detail {

/// What a file is that is not read, as far as its first bytes tell; empty if they do not.
inline std::string_view unread_format(std::string_view data) {
  using namespace std::string_view_literals;
  const auto brand = data.size() >= 12 && data.substr(4, 4) == "ftyp" ? data.substr(8, 4) : ""sv;
  if (data.starts_with("GIF8"sv)) return "a GIF image";
  if (brand == "avif" || brand == "avis") return "an AVIF image";
  if (brand == "heic" || brand == "heix" || brand == "mif1" || brand == "msf1") return "an HEIC image";
  if (data.starts_with("\0\0\0\x0cjP  "sv) || data.starts_with("\xff\x4f\xff\x51"sv))
    return "a JPEG 2000 image";
  if (data.starts_with("\xff\x0a"sv) || data.starts_with("\0\0\0\x0cJXL "sv)) return "a JPEG XL image";
  if (data.starts_with("8BPS"sv)) return "a Photoshop file";
  const auto text = data.substr(0, 256);
  if (text.find("<html") != text.npos || text.find("<!DOCTYPE") != text.npos) return "a web page";
  if (text.find("<svg") != text.npos) return "an SVG drawing";
  return {};
}

inline std::string decode_any(std::string_view data, Rgb& image) {
  using namespace std::string_view_literals;
  const auto starts = [&](std::string_view first) { return data.starts_with(first); };
  if (data.empty()) return "it is empty";
  if (starts("\xff\xd8"sv)) return decode_jpeg(data, image);
  if (starts("\x89PNG\r\n\x1a\n"sv)) return decode_png(data, image);
  if (starts("RIFF"sv) && data.substr(0, 12).ends_with("WEBP")) return decode_webp(data, image);
  if (starts("II*\0"sv) || starts("MM\0*"sv) || starts("II+\0"sv) || starts("MM\0+"sv)) {
    return decode_tiff(data, image);
  }
  if (starts("BM"sv) && data.size() >= 26) return decode_bmp(data, image);
  if (data.size() > 2 && data[0] == 'P' && data[1] >= '1' && data[1] <= '6' &&
      " \t\n\r#"sv.find(data[2]) != data.npos) {
    return decode_pnm(data, image);
  }
  if (const auto known = unread_format(data); !known.empty()) {
    return fmt::format("it is neither a JPEG nor a PNG image, but {}, which is not read", known);
  }
  return "it is neither a JPEG nor a PNG image, nor WebP, TIFF, BMP or PNM";
}

REFINE_INLINE void decode(std::string_view data, std::string_view name, Rgb& image) {
  const std::string why = decode_any(data, image);
  if (!why.empty()) throw Error("cannot decode {}: {}; replace or remove this image", name, why);
}

}  // namespace refine::data::detail

namespace refine::data {

REFINE_INLINE at::Tensor decode_image(std::string_view bytes, std::string_view name) {
  detail::Rgb image;
  detail::decode(bytes, name, image);
  auto planes = at::empty({3, image.height, image.width}, at::kByte);
  image.planes_to(planes.mutable_data_ptr<std::uint8_t>());
  return planes;
}

}  // namespace refine::data

namespace refine::data::detail {

REFINE_INLINE ImageShape decoded_shape(const std::vector<std::filesystem::path>& files,
                                       const ImageShape& wanted, ResizeMode fit, OnDecodeError on_bad,
                                       const std::string& what) {
  ImageShape shape = merged(wanted, {3, dynamic, dynamic});
  if (shape.channels != 1 && shape.channels != 3) {
    throw Error(
        "cannot read {} as images of {} channels: decoded images have 3, or 1 where grey is asked for", what,
        shape.channels);
  }
  if (fit != ResizeMode::exact && !shape.is_static()) {
    throw Error(
        "cannot fit the images of {}: the wanted height and width are open; say .image = ImageShape{{3, 32, "
        "32}}",
        what);
  }
  for (std::size_t i = 0; !shape.is_static(); ++i) {
    try {
      Rgb first;
      decode(read_file(files[i]), files[i].string(), first);
      shape = merged(shape, {3, first.height, first.width});
    } catch (const Error&) {
      if (on_bad == OnDecodeError::fail || i + 1 == files.size()) throw;
    }
  }
  return shape;
}

REFINE_INLINE Decoding::Decoding(const std::vector<std::filesystem::path>& files, const ImageShape& shape,
                                 ResizeMode fit, OnDecodeError on_bad, unsigned threads,
                                 const std::string& what)
    : files_(files),
      shape_(shape),
      fit_(fit),
      on_bad_(on_bad),
      threads_(threads ? threads : std::max(1u, std::thread::hardware_concurrency())),
      what_(what) {}

REFINE_INLINE std::size_t Decoding::image_bytes() const {
  return static_cast<std::size_t>(shape_.channels) * static_cast<std::size_t>(shape_.height) *
         static_cast<std::size_t>(shape_.width);
}

REFINE_INLINE std::size_t Decoding::run(std::size_t begin, std::size_t count, std::uint8_t* to,
                                        std::vector<std::string>& bad) {
  const std::size_t bytes = image_bytes();
  const auto load = [&](std::int64_t i) {
    thread_local Rgb image;
    const std::size_t at = begin + static_cast<std::size_t>(i);
    try {
      decode(read_file(files_[at]), files_[at].string(), image);
      place(image, files_[at], shape_, fit_, to + static_cast<std::size_t>(i) * bytes);
    } catch (const Error& error) {
      if (on_bad_ == OnDecodeError::fail) throw;
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

REFINE_INLINE void Decoding::show(std::size_t done) {
  if (!meter_ && std::chrono::steady_clock::now() < patience_) return;
  if (!meter_) meter_.emplace("reading " + what_, static_cast<std::int64_t>(files_.size()), "images");
  meter_->update(static_cast<std::int64_t>(done));
}

REFINE_INLINE void require_one(const std::vector<std::string>& bad, std::int64_t good) {
  if (good == 0) throw Error("cannot use any of the {} image files; the first: {}", bad.size(), bad.front());
}

REFINE_INLINE DecodedImages decode_images(const std::vector<std::filesystem::path>& files,
                                          const ImageShape& wanted, ResizeMode fit, OnDecodeError on_bad,
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
