#pragma once

#include <refine/data/decode.hpp>

#include <ATen/ops/empty.h>
#include <fmt/core.h>

#include <cstdint>
#include <string>

#include <refine/core/config.hpp>
#include <refine/data/detail/decoders.hpp>

namespace refine::data::detail {

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

namespace refine::data {

REFINE_INLINE at::Tensor decode_image(std::string_view bytes, std::string_view name) {
  detail::RgbImage image;
  detail::decode(bytes, name, image);
  auto planes = at::empty({3, image.height, image.width}, at::kByte);
  image.copy_planes_to(planes.mutable_data_ptr<std::uint8_t>());
  return planes;
}

}  // namespace refine::data
