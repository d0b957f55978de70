#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include <refine/core/random.hpp>

namespace refine::detail {

/// Clean images, divided by their purpose.
struct DividedImages {
  at::Tensor fitted;                    ///< the transform is fitted on these
  at::Tensor calibration;               ///< the alarm is calibrated on these
  at::Tensor measured;                  ///< the defense is measured on these
  std::int64_t calibration_groups = 0;  ///< groups of near-duplicates among the images of `calibration`
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

/// Holds back images for calibration and measuring. The others stay in the tensor's memory, whose
/// last images take the places of those that are held back.
DividedImages hold_back(const at::Tensor& images, std::uint64_t seed);

}  // namespace refine::detail

#if !defined(REFINE_COMPILED_LIB)
#include <refine/defend/impl/defend.ipp>
#endif
