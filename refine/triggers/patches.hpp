#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstddef>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/core/image_shape.hpp>
#include <refine/triggers/figures.hpp>
#include <refine/triggers/overlay.hpp>

namespace refine::triggers {

/// Several patches, learnt one an image and shown together (Adaptive-Patch; Qi et al., 2023,
/// `qi2023adaptive`). The pictures are our own, the number and the opacities the published ones.
template <ImageShape kImage = ImageShape{}>
struct Patches {
  static constexpr ImageShape static_image = kImage;

  ImageShape image = kImage;
  std::vector<Overlay<kImage>> overlays = published(image);  ///< each with its opacity in training
  int shown = 2;  ///< so many of them, from the first, are on a test image, at opacity 1

  /// Float N×C×H×W in [0, 1] → the same with the first `shown` patches, opaque, in turn.
  at::Tensor apply(const at::Tensor& images) const {
    if (shown < 1 || static_cast<std::size_t>(shown) > overlays.size()) {
      throw Error(
          "refine: {} patches are to be shown and there are {}; show 1 at least and no more than those",
          shown, overlays.size());
    }
    at::Tensor stamped = images;
    for (int i = 0; i < shown; ++i) {
      Overlay<kImage> opaque = overlays[static_cast<std::size_t>(i)];
      opaque.opacity = 1;
      stamped = opaque.apply(stamped);
    }
    return stamped;
  }

  /// What training images get, one of them each: a patch alone, at its own opacity.
  std::vector<Overlay<kImage>> parts() const { return overlays; }

 private:
  static std::vector<Overlay<kImage>> published(const ImageShape& image) {
    constexpr double opacities[] = {0.5, 0.5, 0.2, 0.3};
    std::vector<Overlay<kImage>> all;
    for (const auto& [picture, mask] : figures::four(image)) {
      all.push_back({.image = image, .picture = picture, .mask = mask, .opacity = opacities[all.size()]});
    }
    return all;
  }
};

}  // namespace refine::triggers
