#pragma once

#include <ATen/core/Tensor.h>
#include <refine/core/error.hpp>

#include <cstdint>

namespace refine::data {

/// What happens to an image of another size than the wanted one: `Fit::exact`, `Fit::crop`, `Fit::stretch` or
/// `Fit::resize_crop(256)`.
struct Fit {
  enum class Kind : std::uint8_t {
    exact,    ///< it is refused
    crop,     ///< it is resized, its ratio kept, and its middle is taken
    stretch,  ///< it is resized to the wanted height and width, whatever its ratio was
  };

  Kind kind = Kind::exact;
  /// Of `crop`: what the shorter side is resized to before the middle is taken; 0: just enough to cover the
  /// wanted size
  int shorter_side = 0;

  static const Fit exact, crop, stretch;

  /// Torchvision's `Resize(shorter_side)` and `CenterCrop`. Images that have the wanted size are resized, too.
  static constexpr Fit resize_crop(int shorter_side) { return {Kind::crop, shorter_side}; }

  friend constexpr bool operator==(const Fit&, const Fit&) = default;
};

inline constexpr Fit Fit::exact{Fit::Kind::exact, 0};
inline constexpr Fit Fit::crop{Fit::Kind::crop, 0};
inline constexpr Fit Fit::stretch{Fit::Kind::stretch, 0};

/// `images` at another size: antialiased bilinear, as torchvision's `Resize` does it on tensors. Float on any
/// device, or uint8 on the host (rounded between the two passes, as Pillow does), N×C×H×W; the same type out.
/// The result is `images` themselves when they have that size. \throws Error when the images have other
/// dimensions or a size is less than 1
at::Tensor resized(const at::Tensor& images, std::int64_t height, std::int64_t width);

/// `images` (as in `resized`) at height×width by `fit`. For a square, `Fit::crop` is torchvision's
/// `Resize(size)` and `CenterCrop(size)` with their rounding: the longer side is rounded down, and a middle
/// between two pixels goes to the even one. The result may be a view. \throws Error as `resized`, for
/// `Fit::exact` when the size is another, and for `Fit::resize_crop` when its side is shorter than the wanted
/// size.
at::Tensor fitted(const at::Tensor& images, Fit fit, std::int64_t height, std::int64_t width);

}  // namespace refine::data

#if !defined(REFINE_COMPILED)
#include <refine/data/resize_definitions.hpp>
#endif
