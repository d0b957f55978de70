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
#include <refine/triggers/detail/shape_text.hpp>
#include <refine/triggers/patterns.hpp>
#include <refine/triggers/trigger.hpp>

namespace refine::triggers {

/// The corner of the image where a patch is stamped.
enum class Corner {
  top_left,      ///< first row, first column
  top_right,     ///< first row, last column
  bottom_left,   ///< last row, first column
  bottom_right,  ///< last row, last column
};

/// Stamps a small square into a corner, as BadNets does (Gu et al., 2017, `gu2017badnets`).
///
/// \tparam kImage shape of the images; open extents are set by `.image`
template <ImageShape kImage = ImageShape{}>
struct Patch {
  static constexpr ImageShape static_image = kImage;  ///< what is known of the shape at compile time

  ImageShape image = kImage;             ///< shape of the images, fully known
  int size = default_size(image);        ///< pixels a side; 3 up to a height of 64, height·20/224 above
  Corner corner = Corner::bottom_right;  ///< where the patch is stamped
  int margin = 0;                        ///< pixels between the patch and the edges of its corner
  double opacity = 1;                    ///< weight of the pattern, in [0, 1]
  at::Tensor pattern = default_pattern(image, size, margin, opacity);  ///< float C×size×size in [0, 1]

  /// Returns the images with (1 − opacity)·x + opacity·pattern inside the patch.
  ///
  /// \param images float N×C×H×W in [0, 1]
  /// \throws Error if a field is out of range, the images' shape is not `image`, or the pattern's
  ///   shape is not C×size×size
  at::Tensor apply(const at::Tensor& images) const {
    check(image, size, margin, opacity);
    require_agreement(check_shape(image, data::image_shape_of(images)));
    if (pattern.dim() != 3 || pattern.size(0) != image.channels || pattern.size(1) != size ||
        pattern.size(2) != size) {
      Message why;
      why << "Patch.pattern: wrong shape (got " << detail::shape_text(pattern) << ", expected "
          << ImageShape{image.channels, size, size} << "); set it to a picture of that shape";
      require_agreement(why);
    }
    const bool top = corner == Corner::top_left || corner == Corner::top_right;
    const bool left = corner == Corner::top_left || corner == Corner::bottom_left;
    const auto y = top ? margin : images.size(2) - margin - size;
    const auto x = left ? margin : images.size(3) - margin - size;
    at::Tensor stamped = images.clone();
    at::Tensor inside = stamped.slice(2, y, y + size).slice(3, x, x + size);
    inside.copy_(inside * (1 - opacity) + pattern.to(images.device()) * opacity);
    return stamped;
  }

 private:
  static constexpr int default_size(const ImageShape& image) {
    return image.height <= 64 ? 3 : std::max(3, image.height * 20 / 224);
  }

  static at::Tensor default_pattern(const ImageShape& image, int size, int margin, double opacity) {
    check(image, size, margin, opacity);
    return patterns::checkerboard({image.channels, size, size});
  }

  static void check(const ImageShape& image, int size, int margin, double opacity) {
    Message why;
    if (image.channels < 1 || image.height < 1 || image.width < 1) {
      why << "Patch needs a fully known image shape, got " << image << "; set .image = ImageShape{3, 32, 32}";
    } else if (size < 1 || margin < 0 || size > std::min(image.height, image.width) - margin) {
      why << "Patch does not fit into a " << image << " image (size " << size << ", margin " << margin
          << "); set .size >= 1 and .margin >= 0, together at most the shorter side";
    }
    require_agreement(why);
    if (!(opacity >= 0 && opacity <= 1)) throw Error("Patch.opacity must be in [0, 1], got {}", opacity);
  }
};

/// Several patches, of which each training image gets one and each test image the first few
/// together (Adaptive-Patch; Qi et al., 2023, `qi2023adaptive`).
///
/// The default has four patches and the opacities of the paper; the pictures are this library's
/// (`patterns::adaptive_patches`).
///
/// \tparam kImage shape of the images; open extents are set by `.image`
template <ImageShape kImage = ImageShape{}>
struct Patches {
  static constexpr ImageShape static_image = kImage;  ///< what is known of the shape at compile time

  ImageShape image = kImage;                                        ///< shape of the images, fully known
  std::vector<Overlay<kImage>> overlays = default_overlays(image);  ///< each with its opacity in training
  int shown = 2;  ///< number of overlays on a test image, counted from the first; at least 1

  /// Returns the images with the first `shown` overlays on them, laid on in turn at opacity 1.
  ///
  /// \param images float N×C×H×W in [0, 1]
  /// \throws Error if there are fewer than `shown` overlays, `shown` is below 1, or an overlay does
  ///   not fit the images
  at::Tensor apply(const at::Tensor& images) const {
    if (shown < 1 || static_cast<std::size_t>(shown) > overlays.size()) {
      throw Error("Patches.shown must be between 1 and the number of overlays (got {}, with {} overlays)",
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

  /// Returns the triggers that training images get, one each: a single overlay at its own opacity.
  std::vector<Overlay<kImage>> parts() const { return overlays; }

 private:
  static std::vector<Overlay<kImage>> default_overlays(const ImageShape& image) {
    constexpr double opacities[] = {0.5, 0.5, 0.2, 0.3};
    std::vector<Overlay<kImage>> all;
    for (const auto& [picture, mask] : patterns::adaptive_patches(image)) {
      all.push_back({.image = image, .picture = picture, .mask = mask, .opacity = opacities[all.size()]});
    }
    return all;
  }
};

}  // namespace refine::triggers
