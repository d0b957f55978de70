#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/_upsample_bilinear2d_aa.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/replication_pad2d.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/upsample_bilinear2d.h>
#include <ATen/ops/zeros_like.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <memory>
#include <numbers>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/data/dataset.hpp>
#include <refine/transforms/transform.hpp>

/// \file
/// Defenses that change the image before the victim sees it and train nothing. Each is a
/// `transforms::Transform`:
///
///     auto defense = Pipeline{baselines::ShrinkPad<task.image>{}, freeze(victim), remaps::None<task>{}};

namespace refine::baselines {

/// Shrinks the image and puts it at a random place on black (ShrinkPad; Li et al., 2021,
/// `li2021physical`).
///
/// The place is drawn from the seed and the sum of the pixels: the same image always gives the same
/// answer.
///
/// \tparam kImage shape of the images; open extents are set by `.image`
template <ImageShape kImage = ImageShape{}>
struct ShrinkPad {
  static constexpr ImageShape static_image = kImage;  ///< what is known of the shape at compile time

  ImageShape image = kImage;          ///< shape of the images; an open extent fits any
  int pixels = 4;                     ///< by which height and width shrink, from 0 to below the shorter side
  std::uint64_t seed = default_seed;  ///< seed of the places
  /// Empty: nothing is trained.
  std::shared_ptr<torch::nn::Module> module = std::make_shared<torch::nn::Module>("ShrinkPad");

  /// Returns the shrunk images, interpolated bilinearly, with black around them.
  ///
  /// \param images float N×C×H×W in [0, 1]
  /// \throws Error if `pixels` is out of range
  at::Tensor forward(const at::Tensor& images) const {
    const std::int64_t height = images.size(2) - pixels, width = images.size(3) - pixels;
    if (pixels < 0 || height < 1 || width < 1) {
      throw Error("ShrinkPad.pixels must be at least 0 and below the shorter side (got {} for {}x{} pixels)",
                  pixels, images.size(2), images.size(3));
    }
    const at::Tensor shrunk = at::upsample_bilinear2d(images, {height, width}, /*align_corners=*/false);
    const at::Tensor sums = data::to_bytes(images).to(at::kLong).sum({1, 2, 3}).to(at::kCPU);
    at::Tensor padded = at::zeros_like(images);
    for (std::int64_t i = 0; i < images.size(0); ++i) {
      Random random(derived_seed(seed, "place", static_cast<std::uint64_t>(sums[i].item<std::int64_t>())));
      const auto bound = static_cast<std::uint64_t>(pixels) + 1;
      const auto top = static_cast<std::int64_t>(uniform_below(random, bound));
      const auto left = static_cast<std::int64_t>(uniform_below(random, bound));
      padded[i].narrow(1, top, height).narrow(2, left, width).copy_(shrunk[i]);
    }
    return padded;
  }
};

/// Blurs the image with a Gaussian kernel, one of the transformations that are compared as defenses
/// by Qiu et al. (2021, `qiu2021deepsweep`).
///
/// \tparam kImage shape of the images; open extents are set by `.image`
template <ImageShape kImage = ImageShape{}>
struct Blur {
  static constexpr ImageShape static_image = kImage;  ///< what is known of the shape at compile time

  ImageShape image = kImage;  ///< shape of the images; an open extent fits any
  double sigma = 1;           ///< standard deviation in pixels, in (0, 100]
  /// Empty: nothing is trained.
  std::shared_ptr<torch::nn::Module> module = std::make_shared<torch::nn::Module>("Blur");

  /// Returns the blurred images. The kernel reaches 3·sigma; pixels outside repeat the edge.
  ///
  /// \param images float N×C×H×W in [0, 1]
  /// \throws Error if `sigma` is out of range
  at::Tensor forward(const at::Tensor& images) const {
    if (!(sigma > 0 && sigma <= 100)) throw Error("Blur.sigma must be in (0, 100], got {}", sigma);
    const auto reach = static_cast<std::int64_t>(std::ceil(3 * sigma));
    const at::Tensor x = at::arange(-reach, reach + 1, at::kDouble);
    at::Tensor weights = (-(x * x) / (2 * sigma * sigma)).exp();
    weights = (weights / weights.sum()).to(images.device(), images.scalar_type());
    const std::int64_t channels = images.size(1);
    const at::Tensor padded = at::replication_pad2d(images, {reach, reach, reach, reach});
    const auto kernel = [&](at::IntArrayRef sizes) {
      return weights.view(sizes).expand({channels, 1, sizes[2], sizes[3]}).contiguous();
    };
    const std::vector<std::int64_t> one = {1, 1}, none = {0, 0};
    const auto convolve = [&](const at::Tensor& from, const at::Tensor& by) {
      return at::conv2d(from, by, {}, one, none, one, channels);
    };
    const at::Tensor rows = convolve(padded, kernel({1, 1, 1, 2 * reach + 1}));
    return convolve(rows, kernel({1, 1, 2 * reach + 1, 1})).clamp(0, 1);
  }
};

/// Scales the image down and up again, one of the transformations that are compared as defenses by
/// Qiu et al. (2021, `qiu2021deepsweep`).
///
/// \tparam kImage shape of the images; open extents are set by `.image`
template <ImageShape kImage = ImageShape{}>
struct Rescale {
  static constexpr ImageShape static_image = kImage;  ///< what is known of the shape at compile time

  ImageShape image = kImage;  ///< shape of the images; an open extent fits any
  double factor = 0.5;        ///< of the sides in between, in (0, 1]
  /// Empty: nothing is trained.
  std::shared_ptr<torch::nn::Module> module = std::make_shared<torch::nn::Module>("Rescale");

  /// Returns the images after both steps, interpolated bilinearly, with antialiasing on the way
  /// down.
  ///
  /// \param images float N×C×H×W in [0, 1]
  /// \throws Error if `factor` is out of range
  at::Tensor forward(const at::Tensor& images) const {
    if (!(factor > 0 && factor <= 1)) throw Error("Rescale.factor must be in (0, 1], got {}", factor);
    const auto side = [&](std::int64_t pixels) {
      return std::max<std::int64_t>(std::llround(factor * static_cast<double>(pixels)), 1);
    };
    const at::Tensor small = at::_upsample_bilinear2d_aa(images, {side(images.size(2)), side(images.size(3))},
                                                         /*align_corners=*/false);
    return at::upsample_bilinear2d(small, {images.size(2), images.size(3)}, /*align_corners=*/false)
        .clamp(0, 1);
  }
};

/// Removes detail as JPEG does (Dziugaite et al., 2016, `dziugaite2016jpg`): quantises the discrete
/// cosine transform of each 8×8 block, without subsampling of the colours.
///
/// \tparam kImage shape of the images; open extents are set by `.image`
template <ImageShape kImage = ImageShape{}>
struct Jpeg {
  static constexpr ImageShape static_image = kImage;  ///< what is known of the shape at compile time

  ImageShape image = kImage;  ///< shape of the images; an open extent fits any
  int quality = 75;           ///< 1 to 100, as the Independent JPEG Group's programs count it
  /// Empty: nothing is trained.
  std::shared_ptr<torch::nn::Module> module = std::make_shared<torch::nn::Module>("Jpeg");

  /// Returns the images as a decoder would, in floats: three channels as YCbCr, others as grey.
  ///
  /// \param images float N×C×H×W in [0, 1]
  /// \throws Error if `quality` is out of range
  at::Tensor forward(const at::Tensor& images) const {
    if (quality < 1 || quality > 100) throw Error("Jpeg.quality must be in [1, 100], got {}", quality);
    if (images.size(1) != 3) return (compress(images * 255 - 128, luma()) + 128).div(255).clamp(0, 1);
    const at::Tensor red = images.select(1, 0) * 255, green = images.select(1, 1) * 255,
                     blue = images.select(1, 2) * 255;
    // Rec. 601, as JFIF has it; Cb and Cr have their zero at 0 here.
    constexpr double to_cb = 0.5 / (1 - 0.114), to_cr = 0.5 / (1 - 0.299);
    const at::Tensor y = 0.299 * red + 0.587 * green + 0.114 * blue;
    const auto coded = [&](const at::Tensor& plane, const at::Tensor& table) {
      return compress(plane.unsqueeze(1), table).squeeze(1);
    };
    const at::Tensor luminance = coded(y - 128, luma()) + 128, cb = coded((blue - y) * to_cb, chroma()),
                     cr = coded((red - y) * to_cr, chroma());
    const at::Tensor r = luminance + cr / to_cr, b = luminance + cb / to_cb;
    const at::Tensor g = (luminance - 0.299 * r - 0.114 * b) / 0.587;
    return at::stack({r, g, b}, 1).div(255).clamp(0, 1);
  }

 private:
  static constexpr std::int64_t side = 8;
  using Table = std::array<int, side * side>;

  /// Quantises planes n×c×H×W; 0 is the middle of the range.
  static at::Tensor compress(const at::Tensor& planes, const at::Tensor& table) {
    const std::int64_t n = planes.size(0), c = planes.size(1), height = planes.size(2),
                       width = planes.size(3);
    const std::int64_t rows = (height + side - 1) / side, columns = (width + side - 1) / side;
    const at::Tensor padded =
        at::replication_pad2d(planes, {0, columns * side - width, 0, rows * side - height});
    const at::Tensor blocks = padded.reshape({n, c, rows, side, columns, side}).permute({0, 1, 2, 4, 3, 5});
    const at::Tensor basis = cosines().to(planes.device(), planes.scalar_type()),
                     steps = table.to(planes.device(), planes.scalar_type());
    const at::Tensor coefficients = at::matmul(at::matmul(basis, blocks), basis.t());
    const at::Tensor quantised = (coefficients / steps).round() * steps;
    return at::matmul(at::matmul(basis.t(), quantised), basis)
        .permute({0, 1, 2, 4, 3, 5})
        .reshape({n, c, rows * side, columns * side})
        .narrow(2, 0, height)
        .narrow(3, 0, width);
  }

  /// Returns the orthonormal discrete cosine transform: row k has frequency k.
  static at::Tensor cosines() {
    const at::Tensor k = at::arange(side, at::kDouble), x = k + 0.5;
    at::Tensor basis = (k.unsqueeze(1) * x * (std::numbers::pi / side)).cos() * std::sqrt(2.0 / side);
    basis[0] /= std::numbers::sqrt2;
    return basis;
  }

  /// Returns a quantisation table at `quality`: round(table · scale), from 1 to 255.
  at::Tensor scaled(const Table& table) const {
    const int percent = quality < 50 ? 5000 / quality : 200 - 2 * quality;
    std::vector<std::int64_t> steps;
    for (const int step : table) steps.push_back(std::clamp((step * percent + 50) / 100, 1, 255));
    return at::tensor(steps).view({side, side});
  }

  /// Returns the table of luminance (ITU-T T.81, table K.1).
  at::Tensor luma() const {
    return scaled({16, 11, 10, 16, 24,  40,  51,  61,  12, 12, 14, 19, 26,  58,  60,  55,
                   14, 13, 16, 24, 40,  57,  69,  56,  14, 17, 22, 29, 51,  87,  80,  62,
                   18, 22, 37, 56, 68,  109, 103, 77,  24, 35, 55, 64, 81,  104, 113, 92,
                   49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99});
  }

  /// Returns the table of chrominance (ITU-T T.81, table K.2).
  at::Tensor chroma() const {
    return scaled({17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99,
                   99, 99, 47, 66, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
                   99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99});
  }
};

}  // namespace refine::baselines
