#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <refine/metrics/labels.hpp>
#include <refine/metrics/lift.hpp>

namespace refine::metrics {

/// One guessed trigger, tried on clean images that nobody labelled.
struct ScanEntry {
  std::string trigger;            ///< in plain words: "checkerboard 3×3, bottom right"
  std::vector<Lift> before = {};  ///< the victim's, one a class
  std::vector<Lift> after = {};   ///< the defended model's
  bool local = true;              ///< changes a small part of the image, which should move no sound model

  /// How many images it was tried on: each of them counts for all classes but the victim's own.
  std::int64_t images() const;

  friend bool operator==(const ScanEntry&, const ScanEntry&) = default;
};

/// The lift of every class c, without labels: over the images that the victim itself does not call c. Each
/// class has its own `n`, and at the victim nothing is c without the trigger. The three spans speak of the
/// same images in the same order.
/// \param own the victim's own clean predictions
/// \throws Error when the lengths differ or a class lies outside [0, classes)
std::vector<Lift> scan_lifts(Labels own, Labels clean, Labels triggered, int classes);

/// The lift of the largest share, the lowest class among equals; those over no images count for nothing.
/// Unlike `largest_lift`, for lifts over different images. Of none, a lift over no images.
Lift strongest(const std::vector<Lift>& lifts);

}  // namespace refine::metrics

#if !defined(REFINE_COMPILED)
#include <refine/metrics/scan_entry_definitions.hpp>
#endif
