#pragma once

// What decode_image.hpp declares.

#include <refine/data/decode_image.hpp>

#include <ATen/ops/empty.h>
#include <fmt/core.h>

#include <cstdint>
#include <string>
#include <string_view>

#include <refine/core/compiled.hpp>
#include <refine/data/decoders.hpp>

namespace refine::data::detail {

/// What a file is that is not read, as far as its first bytes tell; empty if they do not.
inline std::string_view unread_format(std::string_view data) {
  using namespace std::string_view_literals;
  const auto brand = data.size() >= 12 && data.substr(4, 4) == "ftyp" ? data.substr(8, 4) : ""sv;
  if (data.starts_with("GIF8"sv)) return "a GIF image";
  if (brand == "avif" || brand == "avis") return "an AVIF image";
  if (brand == "heic" || brand == "heix" || brand == "mif1" || brand == "msf1") return "an HEIC image";
  if (data.starts_with("\0\0\0\x0cjP  "sv) || data.starts_with("\xff\x4f\xff\x51"sv)) return "a JPEG 2000 image";
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

REFINE_DEFINITION void decode(std::string_view data, std::string_view name, Rgb& image) {
  const std::string why = decode_any(data, image);
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
