#pragma once

#include <algorithm>

#include <refine/core/image_shape.hpp>

namespace refine::backbones {

/// Two networks that go by one name.
enum class Form {
  small,  ///< for images of about 32 pixels, as the reference has it for CIFAR-10
  large,  ///< for images of about 224 pixels, as torchvision has it
};

/// The form for images of this shape: large where the shorter side is known to be of more than 64 pixels.
constexpr Form form_for(const ImageShape& image) {
  const int shorter = image.height == dynamic || image.width == dynamic ? std::max(image.height, image.width)
                                                                        : std::min(image.height, image.width);
  return shorter > 64 ? Form::large : Form::small;
}

/// How a residual network begins: a convolution of 3×3 pixels with stride 1, or of 7×7 with stride 2; then
/// 3×3 max pooling with stride 2, or none, which no tensor tells.
struct Stem {
  int kernel = 3;  ///< 3 or 7 pixels a side
  bool pooling = false;

  friend constexpr bool operator==(const Stem&, const Stem&) = default;
};

/// The stem that a form was published with.
constexpr Stem stem_of(Form form) {
  return form == Form::small ? Stem{.kernel = 3, .pooling = false} : Stem{.kernel = 7, .pooling = true};
}

/// The shorter side of the smallest images that are left at 1 pixel or more behind a stem and three strides.
constexpr int least_side(const Stem& stem) {
  return 8 * (stem.kernel == 7 ? 2 : 1) * (stem.pooling ? 2 : 1);
}

}  // namespace refine::backbones
