#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/clamp.h>
#include <fmt/core.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <refine/core/error.hpp>

namespace refine::data {

/// Bytes 0–255 as floats in [0, 1] on `device`: v / 255 (on CUDA the last bit may differ). The bytes
/// travel, not the floats. Keeps the shape and the memory format. \throws Error when they are no bytes
inline at::Tensor to_float(const at::Tensor& bytes, at::Device device = at::kCPU) {
  if (bytes.scalar_type() != at::kByte) {
    throw Error("images come as bytes, 0 to 255; convert floats in [0, 1] with data::to_bytes");
  }
  return bytes.to(device).to(at::kFloat).div_(255);
}

/// The inverse: floats, clamped to [0, 1], to the nearest of 256 levels. Stays on the device of `images`.
inline at::Tensor to_bytes(const at::Tensor& images) {
  return at::clamp(images.detach().to(at::kFloat), 0, 1).mul_(255).round_().to(at::kByte);
}

}  // namespace refine::data

namespace refine::data::detail {

/// Rows of RGB bytes, top first.
struct Rgb {
  int height = 0, width = 0;
  std::vector<std::uint8_t> bytes;

  static constexpr int largest_side = 1 << 14;  // a forged header must not claim all memory

  /// Empty when the image may be had, or else why not.
  std::string resize(std::int64_t h, std::int64_t w);

  void planes_to(std::uint8_t* to) const;
};

inline std::string Rgb::resize(std::int64_t h, std::int64_t w) {
  if (h < 1 || w < 1 || h > largest_side || w > largest_side) {
    return fmt::format("it claims {} x {} pixels, and sides of 1 to {} are read", w, h, largest_side);
  }
  height = static_cast<int>(h), width = static_cast<int>(w);
  bytes.resize(static_cast<std::size_t>(3 * h * w));
  return {};
}

inline void Rgb::planes_to(std::uint8_t* to) const {
  const std::size_t plane = bytes.size() / 3;
  for (std::size_t i = 0; i < plane; ++i) {
    for (std::size_t c = 0; c < 3; ++c) to[c * plane + i] = bytes[3 * i + c];
  }
}

}  // namespace refine::data::detail
