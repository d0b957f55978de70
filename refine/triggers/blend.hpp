#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>

#include <cstdint>

#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/triggers/detail/shape_text.hpp>
#include <refine/triggers/patterns.hpp>

namespace refine::triggers {

/// Blends one faint picture into the whole image (Chen et al., 2017, `chen2017blended`).
///
/// \tparam kImage shape of the images; open extents are set by `.image`
template <ImageShape kImage = ImageShape{}>
struct Blend {
  static constexpr ImageShape static_image = kImage;  ///< what is known of the shape at compile time

  ImageShape image = kImage;                          ///< shape of the images, fully known
  double opacity = 0.1;                               ///< weight of the picture, in [0, 1]
  std::uint64_t seed = default_seed;                  ///< seed of the default picture
  at::Tensor pattern = patterns::noise(image, seed);  ///< the picture, float C×H×W in [0, 1]

  /// Returns (1 − opacity)·x + opacity·pattern for each image x.
  ///
  /// \param images float N×C×H×W in [0, 1]
  /// \throws Error if `opacity` is out of range or the pattern's shape differs from that of the
  ///   images
  at::Tensor apply(const at::Tensor& images) const {
    if (!(opacity >= 0 && opacity <= 1)) throw Error("Blend.opacity must be in [0, 1], got {}", opacity);
    const at::IntArrayRef shape = images.sizes().slice(1);
    if (pattern.sizes() != shape) {
      throw Error(
          "Blend.pattern: wrong shape (got {}, expected {} as the images); set it to a picture of that shape",
          detail::shape_text(pattern), detail::shape_text(shape));
    }
    return images * (1 - opacity) + pattern.to(images.device()) * opacity;
  }
};

/// Lays a picture over the image wherever a mask is set.
///
/// \tparam kImage shape of the images; open extents are set by `.image`
template <ImageShape kImage = ImageShape{}>
struct Overlay {
  static constexpr ImageShape static_image = kImage;  ///< what is known of the shape at compile time

  ImageShape image = kImage;  ///< shape of the images
  at::Tensor picture = {};    ///< float C×H×W in [0, 1]
  at::Tensor mask = {};       ///< float H×W in [0, 1]: weight of the picture at each pixel
  double opacity = 1;         ///< factor of the mask, in [0, 1]

  /// Returns (1 − opacity·mask)·x + opacity·mask·picture for each image x.
  ///
  /// \param images float N×C×H×W in [0, 1]
  /// \throws Error if `opacity` is out of range, or if the shape of the picture or of the mask
  ///   differs from that of the images
  at::Tensor apply(const at::Tensor& images) const {
    if (!(opacity >= 0 && opacity <= 1)) throw Error("Overlay.opacity must be in [0, 1], got {}", opacity);
    const at::IntArrayRef shape = images.sizes().slice(1);
    if (!picture.defined() || picture.sizes() != shape) {
      throw Error(
          "Overlay.picture: wrong shape (got {}, expected {} as the images); set it to a picture of that shape",
          detail::shape_text(picture), detail::shape_text(shape));
    }
    if (!mask.defined() || mask.sizes() != shape.slice(1)) {
      throw Error(
          "Overlay.mask: wrong shape (got {}, expected {} as the picture); set it to a mask of that shape",
          detail::shape_text(mask), detail::shape_text(shape.slice(1)));
    }
    const at::Tensor weight = mask.to(images.device()) * opacity;
    return images * (1 - weight) + picture.to(images.device()) * weight;
  }
};

}  // namespace refine::triggers
