#pragma once

// What decode_image.hpp declares.

#include <refine/data/decode_image.hpp>

#include <ATen/ops/empty.h>
#include <fmt/core.h>
#include <png.h>
#include <turbojpeg.h>

#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <refine/core/compiled.hpp>

namespace refine::data::detail {

REFINE_DEFINITION std::string Rgb::resize(std::int64_t h, std::int64_t w) {
  if (h < 1 || w < 1 || h > largest_side || w > largest_side) {
    return fmt::format("it claims {} x {} pixels, and sides of 1 to {} are read", w, h, largest_side);
  }
  height = static_cast<int>(h), width = static_cast<int>(w);
  bytes.resize(static_cast<std::size_t>(3 * h * w));
  return {};
}

REFINE_DEFINITION void Rgb::planes_to(std::uint8_t* to) const {
  const std::size_t plane = bytes.size() / 3;
  for (std::size_t i = 0; i < plane; ++i) {
    for (std::size_t c = 0; c < 3; ++c) to[c * plane + i] = bytes[3 * i + c];
  }
}

/// Each decoder returns why it failed, or an empty string. What libjpeg only warns of (a premature end, say,
/// which it would fill up with grey) fails too.
inline std::string decode_jpeg(std::string_view data, Rgb& image) {
  using Decoder = std::unique_ptr<void, int (*)(tjhandle)>;
  thread_local Decoder kept(nullptr, &tjDestroy);
  // One that met an error would go on in the middle of that file: it is kept only when all went well.
  Decoder decoder = kept ? std::move(kept) : Decoder(tjInitDecompress(), &tjDestroy);
  if (!decoder) return "the JPEG decoder does not start";
  const auto* bytes = reinterpret_cast<const unsigned char*>(data.data());
  int width = 0, height = 0, subsampling = 0, colours = 0;
  if (tjDecompressHeader3(decoder.get(), bytes, data.size(), &width, &height, &subsampling, &colours) != 0) {
    return tjGetErrorStr2(decoder.get());
  }
  if (auto why = image.resize(height, width); !why.empty()) return why;
  if (tjDecompress2(decoder.get(), bytes, data.size(), image.bytes.data(), width, 0, height, TJPF_RGB,
                    TJFLAG_STOPONWARNING) != 0) {
    return tjGetErrorStr2(decoder.get());
  }
  kept = std::move(decoder);
  return {};
}

struct PngSource {
  std::string_view rest;
  char error[128] = {};

  static void fail(png_structp png, png_const_charp why);

  static void read(png_structp png, png_bytep to, std::size_t n);
};

REFINE_DEFINITION void PngSource::fail(png_structp png, png_const_charp why) {
  auto* source = static_cast<PngSource*>(png_get_error_ptr(png));
  std::strncpy(source->error, why, sizeof source->error - 1);
  png_longjmp(png, 1);
}

REFINE_DEFINITION void PngSource::read(png_structp png, png_bytep to, std::size_t n) {
  auto* source = static_cast<PngSource*>(png_get_io_ptr(png));
  if (n > source->rest.size()) png_error(png, "the file ends too early");
  std::memcpy(to, source->rest.data(), n);
  source->rest.remove_prefix(n);
}

/// False where libpng jumped out; `source` says why. Nothing in this frame has a destructor to be jumped
/// over, and all that changes belongs to the caller.
inline bool read_png(png_structp png, png_infop info, PngSource& source, Rgb& image,
                     std::vector<png_bytep>& rows, std::string& why) {
  if (setjmp(png_jmpbuf(png))) return false;
  png_set_read_fn(png, &source, &PngSource::read);
  png_read_info(png, info);
  png_set_palette_to_rgb(png);
  png_set_expand_gray_1_2_4_to_8(png);
  png_set_strip_16(png);
  png_set_strip_alpha(png);
  png_set_gray_to_rgb(png);
  png_set_interlace_handling(png);
  png_read_update_info(png, info);
  why = image.resize(png_get_image_height(png, info), png_get_image_width(png, info));
  if (!why.empty()) return true;
  rows.resize(static_cast<std::size_t>(image.height));
  for (std::size_t y = 0; y < rows.size(); ++y) rows[y] = image.bytes.data() + 3 * y * image.width;
  png_read_image(png, rows.data());
  png_read_end(png, nullptr);
  return true;
}

inline std::string decode_png(std::string_view data, Rgb& image) {
  PngSource source{.rest = data};
  struct Reader {
    png_structp png = nullptr;
    png_infop info = nullptr;
    ~Reader() { png_destroy_read_struct(&png, &info, nullptr); }
  } reader;
  reader.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &source, &PngSource::fail,
                                      [](png_structp, png_const_charp) {});
  if (reader.png) reader.info = png_create_info_struct(reader.png);
  if (!reader.info) return "the PNG decoder does not start";
  std::vector<png_bytep> rows;
  std::string why;
  if (!read_png(reader.png, reader.info, source, image, rows, why)) return source.error;
  return why;
}

REFINE_DEFINITION void decode(std::string_view data, std::string_view name, Rgb& image) {
  std::string why = "it is neither a JPEG nor a PNG image";
  if (data.starts_with("\xff\xd8")) {
    why = decode_jpeg(data, image);
  } else if (data.starts_with("\x89PNG\r\n\x1a\n")) {
    why = decode_png(data, image);
  } else if (data.empty()) {
    why = "it is empty";
  }
  if (!why.empty()) throw Error("cannot decode {}: {}; replace or remove this image", name, why);
}

}  // namespace refine::data::detail

namespace refine::data {

REFINE_DEFINITION at::Tensor decode_image(std::string_view bytes, std::string_view name) {
  detail::Rgb image;
  detail::decode(bytes, name, image);
  auto planes = at::empty({3, image.height, image.width}, at::kByte);
  image.planes_to(planes.mutable_data_ptr<std::uint8_t>());
  return planes;
}

}  // namespace refine::data
