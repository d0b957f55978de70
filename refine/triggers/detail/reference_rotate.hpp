#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>

#include <cmath>
#include <cstdint>
#include <numbers>
#include <vector>

#include <refine/core/check.hpp>
#include <refine/core/error.hpp>
#include <refine/data/dataset.hpp>
#include <refine/triggers/trigger.hpp>

namespace refine::triggers {

namespace detail {

/// Returns the source of each pixel of a rotated H×W image, y·W + x, or -1 if it lies outside:
/// int64 H·W. Computed as Pillow's `Image.rotate` (nearest) does, in 16.16 fixed point.
inline at::Tensor rotated_pixels(std::int64_t height, std::int64_t width, double degrees) {
  const auto rounded = [](double v) { return std::round(v * 1e15) / 1e15; };
  const auto fixed = [](double v) { return static_cast<std::int64_t>(std::floor(v * 65536 + 0.5)); };
  const double angle = -degrees * std::numbers::pi / 180;
  const double cosine = rounded(std::cos(angle)), sine = rounded(std::sin(angle));
  const double cx = static_cast<double>(width) / 2, cy = static_cast<double>(height) / 2;
  const double left = cosine * -cx + sine * -cy + cx, top = -sine * -cx + cosine * -cy + cy;
  const std::int64_t along = fixed(cosine), across = fixed(sine), back = fixed(-sine);
  const std::int64_t x0 = fixed(left + cosine * 0.5 + sine * 0.5),
                     y0 = fixed(top - sine * 0.5 + cosine * 0.5);
  at::Tensor sources = at::empty({height * width}, at::kLong);
  auto* out = sources.mutable_data_ptr<std::int64_t>();
  for (std::int64_t y = 0; y < height; ++y) {
    for (std::int64_t x = 0; x < width; ++x) {
      const std::int64_t i = (x0 + along * x + across * y) >> 16, j = (y0 + back * x + along * y) >> 16;
      *out++ = i >= 0 && i < width && j >= 0 && j < height ? j * width + i : -1;
    }
  }
  return sources;
}

}  // namespace detail

/// BATT as the authors' code computes it, for comparing metrics with theirs. `Rotate` is what the
/// paper describes.
///
/// The authors' code scales the *normalised* image by 255, converts it to bytes that wrap at 256,
/// rotates it, divides by 255, and gives the result to the network as if it were normalised. Here
/// the result becomes an image again: mean + deviation · result. `stamp` rounds that to bytes.
/// After normalisation, one byte of the image is about five of the authors' levels (1/deviation),
/// so the levels are reproduced to within two and a half.
///
/// \tparam kImage shape of the images; open extents are set by `.image`
template <ImageShape kImage = ImageShape{}>
struct ReferenceRotate {
  static constexpr ImageShape static_image = kImage;  ///< what is known of the shape at compile time

  ImageShape image = kImage;                                 ///< shape of the images; an open extent fits any
  double degrees = 16;                                       ///< angle, counter-clockwise, in [-180, 180]
  std::vector<double> mean = {0.4914, 0.4822, 0.4465};       ///< one a channel, in the images' order
  std::vector<double> deviation = {0.2023, 0.1994, 0.2010};  ///< one a channel, positive

  /// Returns images that the network's normalisation turns into the input of the authors' network.
  /// They are in [0, 1] if mean + deviation is at most 1.
  ///
  /// \param images float N×C×H×W in [0, 1]
  /// \throws Error if the images' shape is not `image`, or a field is out of range
  at::Tensor apply(const at::Tensor& images) const {
    require_agreement(check_shape(image, data::image_shape_of(images)));
    if (!(degrees >= -180 && degrees <= 180)) {
      throw Error("ReferenceRotate.degrees must be in [-180, 180], got {}", degrees);
    }
    const auto channels = static_cast<std::size_t>(images.size(1));
    if (mean.size() != channels || deviation.size() != channels) {
      throw Error(
          "ReferenceRotate needs one mean and one deviation a channel (got {} means and {} deviations for {} channels)",
          mean.size(), deviation.size(), channels);
    }
    for (const double d : deviation) {
      if (!(d > 0)) throw Error("ReferenceRotate.deviation must be positive, got {}", d);
    }
    const auto per_channel = [&](const std::vector<double>& v) {
      return at::tensor(v).to(at::kFloat).view({1, -1, 1, 1}).to(images.device());
    };
    const at::Tensor shift = per_channel(mean), scale = per_channel(deviation);
    // Truncation, then floor division: bytes wrap as in two's complement.
    const at::Tensor bytes = ((images - shift) / scale * 255).trunc().remainder(256);
    const at::Tensor sources =
        detail::rotated_pixels(images.size(2), images.size(3), degrees).to(images.device());
    const at::Tensor rotated =
        bytes.flatten(2).index_select(2, sources.clamp(0)).mul_(sources.ge(0)).view_as(images).div_(255);
    return rotated.mul_(scale).add_(shift);
  }
};

}  // namespace refine::triggers
