#pragma once

#include <ATen/core/Tensor.h>
#include <refine/core/error.hpp>

#include <cstdint>

namespace refine::data {

/// What happens to an image of another size than the wanted one.
enum class Fit {
  exact,    ///< it is refused
  crop,     ///< shrunk or stretched, its ratio kept, until it just covers the wanted size; then its middle
  stretch,  ///< to the wanted height and width, whatever its ratio was
};

/// `images` at another size: antialiased bilinear, as torchvision's `Resize` does it on tensors. Float on any
/// device, or uint8 on the host (rounded between the two passes, as Pillow does), N×C×H×W; the same type out.
/// The result is `images` themselves when they have that size. \throws Error when the images have other
/// dimensions or a size is less than 1
at::Tensor resized(const at::Tensor& images, std::int64_t height, std::int64_t width);

/// `images` (as in `resized`) at height×width by `fit`. For a square, `Fit::crop` is torchvision's
/// `Resize(size)` and `CenterCrop(size)` with their rounding: the longer side is rounded down, and a middle
/// between two pixels goes to the even one. The result may be a view. \throws Error as `resized`, and for
/// `Fit::exact` when the size is another.
at::Tensor fitted(const at::Tensor& images, Fit fit, std::int64_t height, std::int64_t width);

}  // namespace refine::data

#if !defined(REFINE_COMPILED)
#include <refine/data/resize_definitions.hpp>
#endif
