#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace refine::data {

/// Random changes of training images, applied in this order: resized crop, padded crop, flip,
/// brightness, affine (rotation, translation and scale at once), grayscale, mix. The defaults
/// change nothing and cost nothing.
struct Augmentation {
  bool flip = false;     ///< mirror each image left to right with probability 1/2
  int crop_padding = 0;  ///< black pixels added on each side before a random crop of the old size
  /// (0, 1]: torchvision's RandomResizedCrop of scale [this, 1] and ratio 3/4–4/3; 1: off
  double resized_crop_min_scale = 1.0;
  double grayscale = 0.0;  ///< [0, 1]: share of images that become grey (ITU-R 601 luma)
  /// [0, 1]: share of images that are mixed with another of their batch, whose weight is 0 to 1/2
  /// (`zhang2018mixup`). For a teacher that labels any image, where images are few.
  double mix = 0.0;
  double rotation = 0.0;    ///< degrees, [0, 180]: each image turns by up to this in either direction
  double translate = 0.0;   ///< [0, 1]: each image moves by up to this share of a side in either direction
  double scale_min = 1.0;   ///< smallest zoom factor, above 0
  double scale_max = 1.0;   ///< largest zoom factor; pixels outside the image are black
  double brightness = 0.0;  ///< [0, 1]: each image is multiplied by a factor from 1 − this to 1 + this

  /// True if all fields are equal.
  friend bool operator==(const Augmentation&, const Augmentation&) = default;

  /// Checks the fields.
  /// \throws Error if a field is out of its range
  void validate() const;

  /// True if rotation, translation or scale changes anything.
  bool has_affine() const;
};

/// Changes each image of a batch at random.
///
/// Determinism: all draws are made on the host and depend only on `seed` and the position in the
/// batch. Flip, padded crop and grayscale give the same pixels on every device.
/// \param images float N×C×H×W in [0, 1], on any device; grayscale requires C = 3
/// \param augmentation the changes
/// \param seed of this batch
/// \return images of the same shape, device and memory format
/// \throws Error if a field is out of its range, or grayscale is requested for images that are not
///   RGB
at::Tensor augment(const at::Tensor& images, const Augmentation& augmentation, std::uint64_t seed);

/// Images that are a part of a batch, in cyclic order: each is followed by the next one of the batch.
struct BatchRows {
  std::int64_t total = 0;     ///< images of the batch
  at::Tensor positions = {};  ///< int64 on the host: the place in the batch of each image of the part
};

/// Changes a part of a batch as the whole batch would be changed. Where images are mixed, the first
/// image of the part is mixed with the last one, not with the one before it in the batch.
/// \param images float N×C×H×W, the part
/// \param augmentation the changes
/// \param seed of the batch
/// \param rows the place of the part, N positions
/// \return as the other overload
/// \throws Error as the other overload
at::Tensor augment(const at::Tensor& images, const Augmentation& augmentation, std::uint64_t seed,
                   const BatchRows& rows);

/// Mixes data that belongs to the images of a batch, such as a teacher's outputs, as `augment`
/// mixes the images.
/// \param rows float N×K, a row for each image
/// \param augmentation the changes of the images
/// \param seed the seed that `augment` was called with
/// \return the mixed rows; `rows` if nothing is mixed
at::Tensor mix_rows(const at::Tensor& rows, const Augmentation& augmentation, std::uint64_t seed);

}  // namespace refine::data

#if !defined(REFINE_COMPILED_LIB)
#include <refine/data/impl/augmentation.ipp>
#endif
