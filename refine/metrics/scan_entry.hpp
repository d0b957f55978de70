#pragma once

#include <cstddef>
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
  std::int64_t images() const {
    std::int64_t sum = 0;
    for (const Lift& lift : before) sum += lift.n;
    return before.size() < 2 ? 0 : sum / static_cast<std::int64_t>(before.size() - 1);
  }

  friend bool operator==(const ScanEntry&, const ScanEntry&) = default;
};

/// The lift of every class c, without labels: over the images that the victim itself does not call c. Each
/// class has its own `n`, and at the victim nothing is c without the trigger. The three spans speak of the
/// same images in the same order.
/// \param own the victim's own clean predictions
/// \throws Error when the lengths differ or a class lies outside [0, classes)
inline std::vector<Lift> scan_lifts(Labels own, Labels clean, Labels triggered, int classes) {
  require_labels("the victim's predictions", own, own.size(), classes);
  require_labels("the clean predictions", clean, own.size(), classes);
  require_labels("the triggered predictions", triggered, own.size(), classes);
  std::vector<Lift> lifts(static_cast<std::size_t>(classes));
  for (int c = 0; Lift & lift : lifts) {
    lift.cls = c++;
    lift.n = static_cast<std::int64_t>(own.size());
  }
  const auto at = [&](std::int64_t cls) -> Lift& { return lifts[static_cast<std::size_t>(cls)]; };
  for (std::size_t i = 0; i < own.size(); ++i) {
    --at(own[i]).n;
    const bool changed = clean[i] != triggered[i];
    if (triggered[i] != own[i]) {
      ++at(triggered[i]).with_trigger;
      if (changed) ++at(triggered[i]).gained;
    }
    if (clean[i] != own[i]) {
      ++at(clean[i]).without_trigger;
      if (changed) ++at(clean[i]).lost;
    }
  }
  return lifts;
}

/// The lift of the largest share, the lowest class among equals; those over no images count for nothing.
/// Unlike `largest_lift`, for lifts over different images. Of none, a lift over no images.
inline Lift strongest(const std::vector<Lift>& lifts) {
  Lift best;
  for (const Lift& lift : lifts) {
    if (lift.n > 0 && (best.n == 0 || lift.value() > best.value())) best = lift;
  }
  return best;
}

}  // namespace refine::metrics
