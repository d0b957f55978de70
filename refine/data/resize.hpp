#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/_upsample_bilinear2d_aa.h>

#include <algorithm>
#include <cstdint>

#include <refine/core/error.hpp>

namespace refine::data {

/// What happens to an image of another size than the wanted one: `ResizeMode::exact`, `ResizeMode::crop`, `ResizeMode::stretch` or
/// `ResizeMode::resize_crop(256)`.
struct ResizeMode {
  enum class Kind : std::uint8_t {
    exact,    ///< it is refused
    crop,     ///< it is resized, its ratio kept, and its middle is taken
    stretch,  ///< it is resized to the wanted height and width, whatever its ratio was
  };

  Kind kind = Kind::exact;
  /// Of `crop`: what the shorter side is resized to before the middle is taken; 0: just enough to cover the
  /// wanted size
  int shorter_side = 0;

  static const ResizeMode exact, crop, stretch;

  /// Torchvision's `Resize(shorter_side)` and `CenterCrop`. Images that have the wanted size are resized, too.
  static constexpr ResizeMode resize_crop(int shorter_side) { return {Kind::crop, shorter_side}; }

  friend constexpr bool operator==(const ResizeMode&, const ResizeMode&) = default;
};

inline constexpr ResizeMode ResizeMode::exact{ResizeMode::Kind::exact, 0};
inline constexpr ResizeMode ResizeMode::crop{ResizeMode::Kind::crop, 0};
inline constexpr ResizeMode ResizeMode::stretch{ResizeMode::Kind::stretch, 0};

/// `images` at another size: antialiased bilinear, as torchvision's `Resize` does it on tensors. Float on any
/// device, or uint8 on the host (rounded between the two passes, as Pillow does), N×C×H×W; the same type out.
/// The result is `images` themselves when they have that size. \throws Error when the images have other
/// dimensions or a size is less than 1
at::Tensor resize(const at::Tensor& images, std::int64_t height, std::int64_t width);

/// `images` (as in `resize`) at height×width by `fit`. For a square, `ResizeMode::crop` is torchvision's
/// `Resize(size)` and `CenterCrop(size)` with their rounding: the longer side is rounded down, and a middle
/// between two pixels goes to the even one. The result may be a view. \throws Error as `resize`, for
/// `ResizeMode::exact` when the size is another, and for `ResizeMode::resize_crop` when its side is shorter than the wanted
/// size.
at::Tensor resize_to_fit(const at::Tensor& images, ResizeMode fit, std::int64_t height, std::int64_t width);

}  // namespace refine::data

namespace refine::data::detail {

inline void check_sizes(const at::Tensor& images, std::int64_t height, std::int64_t width) {
  if (images.dim() != 4 || images.size(1) < 1 || images.size(2) < 1 || images.size(3) < 1) {
    throw Error("cannot resize a tensor of {} dimensions or without pixels; give images as N×C×H×W",
                images.dim());
  }
  if (height < 1 || width < 1) {
    throw Error("cannot resize images to {} x {} pixels; ask for 1 x 1 or more", width, height);
  }
}

}  // namespace refine::data::detail

namespace refine::data {

inline at::Tensor resize(const at::Tensor& images, std::int64_t height, std::int64_t width) {
  detail::check_sizes(images, height, width);
  if (images.size(0) == 0) return images.new_empty({0, images.size(1), height, width});
  if (images.size(2) == height && images.size(3) == width) return images;
  return at::_upsample_bilinear2d_aa(images, {height, width}, /*align_corners=*/false);
}

inline at::Tensor resize_to_fit(const at::Tensor& images, ResizeMode fit, std::int64_t height,
                                std::int64_t width) {
  detail::check_sizes(images, height, width);
  const std::int64_t h = images.size(2), w = images.size(3);
  if (fit == ResizeMode::exact && (h != height || w != width)) {
    throw Error("images of {} x {} pixels are not {} x {}; resize them (Fit::crop or Fit::stretch)", w, h,
                width, height);
  }
  if (fit.kind != ResizeMode::Kind::crop) return resize(images, height, width);
  const auto begin = [](std::int64_t spare) { return spare / 2 + (spare % 2) * (spare / 2 % 2); };
  const auto middle = [&](const at::Tensor& larger) {
    return larger.narrow(2, begin(larger.size(2) - height), height)
        .narrow(3, begin(larger.size(3) - width), width);
  };
  if (const std::int64_t side = fit.shorter_side; side != 0) {
    if (side < std::max(height, width)) {
      throw Error("cannot crop {} x {} pixels from images resized to {}; resize them to {} or more", width,
                  height, side, std::max(height, width));
    }
    return middle(h <= w ? resize(images, side, side * w / h) : resize(images, side * h / w, side));
  }
  const bool by_height = height * w >= width * h;  // the side that decides: the other one has some to spare
  const at::Tensor covering =
      by_height ? resize(images, height, height * w / h) : resize(images, width * h / w, width);
  return middle(covering);
}

}  // namespace refine::data
