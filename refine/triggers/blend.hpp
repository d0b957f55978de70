#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>

#include <cstdint>

#include <refine/core/check.hpp>
#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/triggers/patterns.hpp>

namespace refine::triggers {

/// A picture laid over the image where its mask is set.
template <ImageShape kImage = ImageShape{}>
struct Overlay {
  static constexpr ImageShape static_image = kImage;

  ImageShape image = kImage;
  at::Tensor picture = {};  ///< float C×H×W in [0, 1]
  at::Tensor mask = {};     ///< float H×W in [0, 1]: where the picture is
  double opacity = 1;       ///< in [0, 1]

  /// Float N×C×H×W in [0, 1] → (1−opacity·mask)·x + opacity·mask·picture.
  at::Tensor apply(const at::Tensor& images) const {
    if (!(opacity >= 0 && opacity <= 1)) {
      throw Error("an overlay of opacity {} was asked for; opacity is 0 to 1", opacity);
    }
    if (!picture.defined() || picture.sizes() != images.sizes().slice(1)) {
      throw Error(
          "the overlay's picture has another shape than the images; give a picture of the images' "
          "C×H×W");
    }
    if (!mask.defined() || mask.sizes() != picture.sizes().slice(1)) {
      throw Error("the overlay's mask has another shape than its picture; give a mask of the images' H×W");
    }
    const at::Tensor weight = mask.to(images.device()) * opacity;
    return images * (1 - weight) + picture.to(images.device()) * weight;
  }
};

/// A faint picture over the whole image (Chen et al., 2017, `chen2017blended`).
template <ImageShape kImage = ImageShape{}>
struct Blend {
  static constexpr ImageShape static_image = kImage;

  ImageShape image = kImage;
  double opacity = 0.1;                               ///< in [0, 1]
  std::uint64_t seed = default_seed;                  ///< of the noise picture
  at::Tensor pattern = patterns::noise(image, seed);  ///< float C×H×W in [0, 1]

  /// Float N×C×H×W in [0, 1] → (1−opacity)·x + opacity·pattern.
  at::Tensor apply(const at::Tensor& images) const {
    if (!(opacity >= 0 && opacity <= 1)) {
      throw Error("a blend of opacity {} was asked for; opacity is 0 to 1", opacity);
    }
    if (pattern.sizes() != images.sizes().slice(1)) {
      throw Error(
          "the blended picture has another shape than the images; give a pattern of the images' "
          "C×H×W");
    }
    return images * (1 - opacity) + pattern.to(images.device()) * opacity;
  }
};

}  // namespace refine::triggers
