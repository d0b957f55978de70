#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>

#include <cstdint>

#include <refine/core/agreement.hpp>
#include <refine/core/error.hpp>
#include <refine/core/seed.hpp>
#include <refine/triggers/patterns.hpp>

namespace refine::triggers {

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
      throw Error("refine: a blend of opacity {} was asked for; opacity is 0 to 1", opacity);
    }
    if (pattern.sizes() != images.sizes().slice(1)) {
      throw Error(
          "refine: the blended picture has another shape than the images; give a pattern of the images' "
          "C×H×W");
    }
    return images * (1 - opacity) + pattern.to(images.device()) * opacity;
  }
};

}  // namespace refine::triggers
