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
#include <refine/triggers/patterns.hpp>
#include <refine/triggers/trigger.hpp>

namespace refine::triggers {

/// Where each pixel of a warped image comes from: float 1×H×W×2, x before y, each −1 to 1 from the first
/// pixel's centre to the last's (`grid_sample` with aligned corners). The identity plus the control points,
/// scaled to a mean size of 1, up-sampled bicubically to H×W and multiplied by `strength`/W (x) and
/// `strength`/H (y). \param control float 2×k×k: how far each control point moves, x before y; not all 0
/// \param image with H and W known
/// \throws Error when the control points have another shape or do not move
inline at::Tensor warping_grid(const at::Tensor& control, const ImageShape& image, double strength) {
  if (control.dim() != 3 || control.size(0) != 2 || !(control.abs().mean().item<double>() > 0)) {
    throw Error("a warping grid is made of 2×k×k control points that are not all 0; give such a tensor");
  }
  const at::Tensor scaled = (control / control.abs().mean()).unsqueeze(0);
  const at::Tensor moves = at::upsample_bicubic2d(scaled, {image.height, image.width}, /*align_corners=*/true)
                               .permute({0, 2, 3, 1});
  const at::Tensor x = at::linspace(-1, 1, image.width).view({1, -1}).expand({image.height, image.width});
  const at::Tensor y = at::linspace(-1, 1, image.height).view({-1, 1}).expand({image.height, image.width});
  const at::Tensor size = at::tensor(std::vector<float>{float(image.width), float(image.height)});
  return (at::stack({x, y}, 2).unsqueeze(0) + moves * strength / size).clamp(-1, 1).contiguous();
}

/// A smooth, faint warping of the whole image, the same for every image (WaNet; Nguyen and Tran, 2021,
/// `nguyen2021wanet`). The grid is drawn when the trigger is made, from `seed`: training and evaluation warp
/// alike.
template <ImageShape kImage = ImageShape{}>
struct Warp {
  static constexpr ImageShape static_image = kImage;

  ImageShape image = kImage;
  int control_points = 4;  ///< a side; 2 to the image's shorter side
  double strength =
      0.5;  ///< above 0, at most the shorter side; a control point moves half as many pixels on average
  std::uint64_t seed = default_seed;                               ///< of the control points
  at::Tensor grid = drawn(image, control_points, strength, seed);  ///< float 1×H×W×2, see `warping_grid`

  /// Float N×C×H×W in [0, 1] → the same, warped; bilinear between pixels.
  at::Tensor apply(const at::Tensor& images) const {
    if (images.dim() != 4 || grid.dim() != 4 || grid.size(0) != 1 || grid.size(1) != images.size(2) ||
        grid.size(2) != images.size(3) || grid.size(3) != 2) {
      throw Error("the warping grid is made for images of another size; give a grid of 1×H×W×2");
    }
    require_agreement(check_shape(image, data::image_of(images)));
    constexpr std::int64_t bilinear = 0, border = 1;
    const at::Tensor here =
        grid.to(images.device(), images.scalar_type()).expand({images.size(0), -1, -1, -1});
    // Four weights may add up to a little more than 1.
    return at::grid_sampler(images, here, bilinear, border, /*align_corners=*/true).clamp(0, 1);
  }

 private:
  static at::Tensor drawn(const ImageShape& image, int control_points, double strength, std::uint64_t seed) {
    Message why;
    if (image.channels < 1 || image.height < 1 || image.width < 1) {
      why << "a warp needs to know its images, " << image
          << " is no shape; say .image = ImageShape{3, 32, 32}";
    } else if (control_points < 2 || control_points > image.height || control_points > image.width) {
      why << "a warp of " << control_points << " control points a side was asked for on a " << image
          << " image; give it 2 to the shorter side";
    }
    require_agreement(why);
    if (!(strength > 0 && strength <= image.height && strength <= image.width)) {
      throw Error("a warp of strength {} was asked for; it is above 0, at most the shorter side", strength);
    }
    return warping_grid(patterns::noise({2, control_points, control_points}, seed) * 2 - 1, image, strength);
  }
};

/// The warp with every pixel's source moved besides, by up to one pixel's half either way across and down
/// (uniform(−1, 1)/W and /H in grid coordinates, clamped to the image): the noise mode of WaNet (Nguyen and
/// Tran, 2021, `nguyen2021wanet`), as one of its draws. The same seed, the same draw.
template <ImageShape kImage>
Warp<kImage> perturbed_warp(Warp<kImage> warp, std::uint64_t seed) {
  const auto height = static_cast<int>(warp.grid.size(1)), width = static_cast<int>(warp.grid.size(2));
  const at::Tensor size = at::tensor(std::vector<float>{float(width), float(height)});
  const at::Tensor moves =
      (patterns::noise({2, height, width}, derived_seed(seed, "disturbed warp")) * 2 - 1).permute({1, 2, 0}) /
      size;
  warp.grid = (warp.grid + moves.unsqueeze(0)).clamp(-1, 1).contiguous();
  return warp;
}

}  // namespace refine::triggers
