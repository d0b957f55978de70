#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/clamp.h>

namespace refine::data {

/// Bytes 0–255 as floats in [0, 1] on `device`: v / 255, correctly rounded. The bytes travel, not the floats.
/// Keeps the shape and the memory format.
inline at::Tensor to_float(const at::Tensor& bytes, at::Device device = at::kCPU) {
  return bytes.to(device).to(at::kFloat).div_(255);
}

/// The inverse: floats, clamped to [0, 1], to the nearest of 256 levels. Stays on the device of `images`.
inline at::Tensor to_bytes(const at::Tensor& images) {
  return at::clamp(images.detach().to(at::kFloat), 0, 1).mul_(255).round_().to(at::kByte);
}

}  // namespace refine::data
