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

/// Rotates the whole image about its centre; pixels whose source lies outside are black (BATT; Xu
/// et al., 2023, `xu2023batt`).
///
/// \tparam kImage shape of the images; open extents are set by `.image`
template <ImageShape kImage = ImageShape{}>
struct Rotate {
  static constexpr ImageShape static_image = kImage;  ///< what is known of the shape at compile time

  ImageShape image = kImage;  ///< shape of the images; an open extent fits any
  double degrees = 16;        ///< angle, counter-clockwise, in [-180, 180]

  /// Returns the rotated images. Each pixel is that of the nearest source, which is the default of
  /// torchvision's `rotate`.
  ///
  /// \param images float N×C×H×W in [0, 1]
  /// \throws Error if `degrees` is out of range or the images' shape is not `image`
  at::Tensor apply(const at::Tensor& images) const {
    require_agreement(check_shape(image, data::image_shape_of(images)));
    if (!(degrees >= -180 && degrees <= 180)) {
      throw Error("Rotate.degrees must be in [-180, 180], got {}", degrees);
    }
    const std::int64_t n = images.size(0), height = images.size(2), width = images.size(3);
    const double angle = degrees * std::numbers::pi / 180, cosine = std::cos(angle), sine = std::sin(angle);
    // Maps each rotated pixel to its source. Both axes run from -1 to 1 whatever the sides, hence
    // the ratio.
    const double ratio = static_cast<double>(height) / static_cast<double>(width);
    const std::vector<double> to_source = {cosine, -sine * ratio, 0, sine / ratio, cosine, 0};
    const at::Tensor grid = at::affine_grid_generator(at::tensor(to_source).view({1, 2, 3}),
                                                      {1, 1, height, width}, /*align_corners=*/false);
    constexpr std::int64_t nearest = 1, zeros = 0;
    return at::grid_sampler(images, grid.to(images.device(), images.scalar_type()).expand({n, -1, -1, -1}),
                            nearest, zeros, /*align_corners=*/false);
  }
};

}  // namespace refine::triggers
