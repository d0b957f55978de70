#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/_upsample_bilinear2d_aa.h>
#include <ATen/ops/adaptive_avg_pool2d.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/upsample_bicubic2d.h>

#include <algorithm>
#include <cstdint>

#include <refine/core/error.hpp>

namespace refine::data {

/// How an image of another size is made to fit: `ResizeMode::exact`, `crop`, `stretch` or
/// `resize_crop(256)`.
struct ResizeMode {
  /// The kinds of mode.
  enum class Kind : std::uint8_t {
    exact,    ///< another size is an error
    crop,     ///< the image is resized with its aspect ratio kept, and its centre is cropped
    stretch,  ///< the image is resized to the target height and width, whatever its aspect ratio
  };

  Kind kind = Kind::exact;  ///< what happens to an image of another size
  /// For `crop`: the size to which the shorter side is resized before the centre is cropped, in
  /// pixels; 0: just large enough to cover the target
  int shorter_side = 0;

  static const ResizeMode exact;    ///< refuses images of another size
  static const ResizeMode crop;     ///< resizes just enough to cover the target, then crops the centre
  static const ResizeMode stretch;  ///< resizes without regard to the aspect ratio

  /// Returns the mode of torchvision's `Resize(shorter_side)` and `CenterCrop`. Images of the
  /// target size are resized too.
  static constexpr ResizeMode resize_crop(int shorter_side) { return {Kind::crop, shorter_side}; }

  /// True if both fields are equal.
  friend constexpr bool operator==(const ResizeMode&, const ResizeMode&) = default;
};

inline constexpr ResizeMode ResizeMode::exact{ResizeMode::Kind::exact, 0};
inline constexpr ResizeMode ResizeMode::crop{ResizeMode::Kind::crop, 0};
inline constexpr ResizeMode ResizeMode::stretch{ResizeMode::Kind::stretch, 0};

/// What happens to a file that cannot be decoded, or that has the wrong size.
enum class OnDecodeError : std::uint8_t {
  fail,  ///< an `Error` that names the file is thrown
  skip,  ///< the file is left out, and a line gives the reason
};

namespace detail {

inline void check_sizes(const at::Tensor& images, std::int64_t height, std::int64_t width) {
  if (images.dim() != 4) throw Error("resize: images must be N×C×H×W, got {} dimensions", images.dim());
  if (images.size(1) < 1 || images.size(2) < 1 || images.size(3) < 1) {
    throw Error("resize: images must have pixels, got {}×{}×{}", images.size(1), images.size(2),
                images.size(3));
  }
  if (height < 1 || width < 1) {
    throw Error("resize: the target must be at least 1 x 1 pixels, got {} x {}", width, height);
  }
}

}  // namespace detail

/// Resizes images with antialiased bilinear interpolation, as torchvision's `Resize` does on
/// tensors.
/// \param images N×C×H×W: float on any device, or uint8 on the host (rounded between the two
///   passes, as Pillow does)
/// \param height target height in pixels, at least 1
/// \param width target width in pixels, at least 1
/// \return images of the same type; `images` itself if it has the target size
/// \throws Error if `images` has other dimensions or no pixels, or a target size is less than 1
inline at::Tensor resize(const at::Tensor& images, std::int64_t height, std::int64_t width) {
  detail::check_sizes(images, height, width);
  if (images.size(0) == 0) return images.new_empty({0, images.size(1), height, width});
  if (images.size(2) == height && images.size(3) == width) return images;
  return at::_upsample_bilinear2d_aa(images, {height, width}, /*align_corners=*/false);
}

/// Shrinks images to half of their height and width, by the mean of each area, and enlarges them again with
/// bicubic interpolation. Little is left of patterns as fine as two pixels.
/// \param images uint8 N×C×H×W
/// \return uint8 N×C×H×W
/// \throws Error if `images` has other dimensions or no pixels
inline at::Tensor at_half_resolution(const at::Tensor& images) {
  detail::check_sizes(images, 1, 1);
  const std::int64_t height = images.size(2), width = images.size(3);
  const auto half = [](std::int64_t extent) { return std::max<std::int64_t>(extent / 2, 1); };
  at::Tensor result = at::empty_like(images);
  constexpr std::int64_t part = 256;  // as floats, images take four times the memory
  for (std::int64_t first = 0; first < images.size(0); first += part) {
    const std::int64_t count = std::min(part, images.size(0) - first);
    const at::Tensor small =
        at::adaptive_avg_pool2d(images.narrow(0, first, count).to(at::kFloat), {half(height), half(width)});
    result.narrow(0, first, count)
        .copy_(
            at::upsample_bicubic2d(small, {height, width}, /*align_corners=*/false).round_().clamp_(0, 255));
  }
  return result;
}

/// Makes images fit a size by a given mode.
///
/// For a square target, `ResizeMode::crop` is torchvision's `Resize(size)` and `CenterCrop(size)`,
/// including its rounding: the longer side is rounded down, and a centre between two pixels goes to
/// the even one.
/// \param images N×C×H×W, as for `resize`
/// \param mode what happens to images of another size
/// \param height target height in pixels, at least 1
/// \param width target width in pixels, at least 1
/// \return images of the target size; may be a view of `images`
/// \throws Error as `resize` does, for `ResizeMode::exact` if the size differs, and for
///   `ResizeMode::resize_crop` if its side is shorter than the target
inline at::Tensor resize_to_fit(const at::Tensor& images, ResizeMode mode, std::int64_t height,
                                std::int64_t width) {
  detail::check_sizes(images, height, width);
  const std::int64_t h = images.size(2), w = images.size(3);
  if (mode == ResizeMode::exact && (h != height || w != width)) {
    throw Error("images: wrong size (got {} x {} pixels, expected {} x {}); use ResizeMode::crop or stretch",
                w, h, width, height);
  }
  if (mode.kind != ResizeMode::Kind::crop) return resize(images, height, width);
  // Rounds half to even, as Python's round() does in torchvision's CenterCrop.
  const auto offset = [](std::int64_t excess) { return excess / 2 + (excess % 2) * (excess / 2 % 2); };
  const auto centre = [&](const at::Tensor& larger) {
    return larger.narrow(2, offset(larger.size(2) - height), height)
        .narrow(3, offset(larger.size(3) - width), width);
  };
  if (const std::int64_t side = mode.shorter_side; side != 0) {
    if (side < std::max(height, width)) {
      throw Error(
          "resize: cannot crop {} x {} pixels from images whose shorter side is {}; resize it to {} or more",
          width, height, side, std::max(height, width));
    }
    return centre(h <= w ? resize(images, side, side * w / h) : resize(images, side * h / w, side));
  }
  const bool height_decides = height * w >= width * h;  // the width is then cropped
  const at::Tensor covering =
      height_decides ? resize(images, height, height * w / h) : resize(images, width * h / w, width);
  return centre(covering);
}

}  // namespace refine::data
