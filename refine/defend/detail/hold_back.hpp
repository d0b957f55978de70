#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include <refine/core/random.hpp>

namespace refine::detail {

/// Images that are taken out of a tensor, whose last ones take their places: it may be larger than
/// memory. They are put back when this object is destroyed.
class TakenImages {
 public:
  /// \param images uint8 N×C×H×W, written to
  /// \param places different ones, in [0, N)
  TakenImages(at::Tensor images, const std::vector<std::int64_t>& places);
  TakenImages(const TakenImages&) = delete;
  TakenImages& operator=(const TakenImages&) = delete;
  ~TakenImages();

  /// Returns copies of the images that were taken out, in the order of their places.
  const at::Tensor& taken() const { return taken_; }

  /// Returns the others, in the tensor's memory.
  const at::Tensor& left() const { return left_; }

 private:
  at::Tensor images_, places_, taken_, left_;
};

/// Clean images, divided by their purpose.
struct DividedImages {
  TakenImages held_back;                ///< calibration, then measured
  std::int64_t calibration_groups = 0;  ///< groups of near-duplicates among the images of `calibration()`

  /// Returns the images that the transform is fitted on.
  const at::Tensor& fitted() const { return held_back.left(); }

  /// Returns the images that the alarm is calibrated on.
  at::Tensor calibration() const { return held_back.taken().chunk(2)[0]; }

  /// Returns the images that the defense is measured on.
  at::Tensor measured() const { return held_back.taken().chunk(2)[1]; }
};

/// Returns the number of images that are held back for each purpose.
/// \throws Error if there are too few images
std::int64_t held_back_each(std::int64_t images);

/// Images that are held back, drawn at random.
struct HeldBack {
  std::vector<std::int64_t> places = {};  ///< calibration, then measured
  std::int64_t calibration_groups = 0;    ///< of near-duplicates
};

/// Draws the images that are held back, group by group: near-duplicates of an image that is held back
/// must not be trained on, or the alarm would be calibrated on images that the transform knows. A part's
/// last group may be cut, and so is one that would fill more than an eighth of it.
HeldBack draw_held_back(const at::Tensor& images, std::uint64_t seed);

/// Holds back images for calibration and measuring.
DividedImages hold_back(const at::Tensor& images, std::uint64_t seed);

}  // namespace refine::detail

#if !defined(REFINE_COMPILED_LIB)
#include <refine/defend/impl/defend.ipp>
#endif
