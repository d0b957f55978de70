#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>

#include <refine/core/error.hpp>
#include <refine/core/image_shape.hpp>

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
      throw Error("refine: an overlay of opacity {} was asked for; opacity is 0 to 1", opacity);
    }
    if (!picture.defined() || picture.sizes() != images.sizes().slice(1)) {
      throw Error(
          "refine: the overlay's picture has another shape than the images; give a picture of the images' "
          "C×H×W");
    }
    if (!mask.defined() || mask.sizes() != picture.sizes().slice(1)) {
      throw Error(
          "refine: the overlay's mask has another shape than its picture; give a mask of the images' H×W");
    }
    const at::Tensor weight = mask.to(images.device()) * opacity;
    return images * (1 - weight) + picture.to(images.device()) * weight;
  }
};

}  // namespace refine::triggers
