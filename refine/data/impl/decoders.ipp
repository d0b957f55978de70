#pragma once

#include <refine/data/detail/decoders.hpp>

#include <fmt/core.h>
#include <jerror.h>
#include <jpeglib.h>
#include <png.h>
#include <tiffio.h>
#include <webp/decode.h>

#include <algorithm>
#include <csetjmp>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/core/file.hpp>
#include <refine/data/detail/bytes.hpp>

namespace refine::data::detail {

/// Error handling for libjpeg: jumps out at an error, and at a warning that is treated as one.
struct JpegErrors {
  jpeg_error_mgr errors = {};
  std::jmp_buf jump = {};
  char reason[JMSG_LENGTH_MAX] = {};

  jpeg_progress_mgr progress = {};

  static JpegErrors& of(j_common_ptr jpeg) { return *static_cast<JpegErrors*>(jpeg->client_data); }

  [[noreturn]] static void fail(j_common_ptr jpeg) {
    jpeg->err->format_message(jpeg, of(jpeg).reason);
    std::longjmp(of(jpeg).jump, 1);
  }

  /// Stops after more scans than any encoder writes: each costs time for the whole image.
  static void limit_scans(j_common_ptr jpeg) {
    constexpr int max_scans = 50;
    if (!jpeg->is_decompressor) return;
    const int scan = reinterpret_cast<j_decompress_ptr>(jpeg)->input_scan_number;
    if (scan <= max_scans) return;
    std::snprintf(of(jpeg).reason, sizeof of(jpeg).reason, "it has more than %d scans", max_scans);
    std::longjmp(of(jpeg).jump, 1);
  }

  static void warn(j_common_ptr jpeg, int level) {
    if (level >= 0) return;  // a trace
    switch (jpeg->err->msg_code) {
      case JWRN_EXTRANEOUS_DATA:
      case JWRN_JFIF_MAJOR:
      case JWRN_ADOBE_XFORM:
      case JWRN_NOT_SEQUENTIAL:
        return;
      default:
        fail(jpeg);
    }
  }
};

struct JpegReader {
  JpegErrors errors;
  jpeg_decompress_struct jpeg = {};

  JpegReader() {
    jpeg.err = jpeg_std_error(&errors.errors);
    errors.errors.error_exit = &JpegErrors::fail;
    errors.errors.emit_message = &JpegErrors::warn;
    jpeg.client_data = &errors;
  }
  JpegReader(const JpegReader&) = delete;
  JpegReader& operator=(const JpegReader&) = delete;
  ~JpegReader() { jpeg_destroy_decompress(&jpeg); }
};

/// Returns an empty string, or the reason if the coefficients of a JPEG of several scans, which libjpeg keeps until the
/// last one, take too much memory: more than those of an RGB image of the largest size.
inline std::string refuse_coefficients(jpeg_decompress_struct& jpeg) {
  constexpr std::uint64_t max_bytes = 640'000'000;
  if (!jpeg_has_multiple_scans(&jpeg)) return {};
  std::uint64_t bytes = 0;
  for (int c = 0; c < jpeg.num_components; ++c) {
    const jpeg_component_info& component = jpeg.comp_info[c];
    bytes += std::uint64_t{component.width_in_blocks} * component.height_in_blocks * sizeof(JBLOCK);
  }
  if (bytes <= max_bytes) return {};
  return fmt::format(
      "its coefficients take {} bytes, more than the {} allowed (save it as a baseline JPEG, or with fewer pixels)",
      bytes, max_bytes);
}

/// Reads a JPEG. Nothing in this frame has a destructor that a jump would skip, and everything that
/// changes belongs to the caller.
/// \param reader receives libjpeg's message
/// \param data the file's content
/// \param image receives the pixels; null: only the header is read
/// \param row buffer for a row of 4 components
/// \param reason receives the reason if the size is not allowed
/// \param orientation receives the EXIF orientation
/// \return false if libjpeg jumped out
inline bool read_jpeg(JpegReader& reader, std::string_view data, RgbImage* image,
                      std::vector<std::uint8_t>& row, std::string& reason, int& orientation) {
  if (setjmp(reader.errors.jump)) return false;
  jpeg_decompress_struct& jpeg = reader.jpeg;
  jpeg_create_decompress(&jpeg);
  jpeg.client_data = &reader.errors;  // jpeg_create_decompress clears it
  reader.errors.progress.progress_monitor = &JpegErrors::limit_scans;
  jpeg.progress = &reader.errors.progress;
  jpeg_mem_src(&jpeg, reinterpret_cast<const unsigned char*>(data.data()), data.size());
  jpeg_save_markers(&jpeg, JPEG_APP0 + 1, 0xffff);
  jpeg_read_header(&jpeg, TRUE);
  for (auto marker = jpeg.marker_list; marker; marker = marker->next) {
    const std::string_view bytes(reinterpret_cast<const char*>(marker->data), marker->data_length);
    if (bytes.substr(0, 5) != std::string_view("Exif\0", 5)) continue;
    orientation = exif_orientation(bytes);
    break;  // a second block continues the first, as in Pillow
  }
  if (!image) return true;
  const bool is_cmyk = jpeg.jpeg_color_space == JCS_CMYK || jpeg.jpeg_color_space == JCS_YCCK;
  jpeg.out_color_space = is_cmyk ? JCS_CMYK : JCS_RGB;
  if (reason = refuse_coefficients(jpeg); !reason.empty()) return true;
  reason = image->resize(jpeg.image_height, jpeg.image_width);
  if (!reason.empty()) return true;
  row.resize(4 * std::size_t{jpeg.image_width});
  jpeg_start_decompress(&jpeg);
  while (jpeg.output_scanline < jpeg.output_height) {
    std::uint8_t* to = image->bytes.data() + 3 * std::size_t{jpeg.output_scanline} * jpeg.output_width;
    JSAMPROW rows[] = {is_cmyk ? row.data() : to};
    jpeg_read_scanlines(&jpeg, rows, 1);
    for (std::size_t x = 0; is_cmyk && x < jpeg.output_width; ++x) {
      const unsigned key = row[4 * x + 3];
      for (std::size_t c = 0; c < 3; ++c) {  // inverted: 255 means without ink; rounded as in Pillow
        const unsigned product = (255u - row[4 * x + c]) * key + 128;
        const unsigned ink = (product + (product >> 8)) >> 8;
        to[3 * x + c] = static_cast<std::uint8_t>(key > ink ? key - ink : 0);
      }
    }
  }
  jpeg_finish_decompress(&jpeg);
  return true;
}

REFINE_INLINE std::string decode_jpeg(std::string_view data, RgbImage& image) {
  JpegReader reader;
  std::vector<std::uint8_t> row;
  std::string reason;
  int orientation = 1;
  if (!read_jpeg(reader, data, &image, row, reason, orientation)) return reader.errors.reason;
  if (reason.empty()) make_upright(image, orientation);
  return reason;
}

REFINE_INLINE void jpeg_size(std::string_view data, int& height, int& width) {
  JpegReader reader;
  std::vector<std::uint8_t> row;
  std::string reason;
  int orientation = 1;
  height = width = 0;
  if (!read_jpeg(reader, data, nullptr, row, reason, orientation)) return;
  height = static_cast<int>(reader.jpeg.image_height), width = static_cast<int>(reader.jpeg.image_width);
  if (orientation >= 5) std::swap(height, width);
}

/// The bytes of a PNG and libpng's message.
struct PngSource {
  std::string_view rest;
  char error[128] = {};

  static void fail(png_structp png, png_const_charp reason) {
    auto* source = static_cast<PngSource*>(png_get_error_ptr(png));
    std::strncpy(source->error, reason, sizeof source->error - 1);
    png_longjmp(png, 1);
  }

  static void read(png_structp png, png_bytep to, std::size_t n) {
    auto* source = static_cast<PngSource*>(png_get_io_ptr(png));
    if (n > source->rest.size()) png_error(png, "the file ends too early");
    std::memcpy(to, source->rest.data(), n);
    source->rest.remove_prefix(n);
  }
};

/// Reads a PNG, with the same care for destructors as `read_jpeg`. Returns false if libpng jumped
/// out.
inline bool read_png(png_structp png, png_infop info, PngSource& source, RgbImage& image,
                     std::vector<png_bytep>& rows, std::string& reason) {
  if (setjmp(png_jmpbuf(png))) return false;
  png_set_read_fn(png, &source, &PngSource::read);
  // Of the optional chunks, only tRNS is read: texts and profiles are compressed, and no chunk changes the pixels.
  png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, nullptr, -1);
  png_read_info(png, info);
  png_set_palette_to_rgb(png);
  png_set_expand_gray_1_2_4_to_8(png);
  png_set_strip_16(png);
  png_set_strip_alpha(png);
  png_set_gray_to_rgb(png);
  png_set_interlace_handling(png);
  png_read_update_info(png, info);
  reason = image.resize(png_get_image_height(png, info), png_get_image_width(png, info));
  if (!reason.empty()) return true;
  rows.resize(static_cast<std::size_t>(image.height));
  for (std::size_t y = 0; y < rows.size(); ++y) {
    rows[y] = image.bytes.data() + 3 * y * static_cast<std::size_t>(image.width);
  }
  png_read_image(png, rows.data());
  png_read_end(png, nullptr);
  return true;
}

REFINE_INLINE std::string decode_png(std::string_view data, RgbImage& image) {
  PngSource source{.rest = data};
  struct Reader {
    png_structp png = nullptr;
    png_infop info = nullptr;
    ~Reader() { png_destroy_read_struct(&png, &info, nullptr); }
  } reader;
  reader.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &source, &PngSource::fail,
                                      [](png_structp, png_const_charp) {});
  if (reader.png) reader.info = png_create_info_struct(reader.png);
  if (!reader.info) return "the PNG decoder cannot be initialised";
  std::vector<png_bytep> rows;
  std::string reason;
  if (!read_png(reader.png, reader.info, source, image, rows, reason)) return source.error;
  if (reason.empty()) make_upright(image, png_orientation(data));
  return reason;
}

REFINE_INLINE std::string decode_webp(std::string_view data, RgbImage& image) {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(data.data());
  WebPBitstreamFeatures features;
  if (WebPGetFeatures(bytes, data.size(), &features) != VP8_STATUS_OK) return "the WebP header is damaged";
  if (features.has_animation) return "an animation is not supported (save one of its frames)";
  if (auto reason = image.resize(features.height, features.width); !reason.empty()) return reason;
  if (!WebPDecodeRGBInto(bytes, data.size(), image.bytes.data(), image.bytes.size(), 3 * image.width)) {
    return "the WebP data is damaged or ends too early";
  }
  make_upright(image, webp_orientation(data));
  return {};
}

/// A TIFF file in memory, with the callbacks that libtiff requires.
struct TiffSource {
  std::string_view data;
  std::size_t position = 0;

  static TiffSource& of(thandle_t handle) { return *static_cast<TiffSource*>(handle); }

  static tmsize_t read(thandle_t handle, void* to, tmsize_t n) {
    TiffSource& source = of(handle);
    const std::string_view rest = source.data.substr(std::min(source.position, source.data.size()));
    const std::size_t count = std::min(static_cast<std::size_t>(n), rest.size());
    std::memcpy(to, rest.data(), count);
    source.position += count;
    return static_cast<tmsize_t>(count);
  }
  static tmsize_t write(thandle_t, void*, tmsize_t) { return 0; }
  static toff_t seek(thandle_t handle, toff_t offset, int whence) {
    TiffSource& source = of(handle);
    const toff_t begin = whence == SEEK_SET ? 0 : whence == SEEK_CUR ? source.position : source.data.size();
    source.position = static_cast<std::size_t>(begin + offset);
    return source.position;
  }
  static int close(thandle_t) { return 0; }
  static toff_t size(thandle_t handle) { return of(handle).data.size(); }
  static int map(thandle_t handle, void** base, toff_t* size) {
    *base = const_cast<char*>(of(handle).data.data());  // libtiff only reads it
    *size = of(handle).data.size();
    return 1;
  }
  static void unmap(thandle_t, void*, toff_t) {}
};

/// Opens a TIFF. Null if that fails; `reason` then has libtiff's first message, if its version can
/// report one.
inline TIFF* open_tiff(TiffSource& source, std::string& reason) {
#if TIFFLIB_VERSION >= 20221213  // since 4.5 each file can have an error handler
  const std::unique_ptr<TIFFOpenOptions, void (*)(TIFFOpenOptions*)> options(TIFFOpenOptionsAlloc(),
                                                                             &TIFFOpenOptionsFree);
  const auto keep_first = [](TIFF*, void* to, const char*, const char* format, va_list values) {
    char text[256] = {};
    std::vsnprintf(text, sizeof text, format, values);
    if (auto& first = *static_cast<std::string*>(to); first.empty()) first = text;
    return 1;
  };
  TIFFOpenOptionsSetErrorHandlerExtR(options.get(), keep_first, &reason);
  TIFFOpenOptionsSetWarningHandlerExtR(
      options.get(), [](TIFF*, void*, const char*, const char*, va_list) { return 1; }, nullptr);
  return TIFFClientOpenExt("TIFF", "r", &source, &TiffSource::read, &TiffSource::write, &TiffSource::seek,
                           &TiffSource::close, &TiffSource::size, &TiffSource::map, &TiffSource::unmap,
                           options.get());
#else
  static_cast<void>(reason);
  return TIFFClientOpen("TIFF", "r", &source, &TiffSource::read, &TiffSource::write, &TiffSource::seek,
                        &TiffSource::close, &TiffSource::size, &TiffSource::map, &TiffSource::unmap);
#endif
}

/// Reads whatever libtiff can convert to RGB. Returns false if it cannot.
inline bool read_tiff_any(TIFF* tiff, std::uint16_t orientation, RgbImage& image, std::string& reason) {
  char message[1024] = {};
  if (!TIFFRGBAImageOK(tiff, message)) {
    reason = message;
    return false;
  }
  std::vector<std::uint32_t> raster(image.bytes.size() / 3);
  if (!TIFFReadRGBAImageOriented(tiff, static_cast<std::uint32_t>(image.width),
                                 static_cast<std::uint32_t>(image.height), raster.data(), orientation, 1)) {
    return false;
  }
  for (std::size_t i = 0; i < raster.size(); ++i) {
    image.bytes[3 * i] = static_cast<std::uint8_t>(TIFFGetR(raster[i]));
    image.bytes[3 * i + 1] = static_cast<std::uint8_t>(TIFFGetG(raster[i]));
    image.bytes[3 * i + 2] = static_cast<std::uint8_t>(TIFFGetB(raster[i]));
  }
  return true;
}

REFINE_INLINE std::string decode_tiff(std::string_view data, RgbImage& image) {
  TiffSource source{.data = data};
  std::string reason;
  const std::unique_ptr<TIFF, void (*)(TIFF*)> file(open_tiff(source, reason), &TIFFClose);
  const auto failure = [&] { return reason.empty() ? std::string("the TIFF data is damaged") : reason; };
  if (!file) return failure();
  std::uint32_t width = 0, height = 0;
  std::uint16_t bits = 1, samples = 1, photometric = 0, layout = PLANARCONFIG_CONTIG, orientation = 1,
                compression = COMPRESSION_NONE;
  TIFFGetField(file.get(), TIFFTAG_IMAGEWIDTH, &width);
  TIFFGetField(file.get(), TIFFTAG_IMAGELENGTH, &height);
  TIFFGetField(file.get(), TIFFTAG_PHOTOMETRIC, &photometric);
  TIFFGetFieldDefaulted(file.get(), TIFFTAG_BITSPERSAMPLE, &bits);
  TIFFGetFieldDefaulted(file.get(), TIFFTAG_SAMPLESPERPIXEL, &samples);
  TIFFGetFieldDefaulted(file.get(), TIFFTAG_PLANARCONFIG, &layout);
  TIFFGetFieldDefaulted(file.get(), TIFFTAG_ORIENTATION, &orientation);
  TIFFGetFieldDefaulted(file.get(), TIFFTAG_COMPRESSION, &compression);
  if (auto too_large = RgbImage::refuse_size(height, width); !too_large.empty()) return too_large;
  // libtiff decodes one strip, tile or row at a time, of separate planes one for each colour and alpha; the decoder of
  // LERC has another copy.
  constexpr std::uint64_t max_part = std::uint64_t{256} << 20;
  const bool is_tiled = TIFFIsTiled(file.get()) != 0;
  const std::uint64_t copies = (layout == PLANARCONFIG_SEPARATE ? std::min<std::uint64_t>(samples, 4) : 1) +
                               (compression == COMPRESSION_LERC ? 1 : 0);
  const std::uint64_t one_part = is_tiled ? TIFFTileSize64(file.get()) : TIFFStripSize64(file.get()),
                      part = one_part > max_part ? one_part : copies * one_part,
                      row = TIFFScanlineSize64(file.get());
  if (std::max(part, row) > max_part) {
    return fmt::format("a {} of it has {} bytes{}, more than the {} allowed (save it with smaller ones)",
                       row > part ? "row"
                       : is_tiled ? "tile"
                                  : "strip",
                       std::max(part, row), row <= part && copies > 1 ? " in memory" : "", max_part);
  }
  // libtiff takes the last tile of a row of these from the wrong place.
  const bool is_grey = photometric == PHOTOMETRIC_MINISBLACK || photometric == PHOTOMETRIC_MINISWHITE;
  if (is_tiled && is_grey && layout == PLANARCONFIG_CONTIG && (bits == 16 || samples > 1)) {
    std::uint32_t tile_width = 0;
    TIFFGetField(file.get(), TIFFTAG_TILEWIDTH, &tile_width);
    if (tile_width == 0 || width % tile_width != 0)
      return "grey TIFF data in tiles is not supported with 16 bits or alpha (save it in strips)";
  }
  // Alpha is dropped: as "associated", it is not multiplied into the colours.
  std::uint16_t extra_samples = 0, *kinds = nullptr;
  if (TIFFGetFieldDefaulted(file.get(), TIFFTAG_EXTRASAMPLES, &extra_samples, &kinds) == 1 &&
      extra_samples > 0) {
    const std::vector<std::uint16_t> associated(extra_samples, EXTRASAMPLE_ASSOCALPHA);
    TIFFSetField(file.get(), TIFFTAG_EXTRASAMPLES, extra_samples, associated.data());
  }
  image.resize(height, width);  // only now: a forged header must not claim memory
  if (!read_tiff_any(file.get(), orientation, image, reason)) return failure();
  make_upright(image, orientation);
  return {};
}

REFINE_INLINE std::string decode_bmp(std::string_view data, RgbImage& image) {
  const ByteReader bytes{data};
  const std::uint32_t pixels = bytes.u32(10), header = bytes.u32(14);
  const bool is_os2 = header == 12;
  if (!bytes.has(0, 26) || (!is_os2 && (header < 40 || !bytes.has(0, 54))))
    return "the BMP header is damaged";
  const auto claimed = static_cast<std::int32_t>(is_os2 ? bytes.u16(20) : bytes.u32(22));
  const std::int64_t width = is_os2 ? bytes.u16(18) : static_cast<std::int32_t>(bytes.u32(18));
  const std::int64_t height = claimed < 0 ? -std::int64_t{claimed} : claimed;
  const std::uint32_t bits = bytes.u16(is_os2 ? 24 : 28), compression = is_os2 ? 0 : bytes.u32(30);
  const bool masked = compression == 3 || compression == 6;
  if (compression == 1 || compression == 2) return "run-length encoded BMP data is not supported";
  if (compression != 0 && !masked) return fmt::format("BMP compression {} is not supported", compression);
  if (bits != 1 && bits != 4 && bits != 8 && bits != 16 && bits != 24 && bits != 32) {
    return fmt::format("BMP data of {} bits per pixel is not supported", bits);
  }
  if (auto reason = RgbImage::refuse_size(height, width); !reason.empty()) return reason;
  const std::uint64_t stride = (std::uint64_t{bits} * static_cast<std::uint64_t>(width) + 31) / 32 * 4;
  if (!bytes.has(pixels, stride * static_cast<std::uint64_t>(height))) return "the file ends too early";
  image.resize(height, width);  // only now: a forged header must not claim memory

  const std::uint64_t palette = 14 + std::uint64_t{header} + (masked && header == 40 ? 12 : 0);
  const std::uint64_t entry = is_os2 ? 3 : 4;
  std::uint32_t masks[] = {0x7c00, 0x03e0, 0x001f};
  if (bits == 32) masks[0] = 0xff0000, masks[1] = 0xff00, masks[2] = 0xff;
  for (std::uint64_t c = 0; masked && c < 3; ++c) masks[c] = bytes.u32(54 + 4 * c);
  const auto scaled = [](std::uint32_t value, std::uint32_t mask) -> std::uint8_t {
    if (mask == 0) return 0;
    while ((mask & 1) == 0) mask >>= 1, value >>= 1;
    return static_cast<std::uint8_t>(std::uint64_t{value & mask} * 255 / mask);
  };
  for (std::int64_t y = 0; y < height; ++y) {
    const std::uint64_t row = pixels + stride * static_cast<std::uint64_t>(claimed < 0 ? y : height - 1 - y);
    std::uint8_t* to = image.bytes.data() + 3 * y * width;
    for (std::uint64_t x = 0; x < static_cast<std::uint64_t>(width); ++x, to += 3) {
      if (bits <= 8) {
        const std::uint32_t first = bits * static_cast<std::uint32_t>(x) % 8;
        const std::uint32_t index = (bytes.u8(row + bits * x / 8) >> (8 - bits - first)) & ((1u << bits) - 1);
        const std::uint64_t colour = palette + entry * index;
        const bool in_palette = colour + entry <= pixels;
        for (std::uint64_t c = 0; c < 3; ++c) {
          to[c] = static_cast<std::uint8_t>(in_palette ? bytes.u8(colour + 2 - c) : 0);
        }
      } else if (bits == 24) {
        for (std::uint64_t c = 0; c < 3; ++c)
          to[c] = static_cast<std::uint8_t>(bytes.u8(row + 3 * x + 2 - c));
      } else {
        const std::uint32_t value = bits == 16 ? bytes.u16(row + 2 * x) : bytes.u32(row + 4 * x);
        for (std::size_t c = 0; c < 3; ++c) to[c] = scaled(value, masks[c]);
      }
    }
  }
  return {};
}

/// Reads the numbers of a PNM file, which are separated by blanks and comments.
struct PnmText {
  std::string_view rest;

  static bool is_blank(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

  void skip() {
    while (!rest.empty() && (is_blank(rest.front()) || rest.front() == '#')) {
      rest.remove_prefix(rest.front() == '#' ? std::min(rest.find('\n'), rest.size()) : 1);
    }
  }

  /// Reads the next number, of at most `digits` digits; −1 if none follows.
  std::int64_t number(int digits = 9) {
    skip();
    std::int64_t value = -1;
    for (; digits > 0 && !rest.empty() && rest.front() >= '0' && rest.front() <= '9'; --digits) {
      value = 10 * (value < 0 ? 0 : value) + (rest.front() - '0');
      rest.remove_prefix(1);
    }
    return value;
  }
};

REFINE_INLINE std::string decode_pnm(std::string_view data, RgbImage& image) {
  const char kind = data[1];  // P1 to P3 are text, P4 to P6 binary: black and white, grey, colour
  const bool is_text = kind <= '3', is_bits = kind == '1' || kind == '4',
             is_colour = kind == '3' || kind == '6';
  PnmText head{data.substr(2)};
  const std::int64_t width = head.number(), height = head.number(), max_value = is_bits ? 1 : head.number();
  if (width < 0 || height < 0 || max_value < 1 || max_value > 65535) return "the PNM header is damaged";
  if (auto reason = RgbImage::refuse_size(height, width); !reason.empty()) return reason;
  const auto w = static_cast<std::size_t>(width), h = static_cast<std::size_t>(height);
  const std::size_t channels = is_colour ? 3 : 1;
  const auto level = [&](std::int64_t value) {
    return static_cast<std::uint8_t>((std::min(value, max_value) * 255 + max_value / 2) / max_value);
  };
  if (!is_text && !head.rest.empty()) head.rest.remove_prefix(1);  // one blank ends the header
  const ByteReader bytes{head.rest, /*big_endian=*/true};
  const std::size_t sample_bytes = max_value > 255 ? 2 : 1,
                    stride = is_bits ? (w + 7) / 8 : w * channels * sample_bytes;
  // A sample of text takes at least a byte.
  if (!bytes.has(0, is_text ? w * h * channels : stride * h)) return "the file ends too early";
  image.resize(height, width);  // only now: a forged header must not claim memory
  for (std::size_t y = 0; y < h; ++y) {
    for (std::size_t x = 0; x < w; ++x) {
      std::uint8_t* to = &image.bytes[3 * (y * w + x)];
      for (std::size_t c = 0; c < channels; ++c) {
        std::int64_t value = 0;
        if (is_text) {
          value = head.number(is_bits ? 1 : 9);
          if (value < 0) return "the file ends too early";
        } else if (is_bits) {
          value = bytes.u8(y * stride + x / 8) >> (7 - x % 8) & 1;
        } else {
          const std::size_t offset = y * stride + (x * channels + c) * sample_bytes;
          value = sample_bytes == 2 ? bytes.u16(offset) : bytes.u8(offset);
        }
        to[c] = level(is_bits ? 1 - std::min<std::int64_t>(value, 1) : value);
      }
      if (channels == 1) to[1] = to[2] = to[0];
    }
  }
  return {};
}

REFINE_INLINE int exif_orientation(std::string_view exif) {
  using namespace std::string_view_literals;
  if (exif.starts_with("Exif\0\0"sv)) exif.remove_prefix(6);
  const bool big_endian = exif.starts_with("MM"sv);
  if (!big_endian && !exif.starts_with("II"sv)) return 1;
  const ByteReader bytes{exif, big_endian};
  const std::uint64_t directory = bytes.u32(4);
  const std::uint32_t entries = bytes.u16(directory);
  for (std::uint32_t i = 0; i < entries; ++i) {
    const std::uint64_t entry = directory + 2 + 12 * std::uint64_t{i};
    if (!bytes.has(entry, 12)) return 1;
    if (bytes.u16(entry) != 0x0112) continue;
    const std::uint32_t kind = bytes.u16(entry + 2);  // SHORT or LONG
    const std::uint32_t value = kind == 3 ? bytes.u16(entry + 8) : kind == 4 ? bytes.u32(entry + 8) : 1;
    return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
  }
  return 1;
}

REFINE_INLINE int png_orientation(std::string_view file) {
  const ByteReader bytes{file, /*big_endian=*/true};
  for (std::uint64_t chunk = 8; bytes.has(chunk, 12); chunk += 12 + std::uint64_t{bytes.u32(chunk)}) {
    if (file.substr(chunk + 4, 4) != "eXIf") continue;
    const std::uint32_t size = bytes.u32(chunk);
    return bytes.has(chunk + 8, size) ? exif_orientation(file.substr(chunk + 8, size)) : 1;
  }
  return 1;
}

REFINE_INLINE int webp_orientation(std::string_view file) {
  const ByteReader bytes{file, /*big_endian=*/false};
  for (std::uint64_t chunk = 12; bytes.has(chunk, 8);) {
    const std::uint64_t size = bytes.u32(chunk + 4);
    if (file.substr(chunk, 4) == "EXIF") {
      return bytes.has(chunk + 8, size) ? exif_orientation(file.substr(chunk + 8, size)) : 1;
    }
    chunk += 8 + size + size % 2;
  }
  return 1;
}

REFINE_INLINE void make_upright(RgbImage& image, int orientation) {
  if (orientation <= 1 || orientation > 8) return;
  const std::size_t h = static_cast<std::size_t>(image.height), w = static_cast<std::size_t>(image.width);
  const bool transposed = orientation >= 5;
  const std::size_t height = transposed ? w : h, width = transposed ? h : w;
  const bool flip_y = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  const bool flip_x = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  std::vector<std::uint8_t> upright(image.bytes.size());
  std::uint8_t* to = upright.data();
  for (std::size_t y = 0; y < height; ++y) {
    for (std::size_t x = 0; x < width; ++x, to += 3) {
      std::size_t row = transposed ? x : y, column = transposed ? y : x;
      if (flip_y) row = h - 1 - row;
      if (flip_x) column = w - 1 - column;
      std::memcpy(to, &image.bytes[3 * (row * w + column)], 3);
    }
  }
  image.bytes = std::move(upright);
  image.height = static_cast<int>(height), image.width = static_cast<int>(width);
}

REFINE_INLINE ImageShape shape_in_header(const std::filesystem::path& file) {
  int width = 0, height = 0;
  // The header of a JPEG is nearly always in its first pages, which saves reading the rest of a large set.
  std::string bytes = refine::detail::read_beginning(file, std::size_t{1} << 14);
  if (bytes.starts_with("\xff\xd8")) jpeg_size(bytes, height, width);
  if (width > 0 && height > 0) return {3, height, width};
  try {
    bytes = files::read(file, max_image_file_bytes);
  } catch (const Error&) {
    return {};
  }
  if (bytes.starts_with("\x89PNG\r\n\x1a\n") && bytes.size() >= 24) {
    const ByteReader header{bytes, /*big_endian=*/true};
    width = static_cast<int>(header.u32(16)), height = static_cast<int>(header.u32(20));
    if (png_orientation(bytes) >= 5) std::swap(width, height);
  } else if (bytes.starts_with("RIFF") && WebPGetInfo(reinterpret_cast<const std::uint8_t*>(bytes.data()),
                                                      bytes.size(), &width, &height)) {
    if (webp_orientation(bytes) >= 5) std::swap(width, height);
  } else if (bytes.starts_with("\xff\xd8")) {
    jpeg_size(bytes, height, width);
  } else {
    try {
      RgbImage image;
      decode(bytes, file.string(), image);
      width = image.width, height = image.height;
    } catch (const Error&) {
      return {};
    }
  }
  return width > 0 && height > 0 ? ImageShape{3, height, width} : ImageShape{};
}

/// Names the format of a file that is not supported, from its first bytes; empty if they do not
/// identify it.
inline std::string_view unsupported_format(std::string_view data) {
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

/// Decodes an image. Returns an empty string, or the reason why it failed.
inline std::string decode_any(std::string_view data, RgbImage& image) {
  using namespace std::string_view_literals;
  const auto starts = [&](std::string_view first) { return data.starts_with(first); };
  if (data.empty()) return "the file is empty";
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
  const auto format = unsupported_format(data);
  return fmt::format("unsupported format (got {}, expected JPEG, PNG, WebP, TIFF, BMP or PNM)",
                     format.empty() ? "unknown data" : format);
}

REFINE_INLINE void decode(std::string_view data, std::string_view name, RgbImage& image) {
  const std::string reason = decode_any(data, image);
  if (!reason.empty()) throw Error("cannot decode {}: {}; replace or remove this image", name, reason);
}

}  // namespace refine::data::detail
