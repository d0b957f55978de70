#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/grid_sampler.h>
#include <ATen/ops/linspace.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/upsample_bicubic2d.h>

#include <cstdint>
#include <vector>

#include <refine/core/check.hpp>
#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/data/dataset.hpp>
#include <refine/triggers/detail/shape_text.hpp>
#include <refine/triggers/patterns.hpp>
#include <refine/triggers/trigger.hpp>

namespace refine::triggers {

/// Returns the sampling grid of a warp: the source of each pixel.
///
/// The control points are scaled to a mean absolute value of 1, up-sampled bicubically to H×W,
/// multiplied by `strength`/W (x) and `strength`/H (y), and added to the identity.
///
/// \param control float 2×k×k: the displacement of each control point, x before y; not all 0
/// \param image shape of the images; height and width must be known
/// \param strength factor of the displacements
/// \return float 1×H×W×2, x before y, each from −1 (centre of the first pixel) to 1 (centre of the
///   last), as `grid_sample` with aligned corners takes it
/// \throws Error if `control` has another shape or is all 0
inline at::Tensor warping_grid(const at::Tensor& control, const ImageShape& image, double strength) {
  if (control.dim() != 3 || control.size(0) != 2 || !(control.abs().mean().item<double>() > 0)) {
    throw Error("warping_grid: control must be 2×k×k and not all 0 (got {}); give such a tensor",
                detail::shape_text(control));
  }
  const at::Tensor scaled = (control / control.abs().mean()).unsqueeze(0);
  const at::Tensor displacements =
      at::upsample_bicubic2d(scaled, {image.height, image.width}, /*align_corners=*/true)
          .permute({0, 2, 3, 1});
  const at::Tensor x = at::linspace(-1, 1, image.width).view({1, -1}).expand({image.height, image.width});
  const at::Tensor y = at::linspace(-1, 1, image.height).view({-1, 1}).expand({image.height, image.width});
  const at::Tensor size = at::tensor(std::vector<float>{float(image.width), float(image.height)});
  return (at::stack({x, y}, 2).unsqueeze(0) + displacements * strength / size).clamp(-1, 1).contiguous();
}

/// Warps the whole image smoothly and faintly, each image alike (WaNet; Nguyen and Tran, 2021,
/// `nguyen2021wanet`).
///
/// The grid is drawn from `seed` when the trigger is made, so that training and evaluation use the
/// same one.
///
/// \tparam kImage shape of the images; open extents are set by `.image`
template <ImageShape kImage = ImageShape{}>
struct Warp {
  static constexpr ImageShape static_image = kImage;  ///< what is known of the shape at compile time

  ImageShape image = kImage;  ///< shape of the images, fully known
  int control_points = 4;     ///< number a side, from 2 to the image's shorter side
  /// Positive, at most the shorter side. A control point moves by half as many pixels on average.
  double strength = 0.5;
  std::uint64_t seed = default_seed;                                   ///< seed of the control points
  at::Tensor grid = draw_grid(image, control_points, strength, seed);  ///< float 1×H×W×2, see `warping_grid`

  /// Returns the warped images, interpolated bilinearly.
  ///
  /// \param images float N×C×H×W in [0, 1]
  /// \throws Error if the images' shape is not `image` or does not fit the grid
  at::Tensor apply(const at::Tensor& images) const {
    if (images.dim() != 4 || grid.dim() != 4 || grid.size(0) != 1 || grid.size(1) != images.size(2) ||
        grid.size(2) != images.size(3) || grid.size(3) != 2) {
      throw Error(
          "Warp.grid: wrong shape (got {} for images of {}, expected 1×H×W×2); give the warp a grid of that size",
          detail::shape_text(grid), detail::shape_text(images));
    }
    require_agreement(check_shape(image, data::image_shape_of(images)));
    constexpr std::int64_t bilinear = 0, border = 1;
    const at::Tensor grids =
        grid.to(images.device(), images.scalar_type()).expand({images.size(0), -1, -1, -1});
    // The four bilinear weights may add up to slightly more than 1.
    return at::grid_sampler(images, grids, bilinear, border, /*align_corners=*/true).clamp(0, 1);
  }

 private:
  static at::Tensor draw_grid(const ImageShape& image, int control_points, double strength,
                              std::uint64_t seed) {
    Message why;
    if (image.channels < 1 || image.height < 1 || image.width < 1) {
      why << "Warp needs a fully known image shape, got " << image << "; set .image = ImageShape{3, 32, 32}";
    } else if (control_points < 2 || control_points > image.height || control_points > image.width) {
      why << "Warp.control_points must be between 2 and the shorter side of the image (got " << control_points
          << " for " << image << " images)";
    }
    require_agreement(why);
    if (!(strength > 0 && strength <= image.height && strength <= image.width)) {
      throw Error("Warp.strength must be positive and at most the shorter side of the image, got {}",
                  strength);
    }
    return warping_grid(patterns::noise({2, control_points, control_points}, seed) * 2 - 1, image, strength);
  }
};

/// Returns the warp with the source of every pixel displaced at random, as the noise mode of WaNet
/// does (Nguyen and Tran, 2021, `nguyen2021wanet`).
///
/// Displacements are uniform, by up to half a pixel in x and in y: ±1/W and ±1/H in coordinates of
/// the grid, clamped to the image.
///
/// \param warp the warp to start from
/// \param seed the same seed gives the same displacements
template <ImageShape kImage>
Warp<kImage> perturbed_warp(Warp<kImage> warp, std::uint64_t seed) {
  const auto height = static_cast<int>(warp.grid.size(1)), width = static_cast<int>(warp.grid.size(2));
  const at::Tensor size = at::tensor(std::vector<float>{float(width), float(height)});
  const at::Tensor noise = patterns::noise({2, height, width}, derived_seed(seed, "disturbed warp"));
  const at::Tensor displacements = (noise * 2 - 1).permute({1, 2, 0}) / size;
  warp.grid = (warp.grid + displacements.unsqueeze(0)).clamp(-1, 1).contiguous();
  return warp;
}

}  // namespace refine::triggers
