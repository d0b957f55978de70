#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/affine_grid_generator.h>
#include <ATen/ops/grid_sampler.h>
#include <ATen/ops/tensor.h>

#include <cmath>
#include <cstdint>
#include <numbers>
#include <vector>

#include <refine/core/check.hpp>
#include <refine/core/error.hpp>
#include <refine/data/dataset.hpp>
#include <refine/triggers/trigger.hpp>

namespace refine::triggers {

/// A rotation of the whole image about its centre, black where nothing comes from (BATT; Xu et al., 2023,
/// `xu2023batt`).
template <ImageShape kImage = ImageShape{}>
struct Rotate {
  static constexpr ImageShape static_image = kImage;

  ImageShape image = kImage;  ///< any, where it is left open
  double degrees = 16;        ///< counter-clockwise, -180 to 180

  /// Float N×C×H×W in [0, 1] → the same, rotated; the nearest pixel, as torchvision's `rotate` takes by
  /// default.
  at::Tensor apply(const at::Tensor& images) const {
    require_agreement(check_shape(image, data::image_of(images)));
    if (!(degrees >= -180 && degrees <= 180)) {
      throw Error("a rotation by {} degrees was asked for; it is -180 to 180", degrees);
    }
    const std::int64_t n = images.size(0), height = images.size(2), width = images.size(3);
    const double angle = degrees * std::numbers::pi / 180, cosine = std::cos(angle), sine = std::sin(angle);
    // From the turned pixel back to its source; both axes run from -1 to 1, whatever the sides.
    const double tall = static_cast<double>(height) / static_cast<double>(width);
    const std::vector<double> turn = {cosine, -sine * tall, 0, sine / tall, cosine, 0};
    const at::Tensor grid = at::affine_grid_generator(at::tensor(turn).view({1, 2, 3}), {1, 1, height, width},
                                                      /*align_corners=*/false);
    constexpr std::int64_t nearest = 1, zeros = 0;
    return at::grid_sampler(images, grid.to(images.device(), images.scalar_type()).expand({n, -1, -1, -1}),
                            nearest, zeros, /*align_corners=*/false);
  }
};

}  // namespace refine::triggers
