#pragma once

#include <png.h>
#include <turbojpeg.h>

#include <array>
#include <cstdint>
#include <refine/core/random.hpp>
#include <string>
#include <vector>

/// Image files made on the spot.
namespace refine::testing {

using Bytes = std::vector<std::uint8_t>;

/// A PNG of these samples. `palette`: RGB triples.
inline std::string png(int width, int height, int depth, int colour_type, Bytes rows,
                       const Bytes& palette = {}, int interlace = PNG_INTERLACE_NONE) {
  std::string out;
  png_structp writer = png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, nullptr, nullptr);
  png_infop info = png_create_info_struct(writer);
  png_set_write_fn(
      writer, &out,
      [](png_structp p, png_bytep data, std::size_t n) {
        static_cast<std::string*>(png_get_io_ptr(p))->append(reinterpret_cast<char*>(data), n);
      },
      [](png_structp) {});
  png_set_IHDR(writer, info, static_cast<unsigned>(width), static_cast<unsigned>(height), depth, colour_type,
               interlace, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  std::vector<png_color> colours;
  for (std::size_t i = 0; i + 2 < palette.size(); i += 3)
    colours.push_back({palette[i], palette[i + 1], palette[i + 2]});
  if (!colours.empty()) png_set_PLTE(writer, info, colours.data(), static_cast<int>(colours.size()));
  png_write_info(writer, info);
  std::vector<png_bytep> starts;
  for (int y = 0; y < height; ++y) starts.push_back(rows.data() + rows.size() / height * y);
  png_write_image(writer, starts.data());
  png_write_end(writer, nullptr);
  png_destroy_write_struct(&writer, &info);
  return out;
}

inline std::string grey_png(int width, int height, std::uint8_t value) {
  return png(width, height, 8, PNG_COLOR_TYPE_GRAY, Bytes(static_cast<std::size_t>(width * height), value));
}

/// A JPEG in one colour, but for noise where asked for (which makes it long enough to be cut).
inline std::string jpeg(int width, int height, std::array<std::uint8_t, 3> rgb, bool noise = false,
                        bool grey = false) {
  Bytes pixels;
  Random random(1);
  for (int i = 0; i < width * height; ++i) {
    for (const auto v : rgb) pixels.push_back(static_cast<std::uint8_t>(noise ? random() : v));
  }
  tjhandle encoder = tjInitCompress();
  unsigned char* data = nullptr;
  unsigned long size = 0;
  tjCompress2(encoder, pixels.data(), width, 0, height, TJPF_RGB, &data, &size,
              grey ? TJSAMP_GRAY : TJSAMP_444, 95, 0);
  std::string out(reinterpret_cast<char*>(data), size);
  tjFree(data);
  tjDestroy(encoder);
  return out;
}

}  // namespace refine::testing
