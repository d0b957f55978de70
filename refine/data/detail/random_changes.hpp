#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string_view>
#include <vector>

#include <refine/core/random.hpp>

namespace refine::data {

struct Augmentation;  // augmentation.hpp
struct BatchRows;

}  // namespace refine::data

// The draws and the steps of `augment`. Defined in impl/augmentation.ipp.
namespace refine::data::detail {

/// A stream of random numbers for one kind of change, independent of the other kinds.
struct RandomStream {
  Random random;

  RandomStream(std::uint64_t seed, std::string_view purpose) : random(derived_seed(seed, purpose)) {}

  /// Draws a number from [low, high).
  double between(double low, double high) { return low + (high - low) * uniform_unit(random); }

  /// Draws an integer from [0, bound).
  std::int64_t below(std::int64_t bound);
};

/// A rectangle of an image, in pixels.
struct CropBox {
  std::int64_t top = 0, left = 0, height = 0, width = 0;
};

/// Draws a box as torchvision's `RandomResizedCrop` does: ten attempts at a random area and ratio,
/// else the whole image with its ratio clamped.
CropBox random_resized_box(RandomStream& random, std::int64_t height, std::int64_t width, double min_scale);

/// How one image is rotated, scaled and translated.
struct AffineMove {
  double degrees = 0;                ///< clockwise
  std::int64_t right = 0, down = 0;  ///< whole pixels
  double scale = 1;
};

/// Draws a move as torchvision's `RandomAffine` does: translations are whole pixels.
AffineMove random_move(RandomStream& random, const Augmentation& augmentation, std::int64_t height,
                       std::int64_t width);

/// Applies the i-th move to the i-th image: scales and rotates about the centre, then translates.
/// Takes the nearest pixel; outside is black.
at::Tensor apply_moves(const at::Tensor& images, const std::vector<AffineMove>& moves);

/// Mixes a share of the rows: λ·x + (1−λ)·(the row before it in the batch), λ from [1/2, 1].
/// \param rows float N×…, of any further dimensions
/// \param part the place of the rows in the batch
at::Tensor mix_with_previous(const at::Tensor& rows, double share, std::uint64_t seed, const BatchRows& part);

}  // namespace refine::data::detail
