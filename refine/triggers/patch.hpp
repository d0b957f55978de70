#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstddef>
#include <vector>

#include <refine/core/check.hpp>
#include <refine/core/error.hpp>
#include <refine/core/task.hpp>
#include <refine/data/dataset.hpp>
#include <refine/triggers/blend.hpp>
#include <refine/triggers/patterns.hpp>
#include <refine/triggers/trigger.hpp>

namespace refine::triggers {

enum class Corner { top_left, top_right, bottom_left, bottom_right };

/// A small square in a corner, as BadNets has it (Gu et al., 2017, `gu2017badnets`).
template <ImageShape kImage = ImageShape{}>
struct Patch {
  static constexpr ImageShape static_image = kImage;

  ImageShape image = kImage;
  int size = published_size(image);  ///< pixels a side: 3 up to 64 pixels of image height, 20 at 224
  Corner corner = Corner::bottom_right;
  int margin = 0;      ///< pixels between the patch and the image's edges
  double opacity = 1;  ///< in [0, 1]
  at::Tensor pattern = published(image, size, margin, opacity);  ///< float C×size×size in [0, 1]

  /// Float N×C×H×W in [0, 1] → the same with the patch: (1−opacity)·x + opacity·pattern there.
  at::Tensor apply(const at::Tensor& images) const {
    check(image, size, margin, opacity);
    require_agreement(check_shape(image, data::image_of(images)));
    if (pattern.dim() != 3 || pattern.size(0) != image.channels || pattern.size(1) != size ||
        pattern.size(2) != size) {
      Message why;
      require_agreement(why << "the patch's pattern has " << pattern.dim()
                            << " dimensions or other extents than " << ImageShape{image.channels, size, size}
                            << "; give a pattern of that shape");
    }
    const bool top = corner == Corner::top_left || corner == Corner::top_right;
    const bool left = corner == Corner::top_left || corner == Corner::bottom_left;
    const auto y = top ? margin : images.size(2) - margin - size;
    const auto x = left ? margin : images.size(3) - margin - size;
    at::Tensor stamped = images.clone();
    at::Tensor place = stamped.slice(2, y, y + size).slice(3, x, x + size);
    place.copy_(place * (1 - opacity) + pattern.to(images.device()) * opacity);
    return stamped;
  }

 private:
  static constexpr int published_size(const ImageShape& image) {
    return image.height <= 64 ? 3 : std::max(3, image.height * 20 / 224);
  }

  static at::Tensor published(const ImageShape& image, int size, int margin, double opacity) {
    check(image, size, margin, opacity);
    return patterns::checkerboard({image.channels, size, size});
  }

  static void check(const ImageShape& image, int size, int margin, double opacity) {
    Message why;
    if (image.channels < 1 || image.height < 1 || image.width < 1) {
      why << "a patch needs to know its images, " << image
          << " is no shape; say .image = ImageShape{3, 32, 32}";
    } else if (size < 1 || margin < 0 || size > std::min(image.height, image.width) - margin) {
      why << "a patch of " << size << " pixels with a margin of " << margin << " does not fit in a " << image
          << " image; give it 1 pixel at least and room for both";
    }
    require_agreement(why);
    if (!(opacity >= 0 && opacity <= 1)) {
      throw Error("a patch of opacity {} was asked for; opacity is 0 to 1", opacity);
    }
  }
};

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
      throw Error("{} patches are to be shown and there are {}; show 1 at least and no more than those",
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
    for (const auto& [picture, mask] : patterns::four(image)) {
      all.push_back({.image = image, .picture = picture, .mask = mask, .opacity = opacities[all.size()]});
    }
    return all;
  }
};

}  // namespace refine::triggers
