#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string_view>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/core/random.hpp>

namespace refine::data {

/// What happens to training images before the network sees them: resized crop, padded crop, flip, brightness,
/// affine (rotation, translation and scale at once), grayscale, mix, in this order. Each is off where not
/// asked for, and then costs nothing.
struct Augmentation {
  bool flip = false;                    ///< left to right, every other image by chance
  int crop_padding = 0;                 ///< so many black pixels around, then a random crop of the old size
  double resized_crop_min_scale = 1.0;  ///< torchvision's RandomResizedCrop, scale [this, 1], ratio 3/4–4/3
  double grayscale = 0.0;               ///< the share of images that lose their colours (ITU-R 601 luma)
  /// The share of images that are mixed with another of their batch, which weighs 0 to 1/2 (Zhang et al.,
  /// 2018, `zhang2018mixup`): for a teacher that labels any image, where there are few.
  double mix = 0.0;
  double rotation = 0.0;    ///< degrees; each image turns by up to so many either way, about its centre
  double translate = 0.0;   ///< share of a side, up to 1; each image moves by up to so much either way
  double scale_min = 1.0;   ///< the least factor of an image's size, above 0
  double scale_max = 1.0;   ///< the largest; what lies outside the image is black
  double brightness = 0.0;  ///< each image is multiplied by a factor from 1 − this to 1 + this

  friend bool operator==(const Augmentation&, const Augmentation&) = default;

  /// \throws Error when a field is out of its range.
  void validate() const;

  /// Whether rotation, translation or scale changes anything.
  bool affine() const;
};

namespace detail {

/// The draws of one kind of change: none moves another's.
struct ScopedTorchSeed {
  Random random;

  ScopedTorchSeed(std::uint64_t seed, std::string_view purpose) : random(derived_seed(seed, purpose)) {}

  double between(double low, double high) { return low + (high - low) * uniform_unit(random); }
  std::int64_t below(std::int64_t bound);
};

struct CropBox {
  std::int64_t top = 0, left = 0, height = 0, width = 0;
};

/// torchvision's rule: ten tries at a box of that area and ratio, or else all of the image with its ratio
/// clamped.
CropBox random_resized_box(ScopedTorchSeed& draws, std::int64_t height, std::int64_t width, double min_scale);

/// How one image is turned, moved and scaled: clockwise degrees, whole pixels to the right and down, factor.
struct Move {
  double degrees = 0;
  std::int64_t right = 0, down = 0;
  double scale = 1;
};

/// As torchvision's `RandomAffine` draws it: translations are whole pixels.
Move random_move(ScopedTorchSeed& draws, const Augmentation& how, std::int64_t height, std::int64_t width);

/// Image i by the i-th move: scaled and turned about its centre, then moved; the nearest pixel, black
/// outside.
at::Tensor moved(const at::Tensor& images, const std::vector<Move>& moves);

/// λ·x + (1−λ)·(the image before it in the batch), λ from [1/2, 1]; N×… of any shape.
at::Tensor mixed(const at::Tensor& images, double share, std::uint64_t seed);

}  // namespace detail

/// Changes each image of a batch by draws of its own. `images`: float N×C×H×W in [0, 1] on any device
/// (grayscale needs C = 3); the result is of the same shape, device and memory format.
///
/// Determinism: all draws are made on the host and depend on `seed` and a position in the batch alone; flip,
/// padded crop and grayscale give the same pixels on every device. \throws Error when a field is out of its
/// range or grayscale meets images that are not RGB.
at::Tensor augment(const at::Tensor& images, const Augmentation& augmentation, std::uint64_t seed);

/// What belongs to the images of a batch, float N×K, mixed as `augment` mixes those images by the same seed:
/// a teacher's answers, say. The same where nothing is mixed.
at::Tensor mix_rows(const at::Tensor& rows, const Augmentation& augmentation, std::uint64_t seed);

}  // namespace refine::data

#if !defined(REFINE_COMPILED_LIB)
#include <refine/data/impl/augmentation.ipp>
#endif
