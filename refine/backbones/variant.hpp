#pragma once

#include <algorithm>

#include <refine/core/task.hpp>

namespace refine::backbones {

/// Selects between two networks that share a name.
enum class Variant {
  cifar,     ///< for images of about 32 pixels a side, as in the authors' code for CIFAR-10
  imagenet,  ///< for images of about 224 pixels a side, as in torchvision
};

/// Returns the variant for images of a shape: `imagenet` if the shorter side is known to have more
/// than 64 pixels, otherwise `cifar`.
/// \param image height and width may be `dynamic`; if only one is known, it decides
constexpr Variant variant_for(const ImageShape& image) {
  const int shorter = image.height == dynamic || image.width == dynamic ? std::max(image.height, image.width)
                                                                        : std::min(image.height, image.width);
  return shorter > 64 ? Variant::imagenet : Variant::cifar;
}

/// Describes the first layers of a residual network: a convolution, then optionally 3×3 max pooling
/// of stride 2. The weights alone do not show whether there is max pooling.
struct Stem {
  int kernel = 3;        ///< side of the convolution's kernel: 3 (with stride 1) or 7 (with stride 2)
  bool pooling = false;  ///< whether max pooling follows

  /// True if both members are equal.
  friend constexpr bool operator==(const Stem&, const Stem&) = default;
};

/// Returns the stem that a variant was published with: 3×3 without pooling for `cifar`, 7×7 with
/// pooling for `imagenet`.
constexpr Stem stem_of(Variant variant) {
  return variant == Variant::cifar ? Stem{.kernel = 3, .pooling = false} : Stem{.kernel = 7, .pooling = true};
}

}  // namespace refine::backbones
