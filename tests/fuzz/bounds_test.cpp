// Each reader gets the worst files of at most 10 MB: what they cost in memory and time has a bound.

#include <fmt/core.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <iostream>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <refine/core/file.hpp>
#include <refine/data/image_files.hpp>
#include <refine/formats/detail/pickle_machine.hpp>
#include <refine/formats/onnx.hpp>
#include <refine/formats/safetensors.hpp>
#include <refine/metrics/attack_metrics.hpp>
#include <refine/report/defense_report.hpp>
#include <refine/report/render.hpp>

#include "tests/data/image_bytes.hpp"
#include "tests/fuzz/readers.hpp"
#include "tests/support/error_of.hpp"
#include "tests/support/scratch_folder.hpp"

namespace refine::fuzz {
namespace {

using namespace std::string_literals;
using testing::error_of;
using testing::expect_words;
using testing::jpeg_of_scans;
using testing::progressive_jpeg;

constexpr std::size_t file_size = 10'000'000, source_size = 2'050'000, config_size = 1 << 20;  // limits

std::string repeated(std::string_view part, std::size_t size = file_size) {
  std::string all;
  all.reserve(size);
  while (all.size() + part.size() <= size) all += part;
  return all;
}

/// Returns the report of an attack that moves two images of so many classes.
std::string metrics_of(int classes) {
  report::DefenseReport r{.title = "many classes"};
  r.before = r.after = metrics::attack_metrics(
      {.truth = {7, 8}, .clean = {7, 8}, .triggered = {5, 6}, .classes = classes, .target = 5});
  return report::metrics_text(r);
}

std::string little(std::uint64_t value, int bytes) {
  std::string text;
  for (int i = 0; i < bytes; ++i) text += static_cast<char>(value >> (8 * i));
  return text;
}

std::string big(std::uint64_t value, int bytes) {
  std::string text = little(value, bytes);
  std::ranges::reverse(text);
  return text;
}

/// Compresses `size` bytes that repeat a part. \param bits of zlib: 15 with its header, -15 raw, 31 gzip
std::string compressed(std::string_view part, std::uint64_t size, int bits) {
  z_stream stream = {};
  if (deflateInit2(&stream, 9, Z_DEFLATED, bits, 9, Z_DEFAULT_STRATEGY) != Z_OK)
    throw std::runtime_error("zlib");
  const std::string input = repeated(part, 1 << 20);
  std::string output, buffer(1 << 16, '\0');
  for (std::uint64_t done = 0; done < size;) {
    const std::uint64_t count = std::min<std::uint64_t>(input.size(), size - done);
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(input.data()));
    stream.avail_in = static_cast<uInt>(count);
    done += count;
    do {
      stream.next_out = reinterpret_cast<Bytef*>(buffer.data());
      stream.avail_out = static_cast<uInt>(buffer.size());
      deflate(&stream, done == size ? Z_FINISH : Z_NO_FLUSH);
      output.append(buffer, 0, buffer.size() - stream.avail_out);
    } while (stream.avail_out == 0);
  }
  deflateEnd(&stream);
  return output;
}

std::uint32_t crc_of_zeros(std::uint64_t size) {
  const std::string zeros(1 << 20, '\0');
  uLong crc = 0;
  for (; size > 0; size -= std::min<std::uint64_t>(size, zeros.size()))
    crc = crc32(crc, reinterpret_cast<const Bytef*>(zeros.data()),
                static_cast<uInt>(std::min<std::uint64_t>(size, zeros.size())));
  return static_cast<std::uint32_t>(crc);
}

struct Entry {
  std::string name, packed;
  std::uint64_t size;
  std::uint32_t crc;
  int method;
};

std::string archive_of(const std::vector<Entry>& entries) {
  std::string all, directory;
  for (const Entry& entry : entries) {
    const std::string common = little(20, 2) + little(0, 2) + little(entry.method, 2) + little(0, 4) +
                               little(entry.crc, 4) + little(entry.packed.size(), 4) + little(entry.size, 4) +
                               little(entry.name.size(), 2);
    directory += "PK\1\2" + little(20, 2) + common + little(0, 2) + little(0, 2) + little(0, 2) +
                 little(0, 2) + little(0, 4) + little(all.size(), 4) + entry.name;
    all += "PK\3\4" + common + little(0, 2) + entry.name + entry.packed;
  }
  const std::string count = little(std::min<std::size_t>(entries.size(), 0xffff), 2);
  return all + directory + "PK\5\6" + little(0, 4) + count + count + little(directory.size(), 4) +
         little(all.size(), 4) + little(0, 2);
}

std::string many_entries() {
  std::vector<Entry> entries;
  for (int i = 0; i < 65'000; ++i) entries.push_back({"a/" + std::to_string(i), "", 0, 0, 0});
  return archive_of(entries);
}

/// An archive of one entry of zeros.
std::string bomb(std::uint64_t size) {
  return archive_of({{"a/data.pkl", compressed("\0"s, size, -15), size, crc_of_zeros(size), 8}});
}

std::string png_of(std::uint32_t side, int depth, int colour, std::uint64_t bytes, int interlace = 0) {
  const auto chunk = [](const std::string& kind, const std::string& body) {
    const std::string all = kind + body;
    const auto crc = crc32(0, reinterpret_cast<const Bytef*>(all.data()), static_cast<uInt>(all.size()));
    return big(body.size(), 4) + all + big(crc, 4);
  };
  const std::string header = big(side, 4) + big(side, 4) + big(static_cast<std::uint64_t>(depth), 1) +
                             big(static_cast<std::uint64_t>(colour), 1) + "\0\0"s +
                             big(static_cast<std::uint64_t>(interlace), 1);
  return "\x89PNG\r\n\x1a\n" + chunk("IHDR", header) + chunk("IDAT", compressed("\0"s, bytes, 15)) +
         chunk("IEND", "");
}

/// A PNG of one pixel, and as many compressed texts and profiles of 7.9 MB as there is space for.
std::string png_of_texts() {
  const auto chunk = [](const std::string& kind, const std::string& body) {
    const std::string all = kind + body;
    const auto crc = crc32(0, reinterpret_cast<const Bytef*>(all.data()), static_cast<uInt>(all.size()));
    return big(body.size(), 4) + all + big(crc, 4);
  };
  const std::string text = compressed("a", 7'900'000, 15);
  const std::string three =
      chunk("zTXt", "k\0\0"s + text) + chunk("iTXt", "k\0\1\0\0\0"s + text) + chunk("iCCP", "k\0\0"s + text);
  const std::string image = png_of(1, 8, 2, 4);
  const std::size_t pixels = image.find("IDAT") - 4, end = image.find("IEND") - 4;
  return image.substr(0, pixels) + repeated(three, file_size / 2) + image.substr(pixels, end - pixels) +
         repeated(three, file_size / 2 - 1000) + image.substr(end);
}

/// The header of a lossless WebP, without pixels.
std::string webp_claims(std::uint32_t width, std::uint32_t height) {
  const std::string header = "\x2f"s + little((width - 1) | (height - 1) << 14, 4) + std::string(5, '\0');
  return "RIFF" + little(12 + header.size(), 4) + "WEBPVP8L" + little(header.size(), 4) + header;
}

/// A TIFF of one strip or tile, in which all samples are 0.
/// \param height 0: the side
/// \param is_planar with a strip for each sample, of 2 or more
/// \param rows of a strip, of which there are several, all of the same bytes; 0: one strip
std::string tiff_of(std::uint32_t side, std::uint32_t bits, std::uint32_t samples, bool is_tiled = false,
                    std::uint32_t height = 0, bool is_planar = false, std::uint32_t rows = 0) {
  if (height == 0) height = side;
  if (rows == 0) rows = height;
  const std::string strip =
      compressed("\0"s, std::uint64_t{side} * rows * (is_planar ? 1 : samples) * bits / 8, 15);
  struct Tag {
    std::uint32_t id, type, count, value;
  };
  const std::uint32_t tags = is_tiled ? 11 : 10, bits_of_all = 8 + 2 + 12 * tags + 4,
                      parts = (is_planar ? samples : 1) * ((height + rows - 1) / rows),
                      offsets = bits_of_all + 2 * samples, sizes = offsets + 4 * parts,
                      data = sizes + 4 * parts, size = static_cast<std::uint32_t>(strip.size());
  std::vector<Tag> all = {
      {256, 4, 1, side}, {257, 4, 1, height},  {258, 3, samples, bits_of_all},  {259, 3, 1, 8},
      {262, 3, 1, 2},    {277, 3, 1, samples}, {284, 3, 1, is_planar ? 2u : 1u}};
  if (is_tiled) {
    all.insert(all.end(), {{322, 4, 1, side}, {323, 4, 1, height}, {324, 4, 1, data}, {325, 4, 1, size}});
  } else {
    all.insert(all.end(), {{273, 4, parts, parts == 1 ? data : offsets},
                           {278, 4, 1, rows},
                           {279, 4, parts, parts == 1 ? size : sizes}});
  }
  std::ranges::sort(all, {}, &Tag::id);
  std::string file = "II*\0"s + little(8, 4) + little(tags, 2), values;
  for (std::uint32_t i = 0; i < samples; ++i) values += little(bits, 2);
  for (const Tag& tag : all)
    file += little(tag.id, 2) + little(tag.type, 2) + little(tag.count, 4) + little(tag.value, 4);
  for (std::uint32_t i = 0; i < parts; ++i) values += little(data, 4);
  for (std::uint32_t i = 0; i < parts; ++i) values += little(size, 4);
  return file + little(0, 4) + values + strip;
}

/// A field of protobuf.
std::string field(int number, const std::string& content) {
  std::string length;
  for (std::size_t rest = content.size();; rest >>= 7) {
    length += static_cast<char>((rest & 127) | (rest > 127 ? 128 : 0));
    if (rest <= 127) break;
  }
  return static_cast<char>(8 * number + 2) + length + content;
}

/// An ONNX model whose nodes double a list of sizes.
std::string onnx_doubling(int nodes) {
  std::string graph;
  const auto add = [&](const std::string& op, const std::string& from, const std::string& to) {
    std::string node;
    for (int i = 0; i < (op == "Concat" ? 2 : 1); ++i) node += field(1, from);
    node += field(2, to) + field(4, op);
    if (op == "Concat") node += field(5, field(1, "axis") + "\x18\0\xa0\1\2"s);
    graph += field(1, node);
  };
  add("Shape", "x", "0");
  for (int i = 0; i < nodes; ++i) add("Concat", std::to_string(i), std::to_string(i + 1));
  add("Reshape", "x", "y");
  std::string dimensions = field(1, field(2, "n"));
  for (const char size : {3, 8, 8}) dimensions += field(1, "\x08"s + size);
  const std::string type = field(1, "\x08\1"s + field(2, dimensions));
  graph +=
      field(2, "g") + field(11, field(1, "x") + field(2, type)) + field(12, field(1, "y") + field(2, type));
  return "\x08\x08"s + field(7, graph) + field(8, "\x10\x11"s);
}

std::string idx_claims(std::uint32_t count, std::uint32_t rows) {
  return "\0\0\x08\3"s + big(count, 4) + big(rows, 4) + big(rows, 4);
}

std::string safetensors_of(const std::string& header) {
  return little(header.size(), 8) + header;
}

std::string safetensors_entries() {
  std::string header = "{\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}";
  for (int i = 0; header.size() < file_size - 100; ++i)
    header += ",\"" + std::to_string(i) + "\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}";
  return safetensors_of(header + "}");
}

/// A pickle that pushes a text.
std::string pickled_text(const std::string& content) {
  return "X" + little(content.size(), 4) + content;
}

/// Returns the first intact file of a reader.
std::string intact_file(std::string_view reader) {
  return std::ranges::find(readers(), reader, &Reader::name)->seeds().front();
}

/// Returns the intact file of a reader of safetensors, with another value in its metadata.
std::string with_metadata(std::string_view reader, const std::string& key, const std::string& value) {
  formats::SafeTensors content = formats::read_safetensors("a", intact_file(reader));
  content.metadata.at(key) = value;
  const testing::ScratchFolder folder;
  formats::write_safetensors(folder.path / "a", content);
  return files::read(folder.path / "a");
}

struct Worst {
  const char* name;
  const char* reader;
  std::function<std::string()> make;
  std::optional<bool> is_read = std::nullopt;  ///< true: it is within the limits; false: it is beyond one
};

const std::vector<Worst>& worst_files() {
  static const std::vector<Worst> files = {
      {"archive_bomb", "archive", [] { return bomb(600 << 20); }, false},
      {"archive_below_the_ratio", "archive",
       [] {
         std::vector<Entry> entries;
         const std::uint64_t size = 1 << 20;  // entries of 1 MiB may have any ratio
         const std::uint32_t crc = crc_of_zeros(size);
         const std::string packed = compressed("\0"s, size, -15);
         for (std::size_t i = 0; i < file_size / (packed.size() + 100); ++i)
           entries.push_back({"a/" + std::to_string(i), packed, size, crc, 8});
         return archive_of(entries);
       },
       false},
      {"archive_entries", "archive", &many_entries},
      {"attack_texts", "attack", [] { return "{\"attack\":\"" + repeated("a", 1'000'000) + "\"}"; }, false},
      {"checkpoint_memo", "checkpoint", [] { return "\x80\2"s + repeated("]q\0000"s) + "N."; }},
      {"checkpoint_dictionary", "checkpoint",
       [] {
         std::string pickle = "\x80\2}("s;
         for (int i = 0; pickle.size() < file_size; ++i)
           pickle += "J" + little(static_cast<std::uint64_t>(i), 4) + "N";
         return pickle + "u.";
       }},
      {"checkpoint_objects", "checkpoint",  // an object of many items, in many places
       [] {
         const std::string object = "\x80\2ca\nb\n(" + repeated("N", 900'000) + "tRq\1";
         return object + "0](" + repeated("h\1", file_size - object.size() - 20) + "e.";
       }},
      {"checkpoint_keys", "checkpoint",  // a long key in a dict, which many others contain
       [] {
         std::string pickle = "\x80\2}q\1" + pickled_text(std::string(4'000'000, 'k')) + "Ns0}(";
         for (int i = 0; pickle.size() < file_size - 20; ++i)
           pickle += pickled_text(fmt::format("{:06}", i)) + "h\1";
         return pickle + "u.";
       }},
      {"cifar10_images", "cifar10", [] { return repeated(std::string(3'073, '\1')); }, true},
      {"cifar10_names_short", "cifar10_names", [] { return repeated("a\n", 65'536); }, false},
      {"class_names_short", "class_names", [] { return repeated("a\n"); }, true},
      {"config_items", "config",
       [] {
         std::string text;
         for (int i = 0; text.size() < config_size - 20; ++i) text += fmt::format("a{}=0\n", i);
         return text;
       },
       true},
      {"config_array", "config", [] { return "a=[" + repeated("0,", config_size - 10) + "]"; }, true},
      {"config_beyond_ascii", "config", [] { return "a='" + repeated("\xc3\xa9", config_size - 10) + "'"; },
       true},
      {"defended_names", "defended",
       [] { return "{\"classes\":1,\"class_names\":[" + repeated("\"\",") + "\"\"]}"; }, false},
      {"exported_nesting", "exported_program", [] { return repeated("["); }},
      {"exported_objects", "exported_program", [] { return "[" + repeated("{\"\":{}},") + "0]"; }},
      {"exported_arrays", "exported_program", [] { return "[" + repeated("[],") + "0]"; }},
      {"exported_texts", "exported_program", [] { return "{\"a\":[" + repeated("\"\",") + "0]}"; }},
      {"weights_objects", "exported_weights",
       [] { return "{\"config\":{\"a\":[" + repeated("{},") + "0]}}"; }},
      {"idx_claim", "idx", [] { return idx_claims(65535, 65535); }},
      {"idx_gzip_bomb", "idx",
       [] {
         const std::uint64_t images = 200, rows = 1'000;
         const std::string header = idx_claims(images, rows);
         return compressed(header, header.size(), 31) + compressed("\0"s, images * rows * rows, 31);
       },
       false},
      {"image_png", "image", [] { return png_of(10'000, 8, 2, std::uint64_t{10'000} * (3 * 10'000 + 1)); },
       true},
      {"image_png_16_bits", "image",
       [] { return png_of(10'000, 16, 6, std::uint64_t{10'000} * (8 * 10'000 + 1)); }, true},
      {"image_png_beyond", "image", [] { return png_of(10'001, 8, 2, 1000); }, false},
      {"image_png_interlaced", "image", [] { return png_of(10'000, 8, 6, 400'100'000, 1); }, true},
      {"image_jpeg_progressive", "image", [] { return progressive_jpeg(10'000); }, true},
      {"image_jpeg_50_scans", "image", [] { return jpeg_of_scans(10'000, 50); }, true},
      {"image_jpeg_51_scans", "image", [] { return jpeg_of_scans(10'000, 51); }, false},
      {"image_png_texts", "image", &png_of_texts, true},
      {"image_jpeg_cmyk", "image", [] { return progressive_jpeg(10'000, false, false, true, 8'000); }, true},
      {"image_jpeg_cmyk_beyond", "image", [] { return progressive_jpeg(10'000, false, false, true, 8'001); },
       false},
      {"image_jpeg_cmyk_sequential_scans", "image",
       [] { return progressive_jpeg(10'000, false, true, true, 8'000); }, true},
      {"image_tiff_planes", "image", [] { return tiff_of(8'192, 8, 4, false, 8'192, /*is_planar=*/true); },
       true},
      {"image_tiff_planes_beyond", "image",
       [] { return tiff_of(8'192, 8, 4, false, 8'193, /*is_planar=*/true); }, false},
      {"image_tiff_planes_at_both_limits", "image",
       [] { return tiff_of(10'000, 8, 4, false, 10'000, /*is_planar=*/true, 6'710); }, true},
      {"image_tiff_at_both_limits", "image",
       [] { return tiff_of(10'000, 8, 3, false, 10'000, /*is_planar=*/false, 8'947); }, true},
      {"image_tiff", "image", [] { return tiff_of(9'400, 8, 3); }, true},
      {"image_tiff_beyond", "image", [] { return tiff_of(9'500, 8, 3); }, false},
      {"image_tiff_16_bits", "image", [] { return tiff_of(10'000, 16, 4); }, false},
      {"image_tiff_tile", "image", [] { return tiff_of(9'504, 8, 3, /*is_tiled=*/true); }, false},
      {"image_tiff_row", "image", [] { return tiff_of(10'000, 8, 30'000, /*is_tiled=*/false, 1); }, false},
      {"image_jpeg_51_sequential_scans", "image",
       [] { return jpeg_of_scans(4'000, 51, /*is_sequential=*/true); }, false},
      {"image_webp_at_the_limit", "image", [] { return webp_claims(10'000, 10'000); }, false},
      {"image_png_claim", "image", [] { return png_of(0x7fffffff, 8, 2, 1000); }},
      {"image_header_claim", "image_header", [] { return png_of(0x7fffffff, 8, 2, 1000); }},
      {"image_header_jpeg_markers", "image_header", [] { return "\xff\xd8"s + repeated("\xff\xe0\0\2"s); }},
      {"image_store_lines", "image_store",
       [] {
         std::string file = intact_file("image_store");
         return file.substr(0, 4'096) + repeated("0 a\n", file_size - 4'200) +
                fmt::format("{:020} {:020} end\n", 1, file_size - 4'200);
       },
       false},
      {"metrics_nesting", "metrics_json", [] { return repeated("{\"a\":"); }},
      {"metrics_objects", "metrics_json", [] { return "{\"a\":[" + repeated("{\"\":0},") + "0]}"; }},
      {"metrics_classes", "metrics_json", [] { return metrics_of(3'700); }, true},
      {"metrics_classes_beyond", "metrics_json", [] { return metrics_of(3'701); }, false},
      {"onnx_doubling", "onnx", [] { return onnx_doubling(40); }, false},
      {"pickle_marks", "pickle", [] { return "\x80\2"s + repeated("("); }},
      {"pickle_lists", "pickle", [] { return "\x80\2"s + repeated("]"); }},
      {"pickle_memo", "pickle", [] { return "\x80\4"s + repeated("]\2240"s) + "N."; }},
      {"pickle_tuples", "pickle", [] { return "\x80\2"s + repeated("N\2050"s) + "N."; }},
      {"pickle_names", "pickle",
       [] {
         const std::string name = "\x80\4" + pickled_text(std::string(5'000'000, 'a')) + "\x94" + "0";
         return name + repeated("h\0h\0\x93" + "0"s, file_size - name.size() - 2) + "N.";
       },
       false},
      {"pickle_doubling", "pickle", [] { return "\x80\2)q\0"s + repeated("h\0h\0\x86q\0000"s) + "N."; }},
      {"programs_marks", "pickle_programs", [] { return "\x80\2"s + repeated("(]"); }},
      {"programs_short", "pickle_programs", [] { return repeated("N."); }, true},
      {"programs_lists", "pickle_programs", [] { return repeated("]."); }, true},
      {"programs_names", "pickle_programs", [] { return repeated("ca\nb\n."); }, true},
      {"programs_stopped", "pickle_programs",  // names in pairs, behind what the reader refuses
       [] {
         std::string pickle = "\x80\4I 1\n0";
         for (int i = 0; i < 19'000; ++i) pickle += pickled_text(fmt::format("{:06}", i));
         for (const char* module : {"io", "_io", "types", "functools", "code", "torch", "numpy", "pandas"})
           pickle += pickled_text(module);
         return pickle + repeated("\x93", file_size - pickle.size());
       },
       true},
      {"programs_copies", "pickle_programs",  // short pickles that copy a list and encode a text
       [] {
         const std::string list = "](" + repeated("N", 5'000) + "eq\1" + "0ctorch\nSize\nq\2" + "0" +
                                  repeated("h\2h\1\x85R" + "0"s, 2'000),
                           text = pickled_text(std::string(5'000, 'a')) + "q\3" + "0c_codecs\nencode\nq\4" +
                                  "0" + repeated("h\4h\3" + pickled_text("latin1") + "\x86R0", 3'000);
         return repeated(list + text + "N.");
       }},
      {"recognize_zeros", "recognize", [] { return repeated("\0"s); }},
      {"recognize_archive", "recognize", &many_entries},
      {"run_checkpoint_history", "run_checkpoint",
       [] {
         const std::string epoch = "[1,0,0,0,0]";
         return with_metadata("run_checkpoint", "history",
                              "[" + repeated(epoch + ",", file_size - 5'000) + epoch + "]");
       },
       true},
      {"run_checkpoint_recipe", "run_checkpoint",  // it is compared with that of the run
       [] {
         return with_metadata("run_checkpoint", "recipe",
                              "{\"a\":[" + repeated("0,", file_size - 5'000) + "0]}");
       },
       false},
      {"safetensors_nesting", "safetensors", [] { return safetensors_of(repeated("[")); }},
      {"safetensors_entries", "safetensors", &safetensors_entries},
      {"safetensors_name", "safetensors",
       [] {
         return safetensors_of("{\"" + repeated("module.") +
                               "\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}") +
                "a";
       },
       false},
      {"safetensors_dimensions", "safetensors",
       [] {
         return safetensors_of("{\"a\":{\"dtype\":\"F32\",\"shape\":[" + repeated("1,") +
                               "1],\"data_offsets\":[0,4]}}") +
                "abcd";
       }},
      {"saved_defense_alarm", "saved_defense",
       [] {
         return with_metadata("saved_defense", "alarm",
                              "{\"a\":[" + repeated("[],", file_size - 50'000) + "0]}");
       }},
      {"saved_defense_permutation", "saved_defense",
       [] {
         return with_metadata("saved_defense", "permutation",
                              "[" + repeated("0,", file_size - 50'000) + "0]");
       },
       false},
      {"stored_network_names", "stored_network",
       [] {
         return with_metadata("stored_network", "class_names",
                              "[" + repeated("\"\",", file_size / 2) + "\"\"]");
       },
       false},
      {"stored_network_entries", "stored_network", &safetensors_entries, false},
      {"torchscript_pickle_lists", "torchscript_pickle", [] { return "\x80\2"s + repeated("]"); }},
      {"torchscript_pickle_tuples", "torchscript_pickle",
       [] { return "\x80\2"s + repeated("N\2050"s) + "N."; }},
      {"source_names", "torchscript_source", [] { return repeated("a\n", source_size); }},
      {"source_parentheses", "torchscript_source", [] { return repeated("(", source_size); }},
      {"source_statements", "torchscript_source",
       [] {
         return "class A(Module):\n  __parameters__ = []\n  def forward(self: __torch__.A, x: Tensor) -> Tensor:\n" +
                repeated("    x = x\n", source_size) + "    return x\n";
       }},
      {"source_chain", "torchscript_source",
       [] {
         std::string source = "def f0(x: Tensor) -> Tensor:\n  return x\n";
         for (int i = 1; source.size() < source_size - 100; ++i)
           source += fmt::format("def f{}(x: Tensor) -> Tensor:\n  return __torch__.f{}(x, )\n", i, i - 1);
         return source;
       },
       false},
      {"source_methods", "torchscript_source",
       [] {
         std::string source = "class A(Module):\n  __parameters__ = []\n";
         for (int i = 0; source.size() < source_size - 100; ++i)
           source += fmt::format("  def __{:x}(self):\n    pass\n", i);
         return source;
       },
       false},
      {"source_list", "torchscript_source",
       [] {
         return "class A(Module):\n  def forward(self: __torch__.A) -> List[int]:\n    return [" +
                repeated("1,", source_size) + "1]\n";
       }},
  };
  return files;
}

struct Cost {
  double seconds, megabytes;
  int status;  ///< 0: read; 3: refused
};

/// Reads in a copy of the process, whose memory and time on a processor are measured.
Cost cost_of(const Reader& reader, const std::string& bytes) {
  struct rusage used = {};
  const pid_t child = ::fork();
  if (child == 0) {
    int status = 1;
    try {
      status = read_or_refuse(reader, bytes) ? 0 : 3;
    } catch (const std::exception& error) {
      std::cerr << error.what() << '\n';
    }
    ::_exit(status);
  }
  int status = -1;
  ::wait4(child, &status, 0, &used);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return {seconds(used.ru_utime) + seconds(used.ru_stime), static_cast<double>(used.ru_maxrss) / 1000,
          WIFEXITED(status) ? WEXITSTATUS(status) : -1};
}

class Bounds : public ::testing::TestWithParam<Worst> {};

TEST_P(Bounds, WorstFile_CostsLessThanAGigabyteAndTenSeconds) {
  const auto reader = std::ranges::find(readers(), std::string_view(GetParam().reader), &Reader::name);
  ASSERT_NE(reader, readers().end());
  const std::string bytes = GetParam().make();
  ASSERT_LE(bytes.size(), file_size + 1000);
  const double before = cost_of(*reader, "").megabytes;
  const Cost cost = cost_of(*reader, bytes);
  EXPECT_TRUE(cost.status == 0 || cost.status == 3) << cost.status;
  if (GetParam().is_read) {
    EXPECT_EQ(cost.status == 0, *GetParam().is_read);
  }
  EXPECT_LT(cost.seconds, 10);
  EXPECT_LT(cost.megabytes - before, 1000);
  RecordProperty("milliseconds", static_cast<int>(1000 * cost.seconds));
  std::printf("%s: %.1f MB take %.2f s and %.0f MB\n", GetParam().name,
              static_cast<double>(bytes.size()) / 1e6, cost.seconds, cost.megabytes - before);
  std::fflush(stdout);
}

// Files at a limit and beyond it that take more than 200 MB.
TEST(ReadPickle, AtTheLimitOfObjectsAndMemo_IsReadAndOneBeyondThrows) {
  const auto error = [](std::string_view part, std::size_t times) {
    std::string pickle = "\x80\4N";
    for (std::size_t i = 0; i < times; ++i) pickle += part;
    return error_of([&] { formats::read_pickle(pickle + ".", "p"); });
  };
  EXPECT_EQ(error("]0", 5'000'000), "");
  expect_words(error("]0", 5'000'001), {"the pickle has more than 5000000 objects"});
  EXPECT_EQ(error("\x94", 5'000'000), "");
  expect_words(error("\x94", 5'000'001), {"the memo of the pickle has more than 5000000 entries"});
}

TEST(DecodeImage, FileOfTheLargestSize_ReachesTheDecoder) {
  const testing::ScratchFolder scratch;
  const auto file = scratch.write("x.png", "\x89PNG\r\n\x1a\n");
  std::filesystem::resize_file(file, std::uintmax_t{1} << 30);
  expect_words(error_of([&] { data::decode_image(file); }), {"cannot decode", "x.png"});
  std::filesystem::resize_file(file, (std::uintmax_t{1} << 30) + 1);
  expect_words(error_of([&] { data::decode_image(file); }),
               {"cannot read", "x.png", "it has 1073741825 bytes, more than the 1073741824"});
}

/// Returns a model with this graph.
std::string onnx_with(const std::string& graph) {
  formats::detail::protobuf::Writer opset, model;
  opset.integer(2, 17);
  model.integer(formats::detail::onnx::model_field::ir_version, 8);
  model.bytes(formats::detail::onnx::model_field::opset_import, opset.message());
  model.bytes(formats::detail::onnx::model_field::graph, graph);
  return model.message();
}

TEST(InspectOnnx, CopiesAtTheLimit_AreReadAndOneMoreThrows) {
  using formats::detail::protobuf::Writer;
  namespace onnx = formats::detail::onnx;
  Writer node, one;
  node.bytes(onnx::node_field::op_type, "Relu");
  one.bytes(onnx::graph_field::node, node.message());
  const auto model = [&](std::size_t nodes) {
    std::string graph;
    graph.reserve(nodes * one.message().size());
    for (std::size_t i = 0; i < nodes; ++i) graph += one.message();
    return onnx_with(graph);
  };
  // A node, its bytes and its operator as texts.
  const std::size_t taken = sizeof(formats::OnnxNode) + node.message().size() + sizeof(std::string) + 4;
  const auto allowed = [&](std::size_t nodes) { return (std::size_t{64} << 20) + 16 * model(nodes).size(); };
  std::size_t most = (std::size_t{64} << 20) / (taken - 16 * one.message().size());
  while ((most + 1) * taken <= allowed(most + 1)) ++most;
  EXPECT_EQ(error_of([&] { formats::inspect_onnx(model(most), "x.onnx"); }), "");
  expect_words(error_of([&] { formats::inspect_onnx(model(most + 1), "x.onnx"); }),
               {"too large for the size of the file",
                fmt::format("bytes in memory, more than the {} allowed", allowed(most + 1))});
}

TEST(Readers, EachReader_HasAWorstFile) {
  for (const Reader& reader : readers()) {
    EXPECT_TRUE(std::ranges::any_of(worst_files(), [&](const Worst& file) {
      return file.reader == reader.name;
    })) << reader.name;
  }
}

INSTANTIATE_TEST_SUITE_P(Files, Bounds, ::testing::ValuesIn(worst_files()),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace refine::fuzz
