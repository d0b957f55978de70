// Formats, orientations and damage, compared with Pillow (tests/fixtures/make_image_files.py) and
// with images made by hand.

#include <gtest/gtest.h>

#include <ATen/ops/full.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <fmt/core.h>
#include <tiffio.h>
#include <zlib.h>
#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <refine/core/file.hpp>
#include <refine/data/detail/decoders.hpp>
#include <refine/data/image_files.hpp>
#include <refine/data/image_folder.hpp>

#include "tests/data/image_bytes.hpp"
#include "tests/support/error_of.hpp"
#include "tests/support/scratch_folder.hpp"

namespace refine::data {
namespace {

namespace fs = std::filesystem;
using namespace std::string_literals;
using namespace refine::testing;

const fs::path folder = "tests/fixtures/images";

int distance(const at::Tensor& a, const at::Tensor& b) {
  return a.to(at::kInt).sub(b.to(at::kInt)).abs().max().item<int>();
}

TEST(DecodeImage, EveryFormatAndOrientation_MatchesPillow) {
  int files = 0;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(".expected.png")) continue;
    ++files;
    const at::Tensor image = decode_image(entry.path());
    const at::Tensor pillow = decode_image(folder / (name + ".expected.png"));
    ASSERT_EQ(image.sizes(), pillow.sizes()) << name;
    const bool rounds = name.ends_with(".jpg") || name == "sixteen.ppm" || name == "text.ppm";
    EXPECT_LE(distance(image, pillow), rounds ? 2 : 0) << name;
    EXPECT_EQ(detail::shape_in_header(entry.path()),
              (ImageShape{3, static_cast<int>(image.size(1)), static_cast<int>(image.size(2))}))
        << name;
  }
  EXPECT_GE(files, 37);
}

/// Names the 2×2 pixels by their red value, row by row: "ab/cd/".
std::string letters(const at::Tensor& image) {
  std::string text;
  for (int y = 0; y < image.size(1); ++y) {
    for (int x = 0; x < image.size(2); ++x) {
      text += static_cast<char>('a' + (image[0][y][x].item<int>() + 30) / 60 - 1);
    }
    text += '/';
  }
  return text;
}

TEST(DecodeImage, ExifOrientationOfEitherByteOrder_IsApplied) {
  // Four blocks of 8×8 pixels, so that compression does not blur them.
  Bytes pixels;
  for (int y = 0; y < 16; ++y) {
    for (int x = 0; x < 16; ++x) pixels.push_back(static_cast<std::uint8_t>(60 * (1 + x / 8 + 2 * (y / 8))));
  }
  const char* upright[] = {"ab/cd/", "ba/dc/", "dc/ba/", "cd/ab/", "ac/bd/", "ca/db/", "db/ca/", "bd/ac/"};
  for (int orientation = 1; orientation <= 8; ++orientation) {
    for (const bool big_endian : {false, true}) {
      const at::Tensor image =
          decode_image_bytes(jpeg_of(16, 16, pixels, 1, exif(orientation, big_endian)), "x.jpg");
      const at::Tensor corners = image.slice(1, 4, 16, 8).slice(2, 4, 16, 8);
      EXPECT_EQ(letters(corners), upright[orientation - 1]) << orientation << big_endian;
    }
  }
  for (const std::string& bad : {exif(9), exif(0), exif(6).substr(0, 20), "Exif\0\0"s,
                                 "Exif\0\0II*\0\xff\xff\xff\xff"s, "Exif\0\0"s + std::string(40, '\xff')}) {
    const at::Tensor image = decode_image_bytes(jpeg_of(16, 16, pixels, 1, bad), "x.jpg");
    EXPECT_EQ(letters(image.slice(1, 4, 16, 8).slice(2, 4, 16, 8)), "ab/cd/");
  }
}

// As in Pillow, where a second block continues the first.
TEST(DecodeImage, SecondExifBlock_DoesNotTurnTheImage) {
  Bytes pixels(16 * 16, 60);
  for (int y = 0; y < 8; ++y) std::fill_n(pixels.begin() + 16 * y, 16, static_cast<std::uint8_t>(180));
  const std::string one = jpeg_of(16, 16, pixels, 1, exif(1)), other = jpeg_of(16, 16, pixels, 1, exif(6));
  const std::size_t begin = other.find("\xff\xe1"),
                    size = 2 + 256 * (other[begin + 2] & 255) + (other[begin + 3] & 255);
  const std::size_t behind = one.find("\xff\xe1") + size;
  const std::string both = one.substr(0, behind) + other.substr(begin, size) + one.substr(behind);
  EXPECT_TRUE(decode_image_bytes(both, "x").equal(decode_image_bytes(one, "x")));
  EXPECT_FALSE(decode_image_bytes(other, "x").equal(decode_image_bytes(one, "x")));
}

TEST(DecodeImage, FileOfMoreThanOneGigabyte_IsRefusedBeforeItIsRead) {
  const ScratchFolder scratch;
  const auto file = scratch.write("huge.png", "\x89PNG");
  std::filesystem::resize_file(file, std::uintmax_t{1} << 40);
  expect_words(error_of([&] { decode_image(file); }), {"huge.png", "1099511627776 bytes", "1073741824"});
  const auto good = scratch.write("good.jpg", jpeg_of(16, 16, Bytes(16 * 16, 60), 1));
  const auto images = load_images({file, good}, {.on_error = OnDecodeError::skip});
  EXPECT_EQ(images.images.size(0), 1);
}

/// Returns a PNG with further chunks before its pixels.
std::string png_with(const std::string& whole,
                     const std::vector<std::pair<std::string, std::string>>& chunks) {
  const auto big = [](std::size_t value) {
    std::string text;
    for (int shift = 24; shift >= 0; shift -= 8) text += static_cast<char>(value >> shift);
    return text;
  };
  std::string all;
  for (const auto& [kind, body] : chunks) {
    const std::string content = kind + body;
    all += big(body.size()) + content +
           big(crc32(0, reinterpret_cast<const Bytef*>(content.data()), static_cast<uInt>(content.size())));
  }
  std::string bytes = whole;
  return bytes.insert(bytes.find("IDAT") - 4, all);
}

TEST(DecodeImage, PngWithTextProfileAndGamma_HasTheSamePixels) {
  const auto packed = [](std::string_view text) {
    uLongf size = compressBound(text.size());
    std::string bytes(size, '\0');
    compress(reinterpret_cast<Bytef*>(bytes.data()), &size, reinterpret_cast<const Bytef*>(text.data()),
             text.size());
    return bytes.substr(0, size);
  };
  const std::vector<std::pair<std::string, std::string>> chunks = {
      {"gAMA", "\0\0\xb1\x8f"s},
      {"sBIT", "\5\5\5"s},
      {"iCCP", "profile\0\0"s + packed("not a profile")},
      {"bKGD", "\0\0\0\1\0\2"s},
      {"tEXt", "Comment\0text"s},
      {"zTXt", "Comment\0\0"s + packed("text")},
      {"iTXt", "Comment\0\1\0en\0\0"s + packed("text")},
      {"teSt", "a private one"}};
  const std::string whole =
      png(4, 2, 8, PNG_COLOR_TYPE_RGB, {10,  20,  30,  40,  50,  60,  70,  80,  90,  100, 110, 120,
                                        130, 140, 150, 160, 170, 180, 190, 200, 210, 220, 230, 240});
  const at::Tensor image = decode_image_bytes(whole, "x");
  EXPECT_EQ(image[0][1][3].item<int>(), 220);
  EXPECT_TRUE(decode_image_bytes(png_with(whole, chunks), "x").equal(image));
  // A transparent colour and a palette's alpha are dropped.
  const std::string clear = png_with(whole, {{"tRNS", "\0\x0a\0\x14\0\x1e"s}});
  EXPECT_TRUE(decode_image_bytes(clear, "x").equal(image));
  const std::string palette = png(2, 1, 8, PNG_COLOR_TYPE_PALETTE, {1, 0}, {1, 2, 3, 4, 5, 6});
  const at::Tensor colours = decode_image_bytes(png_with(palette, {{"tRNS", "\0\x80"s}}), "x");
  EXPECT_EQ(colours[2][0][0].item<int>(), 6);
  EXPECT_TRUE(colours.equal(decode_image_bytes(palette, "x")));
  expect_words(error_of([&] {
                 decode_image_bytes(png_with(whole, {{"TeSt", "x"}}), "x.png");
               }),
               {"x.png", "critical"});
}

TEST(DecodeImage, JpegWithStrayBytes_IsReadAndOtherDamageThrows) {
  const std::string whole = jpeg(16, 16, {}, true);
  const at::Tensor image = decode_image_bytes(whole, "x");
  const std::string end = whole.substr(whole.size() - 2), rest = whole.substr(0, whole.size() - 2);
  EXPECT_TRUE(decode_image_bytes(rest + std::string(99, '\0') + end, "x").equal(image)) << "before the end";
  EXPECT_TRUE(decode_image_bytes(whole + std::string(50, 'x'), "x").equal(image)) << "after the end";
  const std::string after_first = whole.substr(0, 2) + "\0\0\0"s + whole.substr(2);
  EXPECT_TRUE(decode_image_bytes(after_first, "x").equal(image)) << "between markers";
  // A harmless warning does not hide a serious one.
  const std::string cut = after_first.substr(0, after_first.size() / 2);
  expect_words(error_of([&] { decode_image_bytes(cut, "x.jpg"); }), {"x.jpg", "remature end"});
  std::string damaged = whole;
  const std::size_t within = whole.size() - 120;  // a marker among the pixels
  damaged[within] = '\xff', damaged[within + 1] = '\xd3';
  expect_words(error_of([&] { decode_image_bytes(damaged, "x.jpg"); }), {"x.jpg"});
}

TEST(DecodeImage, CmykJpeg_IsConvertedToRgb) {
  // Inverted, as Adobe stores them: 255 means without ink. First cyan alone, then half of black.
  Bytes inks;
  for (int i = 0; i < 64; ++i) inks.insert(inks.end(), {0, 255, 255, 255});
  const at::Tensor cyan = decode_image_bytes(jpeg_of(8, 8, inks, 4), "x");
  EXPECT_LE(distance(cyan, at::stack({at::zeros({8, 8}), at::full({8, 8}, 255), at::full({8, 8}, 255)})), 3);
  inks.clear();
  for (int i = 0; i < 64; ++i) inks.insert(inks.end(), {255, 255, 255, 128});
  EXPECT_LE(distance(decode_image_bytes(jpeg_of(8, 8, inks, 4), "x"), at::full({3, 8, 8}, 128)), 3);
}

/// Writes a grey image of 20×4 pixels, of which pixel x has the value 10 x, in tiles 16 pixels wide.
void write_grey_tiles(const fs::path& file, std::uint16_t bits, std::uint16_t samples) {
  const std::unique_ptr<TIFF, void (*)(TIFF*)> tiff(TIFFOpen(file.c_str(), "w"), &TIFFClose);
  TIFFSetField(tiff.get(), TIFFTAG_IMAGEWIDTH, 20), TIFFSetField(tiff.get(), TIFFTAG_IMAGELENGTH, 4);
  TIFFSetField(tiff.get(), TIFFTAG_TILEWIDTH, 16), TIFFSetField(tiff.get(), TIFFTAG_TILELENGTH, 16);
  TIFFSetField(tiff.get(), TIFFTAG_BITSPERSAMPLE, bits);
  TIFFSetField(tiff.get(), TIFFTAG_SAMPLESPERPIXEL, samples);
  TIFFSetField(tiff.get(), TIFFTAG_PHOTOMETRIC, PHOTOMETRIC_MINISBLACK);
  TIFFSetField(tiff.get(), TIFFTAG_PLANARCONFIG, PLANARCONFIG_CONTIG);
  const std::uint16_t alpha = EXTRASAMPLE_UNASSALPHA;
  if (samples == 2) TIFFSetField(tiff.get(), TIFFTAG_EXTRASAMPLES, 1, &alpha);
  for (std::uint32_t left : {0U, 16U}) {
    Bytes bytes;
    for (std::uint32_t i = 0; i < 16 * 16; ++i) {
      const auto value = static_cast<std::uint8_t>(10 * (left + i % 16));
      for (int s = 0; s < samples; ++s) bytes.insert(bytes.end(), bits / 8U, s == 0 ? value : 128);
    }
    TIFFWriteTile(tiff.get(), bytes.data(), left, 0, 0, 0);
  }
}

// libtiff 4.5 reads tiles of several bytes a pixel wrongly where they reach beyond the image.
TEST(DecodeImage, GreyTiles_AreReadOrRefused) {
  const ScratchFolder scratch;
  const fs::path file = scratch.path / "tiles.tif";
  write_grey_tiles(file, 8, 1);
  const at::Tensor image = decode_image(file);
  for (std::int64_t x = 0; x < 20; ++x) EXPECT_EQ(image[1][2][x].item<int>(), 10 * x);
  for (const auto& [bits, samples] : {std::pair(16, 1), std::pair(8, 2), std::pair(16, 2)}) {
    write_grey_tiles(file, static_cast<std::uint16_t>(bits), static_cast<std::uint16_t>(samples));
    expect_words(error_of([&] { decode_image(file); }), {"tiles.tif", "strips"});
  }
}

TEST(DecodeImage, TruncatedFileOfEveryFormat_Throws) {
  for (const char* name :
       {"colours.bmp", "palette.bmp", "sixteen.bmp", "colours.ppm", "grey.pgm", "bits.pbm", "sixteen.ppm",
        "lossless.webp", "lossy.webp", "plain.tif", "lzw.tif", "alpha.tif"}) {
    const std::string whole = files::read(folder / name);
    const at::Tensor image = decode_image_bytes(whole, name);
    for (std::size_t n = 0; n < whole.size(); ++n) {
      const std::string line = error_of([&] {
        // The missing part may hold other data than pixels (a TIFF's date): then the image must be
        // complete.
        if (!decode_image_bytes(whole.substr(0, n), name).equal(image)) FAIL() << name << " cut to " << n;
      });
      if (!line.empty()) expect_words(line, {"cannot decode", name});
    }
    for (std::size_t i = 0; i < whole.size(); ++i) {  // damage must not cause anything worse than an Error
      std::string damaged = whole;
      damaged[i] = static_cast<char>(damaged[i] ^ 0xff);
      error_of([&] { decode_image_bytes(damaged, name); });
    }
  }
}

/// A TIFF of one compressed strip or tile without its bytes, with samples of 32 bits. (libtiff splits
/// a strip that is not compressed.)
/// \param tile_width 0: a strip
/// \param is_planar with a strip or tile for each sample, of 2 or more
std::string tiff_claims(std::uint32_t width, std::uint32_t height, std::uint32_t samples,
                        std::uint32_t tile_width = 0, std::uint32_t tile_height = 0, bool is_planar = false) {
  const auto little = [](std::uint32_t value, int bytes) {
    std::string text;
    for (int i = 0; i < bytes; ++i) text += static_cast<char>(value >> (8 * i));
    return text;
  };
  const bool is_tiled = tile_width > 0;
  const std::uint32_t tags = is_tiled ? 11 : 10, bits = 8 + 2 + 12 * tags + 4, data = bits + 2 * samples;
  std::vector<std::array<std::uint32_t, 4>> all = {{256, 4, 1, width},
                                                   {257, 4, 1, height},
                                                   {258, 3, samples, samples == 1 ? 32 : bits},
                                                   {259, 3, 1, 8},
                                                   {262, 3, 1, 2}};
  const std::uint32_t parts = is_planar ? samples : 1, size = is_planar ? data : 1;
  if (!is_tiled) all.push_back({273, 4, parts, data});
  all.push_back({277, 3, 1, samples});
  if (!is_tiled) all.insert(all.end(), {{278, 4, 1, height}, {279, 4, parts, size}});
  all.push_back({284, 3, 1, is_planar ? 2u : 1u});
  if (is_tiled) {
    all.insert(
        all.end(),
        {{322, 4, 1, tile_width}, {323, 4, 1, tile_height}, {324, 4, parts, data}, {325, 4, parts, size}});
  }
  std::string file = "II*\0"s + little(8, 4) + little(tags, 2);
  for (const auto& [id, type, count, value] : all)
    file += little(id, 2) + little(type, 2) + little(count, 4) + little(value, 4);
  file += little(0, 4);
  for (std::uint32_t i = 0; i < samples; ++i) file += little(32, 2);
  for (std::uint32_t i = 0; is_planar && i < samples; ++i) file += little(1, 4);
  return file + "x";
}

TEST(DecodeImage, AtEachLimit_DecodesAndOneBeyondThrows) {
  const auto pgm = [](int width, int height, std::size_t bytes) {
    return fmt::format("P5 {} {} 255\n", width, height) + std::string(bytes, '\7');
  };
  const auto line = [](int width, int height) { return Bytes(static_cast<std::size_t>(width * height), 7); };
  const auto forged = [](int width, int height) {  // a BMP without its pixels
    std::string bitmap = files::read(folder / "colours.bmp");
    for (int i = 0; i < 4; ++i) {
      bitmap[18 + i] = static_cast<char>(width >> (8 * i));
      bitmap[22 + i] = static_cast<char>(height >> (8 * i));
    }
    return bitmap;
  };
  const auto bits = [](int width, int height) {  // a PNG of a bit a pixel
    return png(width, height, 1, PNG_COLOR_TYPE_GRAY,
               Bytes(static_cast<std::size_t>((width + 7) / 8 * height)));
  };
  std::string large = jpeg(16, 16, {1, 2, 3});
  large.replace(large.find("\xff\xc0") + 5, 4, "\x27\x11\x27\x10");
  const auto cmyk_claims = [](bool is_sequential, const char* marker) {  // 10,000 by 8,001 pixels
    std::string bytes = progressive_jpeg(16, false, is_sequential, /*is_cmyk=*/true);
    return bytes.replace(bytes.find(marker) + 5, 4, "\x1f\x41\x27\x10");
  };
  const auto lerc = [](std::string tiff) {
    return tiff.replace(tiff.find("\x03\1\3\0\1\0\0\0\x08"s), 10, "\x03\1\3\0\1\0\0\0\x47\x88"s);
  };
  const std::string webp =  // the header of a lossless one: 16,383 twice, less one, in 14 bits each
      "RIFF\x16\0\0\0WEBPVP8L\x0a\0\0\0\x2f\xfe\xbf\xff\x0f\0\0\0\0\0"s;
  const std::string_view side = "a side must be 1 to 16384", early = "ends too early",
                         pixels = "the largest number of pixels is 100000000", allowed = "allowed";
  const struct {
    std::string within, beyond;
    std::vector<std::string_view> words;
    std::string_view otherwise = "";  ///< what refuses the first for another reason
  } cases[] = {
      {grey_png(16384, 1, 7), grey_png(16385, 1, 7), {side, "16385 x 1 pixels"}},
      {grey_png(1, 16384, 7), grey_png(1, 16385, 7), {side, "1 x 16385 pixels"}},
      {jpeg_of(16384, 1, line(16384, 1), 1),
       jpeg_of(16385, 1, line(16385, 1), 1),
       {side, "16385 x 1 pixels"}},
      {pgm(16384, 1, 16384), pgm(16385, 1, 16385), {side, "16385 x 1 pixels"}},
      {forged(16384, 1), forged(16385, 1), {side, "16385 x 1 pixels"}, early},
      {tiff_claims(16384, 1, 1), tiff_claims(16385, 1, 1), {side, "16385 x 1 pixels"}, "32-bit samples"},
      // At 10,000 × 10,000 the others take 300 MB (tests/fuzz/bounds_test.cpp).
      {pgm(10'000, 10'000, 1), pgm(10'000, 10'001, 1), {pixels, "10000 x 10001 pixels"}, early},
      {forged(10'000, 10'000), forged(10'000, 10'001), {pixels, "10000 x 10001 pixels"}, early},
      {bits(16, 16), bits(10'000, 10'001), {pixels, "10000 x 10001 pixels"}},
      {jpeg(16, 16, {1, 2, 3}), large, {pixels, "10000 x 10001 pixels"}},
      {files::read(folder / "lossless.webp"), webp, {pixels, "16383 x 16383 pixels"}},
      {tiff_claims(1, 1, 1),
       tiff_claims(10'000, 10'001, 1),
       {pixels, "10000 x 10001 pixels"},
       "32-bit samples"},
      {tiff_claims(4096, 1, 16384),
       tiff_claims(4096, 2, 8193),
       {"a strip of it has 268468224 bytes, more than the 268435456", allowed},
       "32-bit samples"},
      {tiff_claims(64, 64, 16384, 64, 64),
       tiff_claims(64, 80, 16384, 64, 80),
       {"a tile of it has 335544320 bytes, more than the 268435456", allowed},
       "32-bit samples"},
      {tiff_claims(4096, 1, 16384, 16, 16),
       tiff_claims(4097, 1, 16384, 16, 16),
       {"a row of it has 268500992 bytes, more than the 268435456", allowed},
       "32-bit samples"},
      // Of separate planes, one strip each of at most four.
      {tiff_claims(4096, 4096, 4, 0, 0, /*is_planar=*/true),
       tiff_claims(4096, 4097, 4, 0, 0, /*is_planar=*/true),
       {"a strip of it has 268500992 bytes in memory, more than the 268435456", allowed},
       "32-bit samples"},
      {tiff_claims(64, 64, 4, 4096, 4096, /*is_planar=*/true),
       tiff_claims(64, 64, 4, 4096, 4112, /*is_planar=*/true),
       {"a tile of it has 269484032 bytes in memory, more than the 268435456", allowed},
       "32-bit samples"},
      {tiff_claims(4096, 4096, 5, 0, 0, /*is_planar=*/true),
       tiff_claims(4096, 4097, 5, 0, 0, /*is_planar=*/true),
       {"a strip of it has 268500992 bytes in memory"},
       "32-bit samples"},
      {lerc(tiff_claims(4096, 1, 8192)),
       lerc(tiff_claims(4096, 2, 4097)),
       {"a strip of it has 268500992 bytes in memory, more than the 268435456", allowed},
       "32-bit samples"},
      {jpeg_of_scans(8, 50), jpeg_of_scans(8, 51), {"more than 50 scans"}},
      {progressive_jpeg(16, false, false, /*is_cmyk=*/true),
       cmyk_claims(/*is_sequential=*/false, "\xff\xc2"),
       {"its coefficients take 640640000 bytes, more than the 640000000", allowed}},
      {progressive_jpeg(16, false, true, /*is_cmyk=*/true),
       cmyk_claims(/*is_sequential=*/true, "\xff\xc0"),
       {"its coefficients take 640640000 bytes, more than the 640000000", allowed}},
      {jpeg_of_scans(8, 50, /*is_sequential=*/true),
       jpeg_of_scans(8, 51, /*is_sequential=*/true),
       {"more than 50 scans"}},
  };
  for (const auto& [within, beyond, words, otherwise] : cases) {
    const auto error = [](const std::string& bytes) {
      return error_of([&] { decode_image_bytes(bytes, "x.img"); });
    };
    const std::string first = error(within), second = error(beyond);
    EXPECT_EQ(first.empty(), otherwise.empty()) << first;
    expect_words(first, {otherwise});
    for (const std::string_view word : words) expect_words(second, {"x.img", word});
  }
}

/// libFuzzer reported the first as slow: 20 bytes allocated 177 MB.
TEST(DecodeImage, PixelsThatTheFileCannotHold_AreRefusedBeforeAllocation) {
  for (const std::string& forged :
       {"P1 13101 \n04505<0101"s, "P3 9000 9000 255\n1 2 3"s, "P4 13101 4505\n0"s, "P6 9000 9000 255\n0"s}) {
    detail::RgbImage image;
    EXPECT_EQ(detail::decode_pnm(forged, image), "the file ends too early") << forged;
    EXPECT_TRUE(image.bytes.empty()) << forged;
  }
  std::string bitmap = files::read(folder / "colours.bmp");
  bitmap.replace(18, 8, "\x28\x23\0\0\x28\x23\0\0"s);  // 9,000 by 9,000 pixels
  detail::RgbImage image;
  EXPECT_EQ(detail::decode_bmp(bitmap, image), "the file ends too early");
  EXPECT_TRUE(image.bytes.empty());
}

TEST(DecodeImage, UnsupportedFormat_IsNamedInTheError) {
  const auto line = [](const std::string& bytes) {
    return error_of([&] { decode_image_bytes(bytes, "x.jpg"); });
  };
  expect_words(line("GIF89a\1\0\1\0"s), {"a GIF image"});
  expect_words(line("\0\0\0\x20"
                    "ftypavif\0\0"s),
               {"an AVIF image"});
  expect_words(line("\0\0\0\x20"
                    "ftypheic\0\0"s),
               {"an HEIC image"});
  expect_words(line("<!DOCTYPE html><html>"), {"a web page"});
  std::string packed = files::read(folder / "palette.bmp");
  packed[30] = 1;
  expect_words(line(packed), {"run-length"});
}

TEST(ImageFiles, MixedExtensions_ListsImagesAndReportsIgnoredFiles) {
  const ScratchFolder scratch;
  for (const char* file : {"a.bmp", "b.PPM", "c.webp", "d.tiff", "e.png", "f.gif", "g.gif", "h", ".hidden"}) {
    scratch.write(file, grey_png(2, 2, 5));
  }
  std::vector<fs::path> ignored;
  EXPECT_EQ(image_files(scratch.path, &ignored).size(), 5u);
  ASSERT_EQ(ignored.size(), 3u);
  ::testing::internal::CaptureStderr();
  warn_ignored(ignored);
  expect_words(::testing::internal::GetCapturedStderr(),
               {"3 files", "2 .gif", "1 without an extension", "f.gif"});
  const ScratchFolder gifs;
  gifs.write("a.gif", "GIF89a");
  expect_words(error_of([&] { image_files(gifs.path); }), {"1 other", "a.gif"});
}

TEST(ImageFolder, AnyFormatAndDepth_KeepsClasses) {
  const ScratchFolder scratch;
  const std::string ppm = files::read(folder / "colours.ppm"), bmp = files::read(folder / "colours.bmp");
  scratch.write("a/1.ppm", ppm);
  scratch.write("b/part/deeper/1.bmp", bmp);
  scratch.write("b/2.bmp", bmp);
  scratch.write("loose.ppm", ppm);
  ::testing::internal::CaptureStderr();
  const auto set = image_folder(scratch.path);
  expect_words(::testing::internal::GetCapturedStderr(), {"1 file", "loose.ppm"});
  EXPECT_EQ(set.classes, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(set.size(), 3);
  scratch.write("c/1.gif", "GIF89a");
  expect_words(error_of([&] { image_folder(scratch.path); }), {"/c", "1.gif"});
}

TEST(ImageFolders, FolderNameNotUtf8_IsEscapedInTheClassName) {
  const ScratchFolder scratch;
  for (const char* part : {"train", "test"}) {
    scratch.write(fs::path(part) /
                      "K\xe4"
                      "fer" /
                      "1.png",
                  grey_png(2, 2, 1));
    scratch.write(fs::path(part) / "Käfer" / "1.png", grey_png(2, 2, 1));
  }
  const auto split = image_folders(scratch.path);
  EXPECT_EQ(split.train.classes, (std::vector<std::string>{"Käfer",
                                                           "K\\xe4"
                                                           "fer"}));
  EXPECT_EQ(split.test.classes, split.train.classes);
}

}  // namespace
}  // namespace refine::data
