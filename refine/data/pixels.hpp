#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/clamp.h>

#include <refine/core/error.hpp>

namespace refine::data {

/// Bytes 0–255 as floats in [0, 1] on `device`: v / 255 (on CUDA the last bit may differ). The bytes
/// travel, not the floats. Keeps the shape and the memory format. \throws Error when they are no bytes
inline at::Tensor to_float(const at::Tensor& bytes, at::Device device = at::kCPU) {
  if (bytes.scalar_type() != at::kByte) {
    throw Error("refine: images come as bytes, 0 to 255; convert floats in [0, 1] with data::to_bytes");
  }
  return bytes.to(device).to(at::kFloat).div_(255);
}

/// The inverse: floats, clamped to [0, 1], to the nearest of 256 levels. Stays on the device of `images`.
inline at::Tensor to_bytes(const at::Tensor& images) {
  return at::clamp(images.detach().to(at::kFloat), 0, 1).mul_(255).round_().to(at::kByte);
}

}  // namespace refine::data
