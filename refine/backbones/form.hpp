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

}  // namespace refine::backbones
