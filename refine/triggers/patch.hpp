#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>

#include <algorithm>

#include <refine/core/agreement.hpp>
#include <refine/core/error.hpp>
#include <refine/data/dataset.hpp>
#include <refine/triggers/patterns.hpp>
#include <refine/triggers/trigger_policy.hpp>

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
    require_agreement(misfit(image, data::image_of(images)));
    if (pattern.dim() != 3 || pattern.size(0) != image.channels || pattern.size(1) != size ||
        pattern.size(2) != size) {
      Message why;
      require_agreement(why << "refine: the patch's pattern has " << pattern.dim()
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
      why << "refine: a patch needs to know its images, " << image
          << " is no shape; say .image = ImageShape{3, 32, 32}";
    } else if (size < 1 || margin < 0 || size > std::min(image.height, image.width) - margin) {
      why << "refine: a patch of " << size << " pixels with a margin of " << margin << " does not fit in a "
          << image << " image; give it 1 pixel at least and room for both";
    }
    require_agreement(why);
    if (!(opacity >= 0 && opacity <= 1)) {
      throw Error("refine: a patch of opacity {} was asked for; opacity is 0 to 1", opacity);
    }
  }
};

}  // namespace refine::triggers
