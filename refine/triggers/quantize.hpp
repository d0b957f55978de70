#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

#include <refine/core/check.hpp>
#include <refine/core/error.hpp>
#include <refine/core/task.hpp>
#include <refine/data/dataset.hpp>
#include <refine/triggers/trigger.hpp>

namespace refine::triggers {

/// Reduces the number of levels of every channel, with the dithering of Floyd and Steinberg (BPP;
/// Wang et al., 2022, `wang2022bpp`; Floyd and Steinberg, 1976, `floyd1976dithering`).
///
/// \tparam kImage shape of the images; open extents are set by `.image`
template <ImageShape kImage = ImageShape{}>
struct Quantize {
  static constexpr ImageShape static_image = kImage;  ///< what is known of the shape at compile time

  ImageShape image = kImage;  ///< shape of the images; an open extent fits any
  int levels = 8;             ///< values that a pixel may have, from 0 to 1 in equal steps; 2 to 256
  bool dither = true;         ///< false: each pixel is rounded on its own

  /// Returns the images with `levels` different values. With dithering, the error of a pixel is
  /// spread over its right neighbour and the three below: 7, 3, 5 and 1 sixteenths.
  ///
  /// \param images float N×C×H×W in [0, 1]
  /// \throws Error if `levels` is out of range or the images' shape is not `image`
  at::Tensor apply(const at::Tensor& images) const {
    require_agreement(check_shape(image, data::image_shape_of(images)));
    if (levels < 2 || levels > 256) throw Error("Quantize.levels must be in [2, 256], got {}", levels);
    const double steps = levels - 1;
    if (!dither) return (images * steps).round() / steps;
    at::Tensor quantized = images.to(at::kCPU, at::kFloat).contiguous().clone();
    const std::int64_t height = images.size(2), width = images.size(3);
    float* plane = quantized.mutable_data_ptr<float>();
    for (std::int64_t i = 0; i < images.size(0) * images.size(1); ++i, plane += height * width) {
      dither_plane(plane, height, width, static_cast<float>(steps));
    }
    return quantized.to(images.device(), images.scalar_type());
  }

 private:
  static void dither_plane(float* plane, std::int64_t height, std::int64_t width, float steps) {
    for (std::int64_t y = 0; y < height; ++y) {
      float* row = plane + y * width;
      float* below = y + 1 < height ? row + width : nullptr;
      for (std::int64_t x = 0; x < width; ++x) {
        const float value = std::clamp(std::round(row[x] * steps), 0.0f, steps) / steps;
        const float error = row[x] - value;
        row[x] = value;
        if (x + 1 < width) row[x + 1] += error * (7 / 16.0f);
        if (!below) continue;
        if (x > 0) below[x - 1] += error * (3 / 16.0f);
        below[x] += error * (5 / 16.0f);
        if (x + 1 < width) below[x + 1] += error * (1 / 16.0f);
      }
    }
  }
};

}  // namespace refine::triggers
