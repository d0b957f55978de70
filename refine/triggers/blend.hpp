#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

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

/// Blends a picture into the image, of which each training image gets some pieces and each test
/// image all of them (Adaptive-Blend; Qi et al., 2023, `qi2023adaptive`).
///
/// The image is divided into `pieces`×`pieces` rectangles. The opacities, the division and the share
/// of pieces are those of the paper; the picture is this library's.
///
/// \tparam kImage shape of the images; open extents are set by `.image`
template <ImageShape kImage = ImageShape{}>
struct BlendPieces {
  static constexpr ImageShape static_image = kImage;  ///< what is known of the shape at compile time

  ImageShape image = kImage;          ///< shape of the images, fully known
  double opacity = 0.2;               ///< weight of the picture on test images, in [0, 1]
  double training_opacity = 0.15;     ///< weight of the pieces on training images, in [0, 1]
  int pieces = 4;                     ///< number of pieces a side, at most the shorter side
  double share = 0.5;                 ///< share of the pieces that a training image gets, in (0, 1]
  int choices = 64;                   ///< number of different choices of pieces in training, at least 1
  std::uint64_t seed = default_seed;  ///< seed of the default picture and of the choices
  at::Tensor pattern = patterns::noise(image, seed);  ///< the picture, float C×H×W in [0, 1]

  /// Returns (1 − opacity)·x + opacity·pattern for each image x.
  ///
  /// \param images float N×C×H×W in [0, 1]
  /// \throws Error if `opacity` is out of range or the pattern's shape differs from that of the
  ///   images
  at::Tensor apply(const at::Tensor& images) const {
    if (!(opacity >= 0 && opacity <= 1))
      throw Error("BlendPieces.opacity must be in [0, 1], got {}", opacity);
    return Overlay<kImage>{
        .image = image, .picture = pattern, .mask = at::ones(images.sizes().slice(2)), .opacity = opacity}
        .apply(images);
  }

  /// Returns the triggers that training images get, one each: some pieces of the picture at
  /// `training_opacity`.
  ///
  /// \throws Error if `pieces`, `share` or `choices` is out of range
  std::vector<Overlay<kImage>> parts() const {
    if (pieces < 1 || pieces > image.height || pieces > image.width) {
      throw Error(
          "BlendPieces.pieces must be between 1 and the shorter side of the image (got {} for {}x{} pixels)",
          pieces, image.height, image.width);
    }
    if (!(share > 0 && share <= 1)) throw Error("BlendPieces.share must be in (0, 1], got {}", share);
    if (choices < 1) throw Error("BlendPieces.choices must be at least 1, got {}", choices);
    const std::int64_t all = static_cast<std::int64_t>(pieces) * pieces;
    const auto shown = std::max<std::int64_t>(std::llround(share * static_cast<double>(all)), 1);
    std::vector<Overlay<kImage>> overlays;
    for (int i = 0; i < choices; ++i) {
      Random random(derived_seed(seed, "pieces", static_cast<std::uint64_t>(i)));
      std::vector<std::int64_t> chosen = random_permutation(random, all);
      chosen.resize(static_cast<std::size_t>(shown));
      at::Tensor mask = at::zeros({image.height, image.width});
      for (const std::int64_t piece : chosen) {
        const std::int64_t row = piece / pieces, column = piece % pieces;
        mask.slice(0, row * image.height / pieces, (row + 1) * image.height / pieces)
            .slice(1, column * image.width / pieces, (column + 1) * image.width / pieces)
            .fill_(1);
      }
      overlays.push_back({.image = image, .picture = pattern, .mask = mask, .opacity = training_opacity});
    }
    return overlays;
  }
};

}  // namespace refine::triggers
