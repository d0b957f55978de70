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

/// Images, divided by their purpose.
struct DividedImages {
  TakenImages repeats;    ///< takes out other pictures that nearly repeat images which are held back
  TakenImages held_back;  ///< takes out calibration, measured, and what the places behind `repeats` hold
  std::int64_t each = 0;  ///< number of images that are held back for each of the two
  std::int64_t calibration_groups = 0;  ///< groups of near-duplicates among the images of `calibration()`
  std::int64_t repeated = 0;  ///< number of images held back that nearly repeat some that are fitted on
  std::int64_t extra = 0;     ///< number of other pictures that are fitted on

  /// Returns the images that the defense is fitted on: other pictures, then clean images.
  const at::Tensor& fitted() const { return held_back.left(); }

  /// Returns the clean ones of them.
  at::Tensor fitted_clean() const { return fitted().slice(0, extra); }

  /// Returns the images that the alarm is calibrated on.
  at::Tensor calibration() const { return held_back.taken().narrow(0, 0, each); }

  /// Returns the images that the defense is measured on.
  at::Tensor measured() const { return held_back.taken().narrow(0, each, each); }
};

/// Returns how many of a number of clean images are held back for each purpose.
/// \throws Error if there are too few images
std::int64_t held_back_each(std::int64_t images);

/// Images that are held back, drawn at random.
struct HeldBack {
  std::vector<std::int64_t> places = {};   ///< calibration, then measured
  std::int64_t calibration_groups = 0;     ///< of near-duplicates, each counted once
  std::int64_t repeated = 0;               ///< places of groups of which other images are not held back
  std::vector<std::int64_t> repeats = {};  ///< other pictures that nearly repeat them
};

/// Draws the images that are held back, group by group: near-duplicates of an image that is held back
/// must not be trained on, or the alarm would be calibrated on images that the transform knows. A part's
/// last group may be cut, and so is one that would fill more than an eighth of it: more of its images are drawn one by one.
/// \param extra how many of the first images are other pictures, of which none is held back
/// \throws Error if there are too few clean images
HeldBack draw_held_back(const at::Tensor& images, std::uint64_t seed, std::int64_t extra = 0);

/// Holds back images for calibration and measuring, and takes out other pictures that repeat them.
/// \param extra as for `draw_held_back`
/// \throws Error if there are too few clean images
DividedImages hold_back(const at::Tensor& images, std::uint64_t seed, std::int64_t extra = 0);

}  // namespace refine::detail

#if !defined(REFINE_COMPILED_LIB)
#include <refine/defend/impl/defend.ipp>
#endif
