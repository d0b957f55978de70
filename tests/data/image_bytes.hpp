#pragma once

#include <png.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <refine/core/random.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include <jpeglib.h>  // after <cstdio>, since it uses FILE without including it

// Image files that tests make.
namespace refine::testing {

using Bytes = std::vector<std::uint8_t>;

/// Encodes samples as a PNG. \param palette RGB triples
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

/// Encodes a PNG of one grey.
inline std::string grey_png(int width, int height, std::uint8_t value) {
  return png(width, height, 8, PNG_COLOR_TYPE_GRAY, Bytes(static_cast<std::size_t>(width * height), value));
}

/// Encodes samples of 1, 3 or 4 channels as a JPEG. \param marker content of an APP1 marker; empty:
/// none
inline std::string jpeg_of(int width, int height, const Bytes& pixels, int channels,
                           const std::string& marker = {}) {
  jpeg_compress_struct jpeg;
  jpeg_error_mgr errors;
  jpeg.err = jpeg_std_error(&errors);
  jpeg_create_compress(&jpeg);
  unsigned char* data = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&jpeg, &data, &size);
  jpeg.image_width = static_cast<unsigned>(width), jpeg.image_height = static_cast<unsigned>(height);
  jpeg.input_components = channels;
  jpeg.in_color_space = channels == 1 ? JCS_GRAYSCALE : channels == 3 ? JCS_RGB : JCS_CMYK;
  jpeg_set_defaults(&jpeg);
  jpeg_set_quality(&jpeg, 95, TRUE);
  for (int c = 0; c < jpeg.num_components; ++c) {  // no subsampling
    jpeg.comp_info[c].h_samp_factor = jpeg.comp_info[c].v_samp_factor = 1;
  }
  jpeg_start_compress(&jpeg, TRUE);
  if (!marker.empty()) {
    jpeg_write_marker(&jpeg, JPEG_APP0 + 1, reinterpret_cast<const JOCTET*>(marker.data()),
                      static_cast<unsigned>(marker.size()));
  }
  for (int y = 0; y < height; ++y) {
    auto* row = const_cast<JSAMPROW>(&pixels[static_cast<std::size_t>(y * width * channels)]);
    jpeg_write_scanlines(&jpeg, &row, 1);
  }
  jpeg_finish_compress(&jpeg);
  jpeg_destroy_compress(&jpeg);
  std::string out(reinterpret_cast<char*>(data), size);
  std::free(data);
  return out;
}

/// A progressive JPEG of one colour: its decoder keeps the coefficients of the whole image.
/// \param is_gray with one channel and two scans, which can be repeated
/// \param is_sequential with a scan for each channel instead
/// \param is_cmyk with four channels
/// \param height 0: the side
inline std::string progressive_jpeg(int side, bool is_gray = false, bool is_sequential = false,
                                    bool is_cmyk = false, int height = 0) {
  jpeg_compress_struct jpeg = {};
  jpeg_error_mgr errors = {};
  jpeg.err = jpeg_std_error(&errors);
  jpeg_create_compress(&jpeg);
  unsigned char* data = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&jpeg, &data, &size);
  jpeg.image_width = static_cast<JDIMENSION>(side);
  jpeg.image_height = static_cast<JDIMENSION>(height > 0 ? height : side);
  jpeg.input_components = is_gray ? 1 : is_cmyk ? 4 : 3;
  jpeg.in_color_space = is_gray ? JCS_GRAYSCALE : is_cmyk ? JCS_CMYK : JCS_RGB;
  jpeg_set_defaults(&jpeg);
  jpeg_set_quality(&jpeg, 50, TRUE);
  for (int i = 0; i < jpeg.num_components; ++i)
    jpeg.comp_info[i].h_samp_factor = jpeg.comp_info[i].v_samp_factor = 1;
  jpeg_simple_progression(&jpeg);
  const jpeg_scan_info two[] = {
      {.comps_in_scan = 1, .component_index = {0}, .Ss = 0, .Se = 0, .Ah = 0, .Al = 0},
      {.comps_in_scan = 1, .component_index = {0}, .Ss = 1, .Se = 63, .Ah = 0, .Al = 0}};
  const jpeg_scan_info channels[] = {
      {.comps_in_scan = 1, .component_index = {0}, .Ss = 0, .Se = 63, .Ah = 0, .Al = 0},
      {.comps_in_scan = 1, .component_index = {1}, .Ss = 0, .Se = 63, .Ah = 0, .Al = 0},
      {.comps_in_scan = 1, .component_index = {2}, .Ss = 0, .Se = 63, .Ah = 0, .Al = 0},
      {.comps_in_scan = 1, .component_index = {3}, .Ss = 0, .Se = 63, .Ah = 0, .Al = 0}};
  if (is_gray) {
    jpeg.scan_info = two;
    jpeg.num_scans = 2;
  } else if (is_sequential) {
    jpeg.scan_info = channels;
    jpeg.num_scans = is_cmyk ? 4 : 3;
  }
  jpeg_start_compress(&jpeg, TRUE);
  std::vector<JSAMPLE> row(static_cast<std::size_t>(4 * side), 100);
  JSAMPROW rows = row.data();
  while (jpeg.next_scanline < jpeg.image_height) jpeg_write_scanlines(&jpeg, &rows, 1);
  jpeg_finish_compress(&jpeg);
  jpeg_destroy_compress(&jpeg);
  std::string bytes(reinterpret_cast<char*>(data), size);
  std::free(data);
  return bytes;
}

/// A JPEG whose last scan is repeated. \param scans of all, at least 3
inline std::string jpeg_of_scans(int side, std::size_t scans, bool is_sequential = false) {
  std::string all = progressive_jpeg(side, /*is_gray=*/!is_sequential, is_sequential);
  const std::size_t end = all.size() - 2, last = all.rfind("\xff\xda");
  if (last == std::string::npos) throw std::runtime_error("no scan");
  const std::string scan = all.substr(last, end - last);
  std::string repeated_scans;
  for (std::size_t i = is_sequential ? 3 : 2; i < scans; ++i) repeated_scans += scan;
  return all.insert(end, repeated_scans);
}

/// Encodes a JPEG of one colour, or of noise, which makes it long enough to be truncated.
inline std::string jpeg(int width, int height, std::array<std::uint8_t, 3> rgb, bool noise = false,
                        bool grey = false) {
  Bytes pixels;
  Random random(1);
  for (int i = 0; i < width * height; ++i) {
    if (grey) {
      pixels.push_back(noise ? static_cast<std::uint8_t>(random()) : rgb[0]);
      continue;
    }
    for (const auto v : rgb) pixels.push_back(static_cast<std::uint8_t>(noise ? random() : v));
  }
  return jpeg_of(width, height, pixels, grey ? 1 : 3);
}

/// Returns an EXIF block with an orientation. \param big_endian the most significant byte comes
/// first
inline std::string exif(int orientation, bool big_endian = false) {
  using namespace std::string_literals;
  const char value = static_cast<char>(orientation);
  return big_endian ? "Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0"s + value + "\0\0\0\0\0\0"s
                    : "Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0"s + value + "\0\0\0\0\0\0\0"s;
}

}  // namespace refine::testing
