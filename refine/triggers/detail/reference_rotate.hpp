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

/// Where each pixel of a turned H×W image comes from, y·W + x; -1 for outside. As Pillow's `Image.rotate`
/// (nearest) computes it, in 16.16 fixed point.
inline at::Tensor turned_pixels(std::int64_t height, std::int64_t width, double degrees) {
  const auto rounded = [](double v) { return std::round(v * 1e15) / 1e15; };
  const auto fixed = [](double v) { return static_cast<std::int64_t>(std::floor(v * 65536 + 0.5)); };
  const double angle = -degrees * std::numbers::pi / 180;
  const double cosine = rounded(std::cos(angle)), sine = rounded(std::sin(angle));
  const double cx = static_cast<double>(width) / 2, cy = static_cast<double>(height) / 2;
  const double left = cosine * -cx + sine * -cy + cx, top = -sine * -cx + cosine * -cy + cy;
  const std::int64_t along = fixed(cosine), across = fixed(sine), back = fixed(-sine);
  const std::int64_t x0 = fixed(left + cosine * 0.5 + sine * 0.5),
                     y0 = fixed(top - sine * 0.5 + cosine * 0.5);
  at::Tensor from = at::empty({height * width}, at::kLong);
  auto* to = from.mutable_data_ptr<std::int64_t>();
  for (std::int64_t y = 0; y < height; ++y) {
    for (std::int64_t x = 0; x < width; ++x) {
      const std::int64_t i = (x0 + along * x + across * y) >> 16, j = (y0 + back * x + along * y) >> 16;
      *to++ = i >= 0 && i < width && j >= 0 && j < height ? j * width + i : -1;
    }
  }
  return from;
}

}  // namespace detail

/// BATT as the reference implementation computes it, for figures that are to be compared with its own: the
/// *normalised* image is scaled by 255, cut to bytes that wrap around at 256, turned, divided by 255, and
/// then goes into the network as if it were normalised. Here that is an image again: mean + deviation times
/// it. `stamp` rounds that to bytes of the image; after normalising, a byte of the image is about five of the
/// reference's (1/deviation), so that its levels come back to within two and a half. `Rotate` is what the
/// paper means.
template <ImageShape kImage = ImageShape{}>
struct ReferenceRotate {
  static constexpr ImageShape static_image = kImage;

  ImageShape image = kImage;                                 ///< any, where it is left open
  double degrees = 16;                                       ///< counter-clockwise, -180 to 180
  std::vector<double> mean = {0.4914, 0.4822, 0.4465};       ///< one a channel, in the images' order
  std::vector<double> deviation = {0.2023, 0.1994, 0.2010};  ///< one a channel, above 0

  /// Float N×C×H×W in [0, 1] → what the network's normalisation turns into the reference's input; in [0, 1]
  /// where mean + deviation is at most 1. \throws Error when the images are of another shape, or a field is
  ///   out of its range
  at::Tensor apply(const at::Tensor& images) const {
    require_agreement(check_shape(image, data::image_of(images)));
    if (!(degrees >= -180 && degrees <= 180)) {
      throw Error("a rotation by {} degrees was asked for; it is -180 to 180", degrees);
    }
    const auto channels = static_cast<std::size_t>(images.size(1));
    if (mean.size() != channels || deviation.size() != channels) {
      throw Error(
          "the rotation has {} means and {} deviations, the images have {} channels; give one "
          "a channel",
          mean.size(), deviation.size(), channels);
    }
    for (const double d : deviation) {
      if (!(d > 0)) throw Error("a deviation of the rotation is {}; deviations are above 0", d);
    }
    const auto constant = [&](const std::vector<double>& v) {
      return at::tensor(v).to(at::kFloat).view({1, -1, 1, 1}).to(images.device());
    };
    const at::Tensor shift = constant(mean), scale = constant(deviation);
    // Floor division of the truncated number: bytes wrap as in two's complement.
    const at::Tensor bytes = ((images - shift) / scale * 255).trunc().remainder(256);
    const at::Tensor from =
        detail::turned_pixels(images.size(2), images.size(3), degrees).to(images.device());
    const at::Tensor turned =
        bytes.flatten(2).index_select(2, from.clamp(0)).mul_(from.ge(0)).view_as(images).div_(255);
    return turned.mul_(scale).add_(shift);
  }
};

}  // namespace refine::triggers
