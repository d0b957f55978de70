#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/ger.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <numeric>
#include <vector>

#include <refine/core/check.hpp>
#include <refine/core/error.hpp>
#include <refine/core/task.hpp>
#include <refine/data/dataset.hpp>
#include <refine/triggers/trigger.hpp>

/// \file
/// Triggers that add one faint pattern to every image.

namespace refine::triggers {

/// Adds a horizontal sinusoid to every row and channel (SIG; Barni et al., 2019, `barni2019sig`).
///
/// \tparam kImage shape of the images; open extents are set by `.image`
template <ImageShape kImage = ImageShape{}>
struct Sinusoid {
  static constexpr ImageShape static_image = kImage;  ///< what is known of the shape at compile time

  ImageShape image = kImage;      ///< shape of the images; an open extent fits any
  double amplitude = 20.0 / 255;  ///< of the sinusoid, in [0, 1]
  double periods = 6;             ///< number of periods over the width, positive

  /// Returns x + amplitude·sin(2π·periods·column/W) for each image x, clamped to [0, 1].
  ///
  /// \param images float N×C×H×W in [0, 1]
  /// \throws Error if a field is out of range or the images' shape is not `image`
  at::Tensor apply(const at::Tensor& images) const {
    require_agreement(check_shape(image, data::image_shape_of(images)));
    if (!(amplitude >= 0 && amplitude <= 1)) {
      throw Error("Sinusoid.amplitude must be in [0, 1], got {}", amplitude);
    }
    if (!(periods > 0 && std::isfinite(periods))) {
      throw Error("Sinusoid.periods must be positive and finite, got {}", periods);
    }
    const auto width = images.size(3);
    const at::Tensor column = at::arange(width, images.options());
    const double step = 2 * std::numbers::pi * periods / static_cast<double>(width);
    return (images + (column * step).sin() * amplitude).clamp(0, 1);
  }
};

/// A coefficient of the discrete cosine transform: the number of half periods over a block.
struct Coefficient {
  int row = 0;     ///< from top to bottom, in [0, window)
  int column = 0;  ///< from left to right, in [0, window)
};

/// Adds to coefficients of the discrete cosine transform of each block (FTrojan; Wang et al., 2022,
/// `wang2022ftrojan`).
///
/// Colour images are changed in their two chroma channels (Cb and Cr of Rec. 601, which the authors'
/// code calls U and V), others in all channels. Since transform and colours are linear, this adds one pattern to the image.
///
/// \tparam kImage shape of the images; open extents are set by `.image`
template <ImageShape kImage = ImageShape{}>
struct Frequency {
  static constexpr ImageShape static_image = kImage;  ///< what is known of the shape at compile time

  ImageShape image = kImage;           ///< shape of the images, fully known
  int window = default_window(image);  ///< pixels a side of a block; divides height and width
  double magnitude = 20.0 / 255;       ///< what is added to a coefficient of the orthonormal transform
  /// The coefficients: by default, the middle and the highest frequency.
  std::vector<Coefficient> coefficients = {{window / 2 - 1, window / 2 - 1}, {window - 1, window - 1}};

  /// Returns the images with the changed coefficients, clamped to [0, 1].
  ///
  /// \param images float N×C×H×W in [0, 1]
  /// \throws Error if a field is out of range or the images' shape is not `image`
  at::Tensor apply(const at::Tensor& images) const {
    require_agreement(check_shape(image, data::image_shape_of(images)));
    if (window < 2 || image.height % window != 0 || image.width % window != 0) {
      throw Error("Frequency.window must be at least 2 and divide height and width (got {} for {}x{} pixels)",
                  window, image.height, image.width);
    }
    if (!(std::abs(magnitude) <= window)) {
      throw Error("Frequency.magnitude must be at most the window (got {}, window {})", magnitude, window);
    }
    at::Tensor block = at::zeros({window, window}, at::kDouble);
    for (const auto& [row, column] : coefficients) {
      if (row < 0 || row >= window || column < 0 || column >= window) {
        throw Error("Frequency.coefficients must be in [0, window) (got {}, {} for a window of {})", row,
                    column, window);
      }
      block += at::ger(cosine(row), cosine(column)) * magnitude;
    }
    const at::Tensor pattern =
        block.repeat({image.height / window, image.width / window}).unsqueeze(0) * channel_weights();
    return (images + pattern.to(images.device(), images.scalar_type())).clamp(0, 1);
  }

 private:
  /// Returns the largest side of at most 32 pixels that divides both extents.
  static int default_window(const ImageShape& image) {
    Message why;
    if (image.channels < 1 || image.height < 2 || image.width < 2) {
      why << "Frequency needs a fully known image shape of at least 2x2 pixels, got " << image
          << "; set .image = ImageShape{3, 32, 32}";
    }
    require_agreement(why);
    int window = std::min(32, std::gcd(image.height, image.width));
    while (image.height % window != 0 || image.width % window != 0) --window;
    return window;
  }

  /// Returns the basis vector of a frequency: double, `window` values, of norm 1.
  at::Tensor cosine(int frequency) const {
    const double n = window;
    const at::Tensor x = at::arange(window, at::kDouble) + 0.5;
    return (x * (std::numbers::pi * frequency / n)).cos() * std::sqrt((frequency == 0 ? 1 : 2) / n);
  }

  /// Returns how much each channel changes if Cb and Cr both change by 1: double C×1×1.
  at::Tensor channel_weights() const {
    if (image.channels != 3) return at::ones({image.channels, 1, 1}, at::kDouble);
    // Y = 0.299 R + 0.587 G + 0.114 B stays; Cb = 0.5 (B − Y) / 0.886, Cr = 0.5 (R − Y) / 0.701.
    constexpr double red = 2 * 0.701, blue = 2 * 0.886, green = -(0.299 * red + 0.114 * blue) / 0.587;
    return at::tensor({red, green, blue}, at::kDouble).view({3, 1, 1});
  }
};

/// Adds the same values to every image, such as those of a universal perturbation (`attacks/pgd.hpp`).
///
/// \tparam kImage shape of the images; open extents are set by `.image`
template <ImageShape kImage = ImageShape{}>
struct Perturbation {
  static constexpr ImageShape static_image = kImage;  ///< what is known of the shape at compile time

  ImageShape image = kImage;  ///< shape of the images; an open extent fits any
  at::Tensor values = {};     ///< what is added: float C×H×W
  /// Multiplies the values on test images, finite. Training images of `attacks::CleanLabel` and `attacks::Covered`, which
  /// stamp parts, get them once (Zeng et al., 2023, `zeng2023narcissus`).
  double magnification = 1;

  /// Returns what training images get.
  std::vector<Perturbation> parts() const { return {{.image = image, .values = values}}; }

  /// Returns x + magnification·values for each image x, clamped to [0, 1].
  ///
  /// \param images float N×C×H×W in [0, 1]
  /// \throws Error if `values` are not of the images' shape, or that is not `image`
  at::Tensor apply(const at::Tensor& images) const {
    require_agreement(check_shape(image, data::image_shape_of(images)));
    if (!values.defined() || !at::isFloatingType(values.scalar_type()) ||
        values.sizes() != images.sizes().slice(1)) {
      throw Error(
          "Perturbation.values must be floating-point, of the shape of an image; take them from "
          "UniversalPerturbation");
    }
    if (!std::isfinite(magnification))
      throw Error("Perturbation.magnification must be finite, got {}", magnification);
    return (images + magnification * values.to(images.device(), images.scalar_type())).clamp(0, 1);
  }
};

}  // namespace refine::triggers
